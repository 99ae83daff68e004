"""Validation while training: retrieval with the weights as they are, and the training loss.

Retrieval is that of `m2kr eval`: the model in memory is a retriever, searched exactly and scored by
`m2kr.evaluation.harness.evaluate_split`. So on a whole split the scores are those that the saved
checkpoint will have. In stage 1, whose queries have no text rows (``start.text_rows``), they have none
here, either: the saved checkpoint has, and scores otherwise.

A sample of queries, and a pool of their right passages and some others, make it fast. Such a pool is
easier than the whole one, and its scores compare with none but those of the same sample: the names of
metrics say so ("of 2,000 passages").
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.data.load import Split, load
from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.metrics import choose
from m2kr.evaluation.scoring import require_judgements
from m2kr.progress import SILENT, Progress
from m2kr.retrieval.search_split import declared_modalities, require_images
from m2kr.retrievers._late_interaction import LateInteraction
from m2kr.training.right_passages import RightPassages

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from datasets import Dataset
    from numpy.typing import NDArray

    from m2kr.data.images.store import ImageStore
    from m2kr.preflmr.encode.encoder import Encoder
    from m2kr.preflmr.model.modeling import PreFLMRModel
    from m2kr.training.recipe import Recipe, Share

_METRICS = ("hit_rate@1", "hit_rate@5", "hit_rate@10")
_SEED = 0  # of samples: the same for every recipe, so that their validations compare


class ModelInMemory(LateInteraction):
    """A model whose weights still change, as a retriever; nothing of it is kept.

    Args:
        model: With tokenizers; the whole of it, on one device.
        instructions: Whether queries begin with their instruction.
    """

    name = "preflmr"
    released = ""
    instructed = True

    def __init__(self, model: "PreFLMRModel", *, instructions: bool = True) -> None:
        super().__init__(instructions=instructions)
        self._model = model

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return {"weights": "in memory", "instructions": self._instructions}

    def cache_key(self, side: Any) -> None:  # type: ignore[override] # noqa: ARG002
        """None: weights in memory have no name."""
        return

    @cached_property
    def _encoder(self) -> "Encoder":
        from m2kr.preflmr.encode.encoder import Encoder

        return Encoder(self._model, output="float16")


@dataclass(frozen=True, repr=False)
class SampledSplit(Split):
    """Some queries of a split, and its pool or a part of it.

    Attributes:
        base: The split.
        chosen_queries: Of the queries, ascending.
        chosen_passages: Of the passages, ascending; None for all.
    """

    base: Split | None = None
    chosen_queries: "NDArray[np.int64]" = field(default_factory=lambda: np.empty(0, np.int64))
    chosen_passages: "NDArray[np.int64] | None" = None

    @property
    def _whole(self) -> Split:
        assert self.base is not None
        return self.base

    @property
    def _counts(self) -> dict[str, int]:
        of_pool = (
            self._whole._counts["passages"]
            if self.chosen_passages is None
            else len(self.chosen_passages)
        )
        return {"queries": len(self.chosen_queries), "passages": int(of_pool)}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Those of the split, marked where they are of a part."""
        marks: dict[str, int] = {}
        if len(self.chosen_queries) < len(self._whole):
            marks |= dict.fromkeys(
                ("queries", "judgements", "image_paths"), len(self.chosen_queries)
            )
        if self.chosen_passages is not None:
            marks["pool"] = len(self.chosen_passages)
        if marks:
            marks["eval"] = len(self.chosen_queries)
        return {
            part: f"sample of {marks[part]}: {value}" if part in marks else value
            for part, value in self._whole.fingerprints.items()
        }

    @cached_property
    def queries(self) -> "Dataset":
        """Its query rows."""
        return _rows_in_memory(self._whole.queries, self.chosen_queries)

    @cached_property
    def passages(self) -> "Dataset":
        """Its passage rows."""
        whole, chosen = self._whole.passages, self.chosen_passages
        return whole if chosen is None else _rows_in_memory(whole, chosen)

    @cached_property
    def images(self) -> "ImageStore | None":
        """The split's."""
        return self._whole.images

    @cached_property
    def queries_view(self) -> Queries:
        """Its queries, without a fingerprint: nothing that is made of them is kept."""
        return Queries(self.queries, self.images)

    @cached_property
    def passages_view(self) -> Passages:
        """Its passages, without a fingerprint."""
        return Passages(self.passages, self.images)

    def require_unharmed(self) -> None:
        """As of the split."""
        self._whole.require_unharmed()


def _rows_in_memory(table: "Dataset", rows: "NDArray[np.int64]") -> "Dataset":
    """Rows of a table, ascending; taken batch by batch, as 32-bit offsets end at 2 GiB of text."""
    import pyarrow as pa
    from datasets import Dataset

    parts, first = [], 0
    for batch in table.data.table.to_batches():
        low, high = np.searchsorted(rows, (first, first + len(batch)))
        if high > low:
            parts.append(batch.take(pa.array(rows[low:high] - first)))
        first += len(batch)
    return Dataset(pa.Table.from_batches(parts, table.data.table.schema))


def sample(
    split: Split, rows: "NDArray[np.int64]", queries: int | None, passages: int | None
) -> SampledSplit:
    """Some of a split's queries, with a pool of their right passages and others.

    Draws have a fixed seed, so that every run and recipe gets the same.

    Args:
        split: The split.
        rows: Its queries that may be drawn.
        queries: How many are; all if None.
        passages: How many the pool has; more if there are more right ones; all if None.
    """
    rows = rows[_draw(len(rows), queries, f"{split.source}/{split.split} queries")]
    pool: NDArray[np.int64] | None = None
    total = len(split.passages_view)
    if passages is not None and passages < total:
        right = RightPassages(split)
        own = [right.rows[right.offsets[row] : right.offsets[row + 1]] for row in rows.tolist()]
        positives = np.unique(np.concatenate([*own, np.empty(0, np.int64)]))
        others = np.setdiff1d(np.arange(total), positives, assume_unique=True)
        count = max(0, passages - len(positives))
        drawn = others[_draw(len(others), count, f"{split.source}/{split.split} passages")]
        pool = np.union1d(positives, drawn).astype(np.int64)
    facts = {each.name: getattr(split, each.name) for each in fields(Split)}
    return SampledSplit(**facts, base=split, chosen_queries=rows, chosen_passages=pool)


def _draw(n: int, count: int | None, purpose: str) -> "NDArray[np.int64]":
    """``count`` different numbers below ``n``, ascending."""
    if count is None or count >= n:
        return np.arange(n)
    word = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    keys = np.random.Philox(key=np.array([_SEED, word], np.uint64)).random_raw(n)
    return np.sort(np.argsort(keys, kind="stable")[:count])


class Validator:
    """Scores a model on a recipe's validation sources, as often as it is asked to.

    Args:
        recipe: What ``validation`` says, and how queries are read.
        data_root: Where the sources are built; the default one if None.
        images: Image roots searched first.

    Raises:
        UsageError: the recipe has no validation sources, or an unknown metric.
        MissingError: a source, its judgements or its images are not there.
    """

    def __init__(
        self,
        recipe: "Recipe",
        data_root: "str | PathLike[str] | None" = None,
        images: "Sequence[str | Path]" = (),
    ) -> None:
        asked = recipe.validation
        if not asked.sources:
            raise UsageError(
                f"the recipe '{recipe.name}' has no validation sources",
                expected="validation.sources, or validation.every=0",
            )
        self._recipe = recipe
        self._metrics = list(_METRICS)
        if asked.metric != "loss":
            choose([asked.metric])
            self._metrics = list(dict.fromkeys([asked.metric, *_METRICS]))
        elif not asked.loss_queries:
            raise UsageError(
                "the best checkpoint is chosen by the loss, which is not computed",
                fix="--set validation.loss_queries=256",
            )
        self._splits = [self._opened(share, data_root, images) for share in asked.sources]

    def _opened(
        self, share: "Share", data: "str | PathLike[str] | None", images: "Sequence[str | Path]"
    ) -> SampledSplit:
        split = load(share.source, share.split, edition=share.edition, data=data, images=images)
        require_judgements(split)
        require_images(split, declared_modalities(LateInteraction))
        rows = np.arange(len(split))
        if share.take is not None:
            rows = rows[: share.take]
        return sample(
            split, rows, self._recipe.validation.queries, self._recipe.validation.passages
        )

    def facts(self) -> list[dict[str, Any]]:
        """Per source its label, queries and passages, and whether the pool is whole."""
        return [
            {
                "split": split.label,
                "queries": len(split),
                "passages": len(split.passages_view),
                "whole_pool": split.chosen_passages is None,
            }
            for split in self._splits
        ]

    def validate(
        self, model: "PreFLMRModel", step: int, progress: Progress = SILENT
    ) -> dict[str, float]:
        """Scores by name: ``mini/valid/hit_rate@5``; without a source the mean over all sources.

        Neither random states nor the modes of the model's parts are changed by it.

        Args:
            model: The whole model on one device: not one that is sharded over ranks. One rank calls
                this, the others wait.
            step: Optimiser steps so far.
            progress: Told of the stages.

        Returns:
            ``step``, the metrics, and the losses, where the recipe asks for them.
        """
        with _unchanged(model), _text_rows(model, self._recipe.start.text_rows):
            of_splits = [self._scores(model, split, progress) for split in self._splits]
        values: dict[str, float] = {"step": float(step)}
        for split, scores in zip(self._splits, of_splits, strict=True):
            values |= {f"{split.source}/{split.split}/{name}": s for name, s in scores.items()}
        for name in dict.fromkeys(name for scores in of_splits for name in scores):
            values[name] = float(np.mean([scores[name] for scores in of_splits if name in scores]))
        return values

    def _scores(
        self, model: "PreFLMRModel", split: SampledSplit, progress: Progress
    ) -> dict[str, float]:
        retriever = ModelInMemory(model, instructions=self._recipe.data.instructions != "none")
        result = evaluate_split(split, retriever, metrics=self._metrics, progress=progress)
        return {n: value for n in self._metrics if (value := result.value(n)) is not None}


@contextmanager
def _unchanged(model: "PreFLMRModel") -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards random states and modes are what they were."""
    import random

    import torch

    training = [part for part in model.modules() if part.training]
    states = random.getstate(), np.random.get_state()
    cuda = [model.device.index or 0] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices=cuda), torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for part in training:
            part.training = True


@contextmanager
def _text_rows(model: "PreFLMRModel", shown: bool) -> Iterator[None]:
    """Queries without the text's rows, where training has none."""
    config = model.config
    if not shown:
        model.config = replace(config, query_concat_output_from_text_encoder=False)
    try:
        yield
    finally:
        model.config = config
