"""Trained checkpoints as systems of a study: read as one of training's ways, and computed once.

What a frozen text encoder and a frozen vision network make of a batch is the same for all systems of a
study, so this process keeps it: the second system takes a fraction of the first one's time, and has the
scores to the bit that `m2kr eval` gives it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.retrievers._memo import Memo, content_key
from m2kr.retrievers.preflmr import PreFLMRRetriever
from m2kr.training.model_inputs import FIXED_INSTRUCTION

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2kr.data.records import Passages, Queries
    from m2kr.preflmr import PreFLMR
    from m2kr.preflmr.encode.encoder import Encoder
    from m2kr.preflmr.encode.queries_and_passages import Query
    from m2kr.preflmr.model.encoders import VisionFeatures

_KEPT = Memo(limit=2 << 30)


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
        from m2kr.retrievers._models import pick_device

        model = PreFLMR.from_pretrained(self._folder, device=pick_device("auto"))
        if self._way == "unmasked":
            model.masks = replace(model.masks, instruction_end=None)
        encoder = Encoder(model, output="float16")
        if model.device.type == "cpu":
            _keep_frozen(model, encoder)
        return encoder

    def _queries(self, records: "Passages | Queries") -> "Iterator[Query]":
        for query in super()._queries(records):
            yield query._replace(instruction=FIXED_INSTRUCTION) if self._way == "fixed" else query


def _keep_frozen(model: "PreFLMR", encoder: "Encoder") -> None:
    """Lets a model take from `_KEPT` what another one with the same encoders has computed."""
    from m2kr.preflmr.model.image_features import frozen

    for part in {model.query_text_encoder, model.context_text_encoder}:
        weights = content_key(*(value.numpy().tobytes() for value in part.state_dict().values()))

        def states(
            ids: "Tensor",
            attended: "Tensor",
            begun: Any = None,
            *,
            weights: bytes = weights,
            compute: "Callable[..., Tensor]" = part.forward,
        ) -> "Tensor":
            if begun is not None:
                return compute(ids, attended, begun)
            key = content_key(weights, str(ids.shape).encode(), _bytes(ids), _bytes(attended))
            if (kept := _KEPT.get(key)) is None:
                kept = compute(ids, attended)
                _KEPT.put(key, kept, kept.nbytes)
            return kept

        _replace_method(part, "forward", states)
    if frozen(model.config) is None:
        return
    sight = encoder._sight  # its frozen network is not the model's

    def features(
        of: "PreFLMR",
        pixels: "Tensor",
        side: str = "query",
        compute: "Callable[..., VisionFeatures]" = sight.features,
    ) -> "VisionFeatures":
        key = content_key(side.encode(), str(pixels.shape).encode(), _bytes(pixels))
        if (kept := _KEPT.get(key)) is None:
            kept = compute(of, pixels, side)
            _KEPT.put(key, kept, sum(each.nbytes for each in kept))
        return kept

    _replace_method(sight, "features", features)


def _replace_method(of: "nn.Module | Any", name: str, method: Callable[..., Any]) -> None:
    object.__setattr__(of, name, method)


def _bytes(tensor: "Tensor") -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()
