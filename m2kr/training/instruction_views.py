"""A trained checkpoint whose queries' instructions are read in one of the ways that training knows."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.retrievers.preflmr import PreFLMRRetriever
from m2kr.training.model_inputs import FIXED_INSTRUCTION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from m2kr.data.records import Passages, Queries
    from m2kr.preflmr.encode.encoder import Encoder
    from m2kr.preflmr.encode.queries_and_passages import Query


class CheckpointReading(PreFLMRRetriever):
    """The retriever ``preflmr``, over a checkpoint.

    Args:
        checkpoint: Its folder.
        instructions: ``row``: each query's own, as everywhere; ``fixed``: one for all; ``none``;
            ``unmasked``: its own, and its rows count.
    """

    def __init__(self, checkpoint: Path, instructions: str = "row") -> None:
        super().__init__(checkpoint=str(checkpoint), instructions=instructions != "none")
        self._way = instructions

    @cached_property
    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = super()._facts
        if self._way in ("fixed", "unmasked"):
            return {**facts, "instructions": self._way}
        return facts

    @cached_property
    def _encoder(self) -> "Encoder":
        from m2kr.preflmr import PreFLMR
        from m2kr.preflmr.encode.encoder import Encoder

        if self._way != "unmasked":
            encoder: Encoder = super()._encoder
            return encoder
        model = PreFLMR.from_pretrained(self._folder)
        model.masks = replace(model.masks, instruction_end=None)
        return Encoder(model, output="float16")

    def _queries(self, records: "Passages | Queries") -> "Iterator[Query]":
        for query in super()._queries(records):
            yield query._replace(instruction=FIXED_INSTRUCTION) if self._way == "fixed" else query
