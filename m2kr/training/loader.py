"""Batches of a mixture, made ahead of the model, just as evaluation makes its queries and passages."""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from m2kr.concurrency import work_ahead
from m2kr.errors import InputError, M2KRError, UsageError
from m2kr.instructions import TEMPLATES
from m2kr.preflmr.encode.batching import RowBatch
from m2kr.preflmr.encode.queries_and_passages import Passage, PassageEncoder, Query, QueryEncoder
from m2kr.preflmr.inputs.image_input import ImageSource
from m2kr.preflmr.model.image_features import ImageFeatures
from m2kr.retrievers._queries import query_text
from m2kr.training.batch import TrainingBatch, Visit

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr import PreFLMR
    from m2kr.training.mixture import Mixture
    from m2kr.training.recipe import Recipe

#: The instruction of all queries where ``data.instructions`` is ``fixed``: M2KR's first for questions
#: with an image.
FIXED_INSTRUCTION = TEMPLATES["iq2t"].templates[0]
_WORKERS = 2


class Loader:
    """The batches that one rank trains on.

    Args:
        recipe: Its ``data`` and ``steps`` are read.
        mixture: Says which visits there are.
        model: With tokenizers. Its vision network is used where it has no encoder of its own.
        rank: Of ``world``.
        world: Number of ranks.

    Raises:
        InputError: The model has no tokenizers.
        UsageError: Numbers are out of range.
    """

    def __init__(
        self,
        recipe: "Recipe",
        mixture: "Mixture",
        model: "PreFLMR",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} of {world}", expected="a rank below the number of ranks")
        if recipe.steps.batch < 1 or recipe.steps.accumulate < 1:
            raise UsageError(
                f"steps.batch is {recipe.steps.batch}, steps.accumulate {recipe.steps.accumulate}",
                expected="1 or more",
            )
        queries, passages = model.query_tokenizer, model.context_tokenizer
        if queries is None or passages is None:
            raise InputError("the model has no tokenizers")
        longest = min(passages.maxlen, model.config.text_config.max_position_embeddings)
        if not 3 <= recipe.data.passage_tokens <= longest:
            raise UsageError(
                f"data.passage_tokens is {recipe.data.passage_tokens}",
                expected=f"3 to {longest}, the model's",
            )
        self._recipe, self._mixture, self._model = recipe, mixture, model
        self._rank, self._world = rank, world
        self._sight = ImageFeatures(model)
        kind = np.dtype(np.float32)
        self._queries = QueryEncoder(model, queries, self._sight, 1, kind)
        self._passages = PassageEncoder(
            model, passages, self._sight, recipe.data.passage_tokens, 1, kind
        )
        self._pad = int(passages.pieces.token_to_id("[PAD]") or 0)
        self._sees = model.config.query_concat_output_from_vision_encoder

    def steps(self, first_step: int = 0) -> Generator[list[TrainingBatch]]:
        """For each step from the first one to the recipe's last its micro-batches.

        The next ones are made by threads meanwhile; how many there are doesn't change what comes. An
        error comes where its batch would have come. Closing the generator ends the threads.
        """
        each = self._recipe.steps.accumulate
        micro: list[TrainingBatch] = []
        ahead = work_ahead(self._visits(first_step), self.batch, workers=_WORKERS)
        try:
            for batch in ahead:
                micro.append(batch)
                if len(micro) == each:
                    yield micro
                    micro = []
        finally:
            ahead.close()

    def visits_of(self, step: int, micro: int = 0) -> range:
        """Numbers of the visits of a micro-batch of this rank."""
        size = self._recipe.steps.batch
        place = (step * self._recipe.steps.accumulate + micro) * self._world + self._rank
        return range(place * size, (place + 1) * size)

    def _visits(self, first_step: int) -> Iterator[list[Visit]]:
        for step in range(first_step, self._recipe.steps.steps):
            for micro in range(self._recipe.steps.accumulate):
                yield [self._mixture.visit(number) for number in self.visits_of(step, micro)]

    def batch(self, visits: Sequence[Visit]) -> TrainingBatch:
        """The batch of some visits, all with the same number of passages.

        Raises:
            MissingError: An image is not there.
            InputError: An image is damaged.
        """
        rows = self._rows(visits)
        queries = self._queries.tokens([*map(self._query, rows)])
        query_ids, query_attended = RowBatch(len(queries[0].ids), queries).tensors(0)
        drawn = [(visit, each) for visit in visits for each in visit.passages]
        texts = [self._mixture.shares[each.share].texts[each.row] for _, each in drawn]
        passages = self._passages.tokens([Passage(text) for text in texts])
        width = max(map(self._passages.width, passages))
        passage_ids, passage_attended = RowBatch(width, passages).tensors(self._pad)
        images: dict[str, Any] = {}
        if self._sees:
            pixels = torch.cat([self._pixels(v, row) for v, row in zip(visits, rows, strict=True)])
            if self._model.config.use_vision_encoder:
                images["pixel_values"] = pixels
            else:
                images.update(self._sight.features(self._model, pixels)._asdict())
        return TrainingBatch(
            query_ids,
            query_attended,
            passage_ids,
            passage_attended,
            passage_keys=torch.tensor([*map(_key, texts)]),
            positive_keys=self._positive_keys(visits),
            **images,
            visits=tuple(visits),
        )

    def _rows(self, visits: Sequence[Visit]) -> list[dict[str, Any]]:
        return [self._mixture.shares[v.share].split.queries_view[v.row] for v in visits]

    def _query(self, row: dict[str, Any]) -> Query:
        question, instruction = row["question"], row["instruction"]
        kind = self._recipe.data.instructions
        if kind == "none":
            return Query(query_text(question, instruction))
        return Query(question, None, FIXED_INSTRUCTION if kind == "fixed" else instruction)

    def _pixels(self, visit: Visit, row: dict[str, Any]) -> "Tensor":
        split, path = self._mixture.shares[visit.share].split, row.get("img_path")
        store = split.images
        read = partial(store.open, path) if store is not None and path is not None else lambda: None
        try:
            return ImageSource(None, read).pixels(self._sight.processor)
        except M2KRError as error:
            raise type(error)(
                error.what,
                where=f"{split.label}, query {row['question_id']!r}, image {path!r}"
                + (f", {error.where}" if error.where else ""),
                expected=error.expected,
                fix=error.fix,
            ) from None

    def _positive_keys(self, visits: Sequence[Visit]) -> "Tensor":
        keys = [
            [_key(self._mixture.shares[v.share].texts[row]) for row in self._mixture.right(v)]
            for v in visits
        ]
        filled = np.full((len(keys), max(map(len, keys))), -1, np.int64)
        for line, own in zip(filled, keys, strict=True):
            line[: len(own)] = own
        return torch.from_numpy(filled)


def _key(text: str) -> int:
    """The same for the same text, wherever it lies: passages that nobody could tell apart are one."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
