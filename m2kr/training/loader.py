"""Batches of a mixture, made ahead of the model."""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from m2kr.concurrency import work_ahead
from m2kr.errors import UsageError
from m2kr.preflmr.encode.batching import RowBatch
from m2kr.progress import SILENT, Progress
from m2kr.training.batch import TrainingBatch, Visit
from m2kr.training.frozen_features import FrozenFeatures
from m2kr.training.model_inputs import ModelInputs
from m2kr.training.right_passages import plain

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr.preflmr import PreFLMR
    from m2kr.training.mixture import Mixture
    from m2kr.training.recipe import Recipe

_WORKERS = 2


class Loader:
    """The batches that one rank trains on.

    Where the recipe says ``keep_frozen``, what frozen parts make of images and texts is computed now, or
    found on disk; see `m2kr.training.frozen_features`.

    Args:
        recipe: Its ``data`` and ``steps`` are read.
        mixture: Says which visits there are.
        model: With tokenizers. Its vision network is used where it has no encoder of its own.
        rank: Of ``world``.
        world: Number of ranks.
        progress: Told of frozen features that are computed.

    Raises:
        InputError: The model has no tokenizers.
        UsageError: Numbers are out of range, or frozen features would be too big.
        MissingError: A source's images are not there.
    """

    def __init__(
        self,
        recipe: "Recipe",
        mixture: "Mixture",
        model: "PreFLMR",
        rank: int = 0,
        world: int = 1,
        *,
        progress: Progress = SILENT,
    ) -> None:
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} of {world}", expected="a rank below the number of ranks")
        if recipe.steps.batch < 1 or recipe.steps.accumulate < 1:
            raise UsageError(
                f"steps.batch is {recipe.steps.batch}, steps.accumulate {recipe.steps.accumulate}",
                expected="1 or more",
            )
        self._recipe, self._mixture = recipe, mixture
        self._rank, self._world = rank, world
        self._inputs = ModelInputs(recipe, mixture, model)
        self._own_vision = model.config.use_vision_encoder
        self._frozen: FrozenFeatures | None = None
        if recipe.data.keep_frozen:
            self._frozen = FrozenFeatures(recipe, mixture, model, self._inputs, progress)

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
        inputs, shares = self._inputs, self._mixture.shares
        queries = inputs.query_tokens([(each.share, each.row) for each in visits])
        query_ids, query_attended = RowBatch(inputs.query_width(queries[0]), queries).tensors(0)
        drawn = [each for visit in visits for each in visit.passages]
        passages = inputs.passage_tokens([(each.share, each.row) for each in drawn])
        width = max(map(inputs.passage_width, passages))
        passage_ids, passage_attended = RowBatch(width, passages).tensors(inputs.pad)
        texts = [shares[each.share].texts[each.row] for each in drawn]
        frozen = self._frozen
        return TrainingBatch(
            query_ids,
            query_attended,
            passage_ids,
            passage_attended,
            passage_keys=torch.tensor([*map(_key, texts)]),
            positive_keys=self._positive_keys(visits),
            **self._images(visits),
            teacher_scores=self._teacher_scores(visits),
            query_text=None if frozen is None else frozen.query_text(visits, query_ids.shape[1]),
            passage_text=None if frozen is None else frozen.passage_text(drawn, width),
            visits=tuple(visits),
        )

    def _images(self, visits: Sequence[Visit]) -> "dict[str, Tensor]":
        if not self._inputs.sees:
            return {}
        if self._frozen is not None and self._frozen.images is not None:
            return self._frozen.images.of(visits)._asdict()
        pixels = torch.cat([self._inputs.pixels(each.share, each.row) for each in visits])
        if self._own_vision:
            return {"pixel_values": pixels}
        return self._inputs.features(pixels)._asdict()

    def _teacher_scores(self, visits: Sequence[Visit]) -> "Tensor | None":
        teachers, pool_of = self._mixture.teachers, self._mixture.pool_of
        if teachers is None:
            return None
        scores = np.full((len(visits), len(visits[0].passages)), np.nan, np.float32)
        for own, visit in zip(scores, visits, strict=True):
            teacher = teachers[visit.share]
            # It may know its own split's pool, and nothing of the others'.
            known = [
                place
                for place, each in enumerate(visit.passages)
                if pool_of[each.share] == pool_of[visit.share]
            ]
            row = self._mixture.labelled_by(visit.share, visit.row)
            own[known] = teacher.scores(row, [visit.passages[n].row for n in known])
        return torch.from_numpy(scores)

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
    digest = hashlib.blake2b(plain(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
