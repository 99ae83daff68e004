"""A reader's training, as the loop is given it."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from m2kr.concurrency import work_ahead
from m2kr.evaluation.result import json_sha256
from m2kr.progress import SILENT, Progress
from m2kr.rag.readers.local_model import LocalModel
from m2kr.rag.training.adapted_reader import AdaptedReader, ReaderBatch, ReaderInputs
from m2kr.rag.training.answer_loss import batch_loss
from m2kr.rag.training.questions import QuestionVisit, TrainingQuestions, images_of, open_questions
from m2kr.rag.training.reader_recipe import ReaderRecipe, check_reader_recipe
from m2kr.training.loop import Trained, log, train_task
from m2kr.training.recipe_file import dump_recipe, recipe_fingerprint
from m2kr.training.training_state import Identity

if TYPE_CHECKING:
    from torch import nn

    from m2kr.rag.training.reader_validation import ReaderValidator
    from m2kr.training.parallel import Team

_WORKERS = 2
_LOOKED_FOR = 10_000  # images, before training begins


def train_reader(
    recipe: ReaderRecipe,
    *,
    data: str | os.PathLike[str] | None = None,
    images: Sequence[str | Path] = (),
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    tell: Callable[[str], None] = log.info,
) -> Trained:
    """Trains an adapter, or goes on with a run that was stopped; as `m2kr.training.loop.train` does.

    The run's ``model`` is a folder in peft's layout, which `Blip2Reader` and `HfReader` take as ``adapter``:
    that of the best validation, or of the last step where nothing is validated.

    Args:
        recipe: Decides what is computed.
        data: Where its source was built; see `m2kr.paths.data_root`.
        images: Image roots searched before the source's own.
        out: Folder of runs; ``trained`` if None.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        progress: Told of steps.
        tell: Takes lines for people.

    Raises:
        CheckError: The folder holds another run, or the loss is no finite number: the batch is named.
        M2KRError: Data, weights, device or memory don't do.
    """
    check_reader_recipe(recipe)
    return train_task(ReaderTask, recipe, data, images, out, device, progress, tell)


class ReaderTask:
    """A recipe's adapter on its questions.

    Args:
        recipe: Checked.
        team: This process.
        data: The data root.
        images: Image roots searched before the source's own.
    """

    ends_with_best = True

    def __init__(
        self, recipe: ReaderRecipe, team: "Team", data: Path, images: Sequence[str | Path]
    ) -> None:
        self.recipe, self._team = recipe, team
        self.patience = recipe.validation.patience
        self._questions, self._held = open_questions(recipe, data, images)
        precision = recipe.steps.precision
        self._source = LocalModel(
            recipe.reader.model,
            "the reader",
            revision=recipe.reader.revision,
            dtype="bfloat16" if precision == "bfloat16" else "float32",
            device=str(team.device),
        )
        self._inputs = ReaderInputs(self._source, recipe)
        if self._inputs.sees:
            for each in (self._questions, self._held):
                _look_for_images(each)
        double = precision == "float64"
        self.model = AdaptedReader(self._source, recipe, torch.float64 if double else torch.float32)

    def identity(self) -> Identity:
        """Of recipe, data and the model's files."""
        steps, facts = self.recipe.steps, self._source.facts()
        parts = [each.fingerprint for each in (self._questions, self._held) if each is not None]
        return Identity(
            recipe_fingerprint(self.recipe),
            json_sha256(parts),
            json_sha256({key: facts.get(key) for key in ("files_sha256", "revision")}),
            self._team.world,
            steps.batch,
            steps.accumulate,
        )

    def recipe_text(self) -> str:
        """The recipe's file."""
        return dump_recipe(self.recipe)

    def facts(self) -> Mapping[str, Any]:
        """The questions', and what is adapted."""
        return {
            "trained": self._questions.facts(),
            "validated": None if self._held is None else self._held.facts(),
            "adapted_layers": len(self.model.adapted),
            "sees_images": self._inputs.sees,
        }

    def load(self, folder: Path) -> None:
        """Puts a checkpoint's adapter into the model."""
        self.model.restore(folder)

    def module(self, progress: Progress) -> "nn.Module":
        """The model."""
        del progress
        return self.model

    def groups(self) -> "dict[str, list[nn.Parameter]]":
        """The adapters, which are matrices: there are no norms or biases among them."""
        return {"lora": [each for each in self.model.parameters() if each.requires_grad]}

    def batches(self, first_step: int) -> Generator[list[ReaderBatch]]:
        """Made ahead by threads, in order."""
        micro: list[ReaderBatch] = []
        ahead = work_ahead(self._visits(first_step), self._batch, workers=_WORKERS)
        try:
            for batch in ahead:
                micro.append(batch)
                if len(micro) == self.recipe.steps.accumulate:
                    yield micro
                    micro = []
        finally:
            ahead.close()

    def backward(self, module: "nn.Module", batch: ReaderBatch, scale: float) -> dict[str, float]:
        """By the recipe's loss."""
        loss = batch_loss(self.recipe, module(batch), batch)
        torch.autograd.backward(loss * scale)
        return {"loss": float(loss.detach())}

    def described(self, batch: ReaderBatch) -> list[dict[str, Any]]:
        """Each question with its passages and targets."""
        label = self._questions.split.label
        return [
            {
                "visit": each.number,
                "source": label,
                "row": each.row,
                "question_id": each.question_id,
                "passages": [{"passage_id": p.passage_id, "score": p.score} for p in each.passages],
                "targets": list(each.targets),
            }
            for each in batch.visits
        ]

    def validator(self) -> "ReaderValidator":
        """Answers to the questions held out."""
        from m2kr.rag.training.reader_validation import ReaderValidator

        assert self._held is not None
        return ReaderValidator(self.recipe, self._held, self._inputs)

    def _visits(self, first_step: int) -> Iterator[list[QuestionVisit]]:
        steps, team = self.recipe.steps, self._team
        for step in range(first_step, steps.steps):
            for micro in range(steps.accumulate):
                place = (step * steps.accumulate + micro) * team.world + team.rank
                numbers = range(place * steps.batch, (place + 1) * steps.batch)
                yield [self._questions.visit(number) for number in numbers]

    def _batch(self, visits: Sequence[QuestionVisit]) -> ReaderBatch:
        return self._inputs.batch(visits, images_of(self._questions, visits, self._inputs.sees))


def _look_for_images(questions: TrainingQuestions | None) -> None:
    """Forgotten images are told before the first step, not after an hour."""
    if questions is None or questions.split.images is None:
        return
    rows = questions.rows
    places = np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_FOR)).astype(int)
    paths = questions.split.queries_view.column("img_path")
    questions.split.images.require([paths[row] for row in rows[places].tolist()])
