"""Validation while training: retrieval with the weights as they are, and the training loss.

Retrieval is that of `m2kr eval`: the model in memory is a retriever, searched exactly and scored by
`m2kr.evaluation.harness.evaluate_split`. So on a whole split the scores are those that the saved
checkpoint will have, but for what a recipe changes in queries while it trains: queries without text
rows (stage 1) or without image rows, unmasked instructions, one instruction for all or none are here as
they are in training, and the saved checkpoint's own way scores otherwise.

A sample of queries, and a pool of their right passages and some others, make it fast. Such a pool is
easier than the whole one: its scores compare with those of the same sample alone. `Validator.facts` says
which it is.

The loss is the contrastive one over fixed visits of each source, the same for every recipe of that batch
and that many negatives, whatever its seed.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import atomic
from m2kr.data.load import Split, load
from m2kr.errors import M2KRError, MissingError, UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.metrics import choose
from m2kr.evaluation.scoring import require_judgements
from m2kr.progress import SILENT, Progress
from m2kr.retrieval.search_split import require_images
from m2kr.retrievers._late_interaction import LateInteraction
from m2kr.sources import normalise
from m2kr.training.recipe import Distillation
from m2kr.training.sampled_split import SEED, SampledSplit, sample
from m2kr.training.share_rows import ShareRows, open_share

if TYPE_CHECKING:
    from os import PathLike

    import torch
    from torch import nn

    from m2kr.data.records import Passages, Queries
    from m2kr.preflmr import PreFLMR
    from m2kr.preflmr.encode.encoder import Encoder
    from m2kr.preflmr.encode.queries_and_passages import Query
    from m2kr.preflmr.model.modeling import PreFLMRModel
    from m2kr.retrieval.protocol import Side
    from m2kr.training.recipe import Recipe, Share

logger = logging.getLogger("m2kr.training")

_MANY = 200_000  # passages
_METRICS = ("hit_rate@1", "hit_rate@5", "hit_rate@10")
_TESTED = ("okvqa",)  # its validation questions are its test's


class ModelInMemory(LateInteraction):
    """A model whose weights still change, as a retriever that asks as training does.

    Its passages' rows are known by the weights that make them; those of queries by nothing.

    Args:
        model: With tokenizers; the whole of it, on one device.
        recipe: How queries are put together.
    """

    name = "preflmr"
    released = ""
    instructed = True

    def __init__(self, model: "PreFLMRModel", recipe: "Recipe") -> None:
        super().__init__(instructions=recipe.data.instructions != "none")
        self._model, self._recipe = model, recipe

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return {"weights": "in memory", "instructions": self._recipe.data.instructions}

    def _queries(self, records: "Passages | Queries") -> "Iterator[Query]":
        from m2kr.training.model_inputs import FIXED_INSTRUCTION

        if not self._recipe.start.image_rows:
            records = replace(records, images=None)
        for query in super()._queries(records):
            fixed = self._recipe.data.instructions == "fixed"
            yield query._replace(instruction=FIXED_INSTRUCTION) if fixed else query

    def cache_key(self, side: "Side") -> dict[str, Any] | None:  # type: ignore[override]
        """The hash of what encodes passages; of queries None."""
        return {"weights": passage_weights_sha256(self._model)} if side == "document" else None

    @cached_property
    def _encoder(self) -> "Encoder":
        from m2kr.preflmr.encode.encoder import Encoder

        return Encoder(self._model, output="float16")


def passage_weights_sha256(model: "PreFLMRModel") -> str:
    """Hash (hex) of the weights that passages are encoded with: of a text encoder and its projection."""
    import torch

    total = hashlib.sha256()
    for part in (model.context_text_encoder, model.context_text_encoder_linear):
        for name, tensor in part.state_dict().items():
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


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
        chosen = [asked.metric] if asked.metric != "loss" else []
        self._metrics = list(dict.fromkeys([*chosen, *_METRICS]))
        choose(self._metrics)
        self._kept = tempfile.TemporaryDirectory(prefix="m2kr-", ignore_cleanup_errors=True)
        self._kept_by = ""
        self._splits = [self._opened(share, data_root, images) for share in asked.sources]
        self._labels = _labels(asked.sources, self._splits)
        self._losses = [
            _FixedLoss(recipe, share, split)
            for share, split in zip(asked.sources, self._splits, strict=True)
            if asked.loss_queries
        ]

    def _opened(
        self, share: "Share", data: "str | PathLike[str] | None", images: "Sequence[str | Path]"
    ) -> SampledSplit:
        place = self._recipe.validation.sources.index(share)
        try:
            split = open_share(share, f"validation.sources[{place}]", data, images)
        except MissingError as error:
            raise MissingError(
                error.what,
                where="validation.sources",
                expected=error.expected,
                fix=f"{instead_of_validation(self._recipe, data)}; or {error.fix}",
            ) from error
        require_judgements(split)
        if self._recipe.start.image_rows:
            require_images(split, LateInteraction.modalities)
        rows = np.arange(len(split))
        if share.tasks or share.where or share.take is not None:
            rows = ShareRows(share, 0, split, SEED).rows.astype(np.int64)
        asked = self._recipe.validation
        if asked.passages is None and len(split.passages_view) > _MANY:
            logger.warning(
                "each validation encodes all %s passages of %s; validation.passages has it take some",
                f"{len(split.passages_view):,}",
                split.label,
            )
        return sample(split, rows, asked.queries, asked.passages)

    def facts(self) -> list[dict[str, Any]]:
        """Per source its label, queries and passages, and whether the pool is whole."""
        return [
            {
                "name": name,
                "split": split.label,
                "queries": len(split),
                "passages": len(split.passages_view),
                "whole_pool": split.chosen_passages is None,
            }
            for name, split in zip(self._labels, self._splits, strict=True)
        ]

    @property
    def fingerprint(self) -> str:
        """Hash (hex) of the queries and pools: values of two validations compare if it is the same."""
        asked = self._recipe.validation
        facts = [
            [asdict(share) for share in asked.sources],
            [asked.queries, asked.passages, asked.loss_queries],
            [split.whole.fingerprints for split in self._splits],
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def validate(
        self, model: "PreFLMR", step: int, progress: Progress = SILENT
    ) -> dict[str, float]:
        """Scores by name: ``mini/valid/hit_rate@5``; without a source the mean over all sources.

        Neither random states nor the modes of the model's parts are changed by it.

        Args:
            model: The whole model on one device: not one that is sharded over ranks. One rank calls
                this, the others wait.
            step: Optimiser steps so far.
            progress: Told of the stages.

        Returns:
            ``step``, the metrics, and ``loss``, where the recipe asks for it.
        """
        values: dict[str, float] = {"step": float(step)}
        by_name: dict[str, list[float]] = {}
        with unchanged(model, model.device), _asked_as_trained(model, self._recipe):
            kept = self._rows_of(passage_weights_sha256(model))
            for number, split in enumerate(self._splits):
                retriever = ModelInMemory(model, self._recipe)
                result = evaluate_split(
                    split, retriever, metrics=self._metrics, cache=kept, progress=progress
                )
                scores = {name: result.value(name) for name in self._metrics}
                if self._losses:
                    scores["loss"] = self._losses[number].value(model)
                for name, value in scores.items():
                    if value is not None:
                        values[f"{self._labels[number]}/{name}"] = value
                        by_name.setdefault(name, []).append(value)
        return values | {name: float(np.mean(some)) for name, some in by_name.items()}

    def _rows_of(self, weights: str) -> Path:
        """Where passages' rows by these weights are kept, until others come: frozen ones stay."""
        folder = Path(self._kept.name, "rows")
        if weights != self._kept_by:
            atomic.discard(folder)
            self._kept_by = weights
        return folder


def instead_of_validation(recipe: "Recipe", data_root: "str | PathLike[str] | None" = None) -> str:
    """Settings to validate on sources that are trained on and built, or not at all."""
    names = []
    for share in recipe.data.sources:
        if normalise(share.source) not in _TESTED:
            with suppress(M2KRError):
                load(share.source, "valid", edition=share.edition, data=data_root)
                names.append(share.source)
    never = "--set validation.every=0"
    chosen = ",".join(dict.fromkeys(names))
    return f"--set validation.sources={chosen} or {never}" if names else never


def _labels(shares: "Sequence[Share]", splits: Sequence[Split]) -> list[str]:
    """A name for each: ``mini/valid``, with its tasks and conditions; edition or number if need be."""
    names = [
        f"{split.source}/{split.split}" + "".join(f",{word}" for word in share.tasks + share.where)
        for share, split in zip(shares, splits, strict=True)
    ]
    for more in ([split.edition for split in splits], [str(n + 1) for n in range(len(splits))]):
        names = [
            f"{name},{word}" if names.count(name) > 1 else name
            for name, word in zip(names, more, strict=True)
        ]
    return names


class _FixedLoss:
    """The contrastive loss over fixed visits of one source, in batches of the recipe's size."""

    def __init__(self, recipe: "Recipe", share: "Share", split: SampledSplit) -> None:
        from m2kr.training.mixture import Mixture

        negatives, steps, queries = recipe.negatives, recipe.steps, recipe.validation.loss_queries
        self._recipe = replace(
            recipe,
            data=replace(
                recipe.data,
                sources=(replace(share, weight=None, repeat=1),),
                shuffle_labels=False,
                keep_frozen=False,  # of a whole split, for a few queries
            ),
            negatives=replace(
                negatives,
                uniform=negatives.uniform + negatives.mined,
                mined=0,
                file=None,
                across_ranks=False,
                groups=1,
            ),
            distillation=Distillation(),
            steps=replace(steps, accumulate=1, seed=SEED, checkpoint_activations=False),
        )
        self._mixture = Mixture(self._recipe, [split.whole])
        count = min(queries, self._mixture.epoch_visits)
        size = min(steps.batch, count)
        # All of one size: with more in-batch negatives a loss is higher.
        self._visits = [
            [self._mixture.visit(n) for n in range(first, first + size)]
            for first in range(0, count - size + 1, size)
        ]

    def value(self, model: "PreFLMR") -> float:
        """Its mean."""
        from m2kr.training.batch_encoder import BatchEncoder
        from m2kr.training.loader import Loader
        from m2kr.training.objective import Objective

        loader = Loader(self._recipe, self._mixture, model)
        encoder, objective = BatchEncoder(model, self._recipe).eval(), Objective(self._recipe)
        batches = (loader.batch(visits).to(model.device) for visits in self._visits)
        return float(np.mean([objective.value(encoder, batch)["loss"] for batch in batches]))


@contextmanager
def unchanged(model: "nn.Module", device: "torch.device") -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards random states and modes are what they were."""
    import random

    import torch

    training = [part for part in model.modules() if part.training]
    states = random.getstate(), np.random.get_state()
    cuda = [device.index or 0] if device.type == "cuda" else []
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
def _asked_as_trained(model: "PreFLMRModel", recipe: "Recipe") -> Iterator[None]:
    """Queries with the rows that they have in training."""
    config, masks, start = model.config, model.masks, recipe.start
    model.config = replace(
        config,
        query_concat_output_from_text_encoder=config.query_concat_output_from_text_encoder
        and start.text_rows,
        query_concat_output_from_vision_encoder=config.query_concat_output_from_vision_encoder
        and start.image_rows,
    )
    if recipe.data.instructions == "unmasked":
        model.masks = replace(masks, instruction_end=None)
    try:
        yield
    finally:
        model.config, model.masks = config, masks
