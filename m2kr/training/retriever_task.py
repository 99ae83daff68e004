"""PreFLMR's training, as the loop is given it."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from m2kr.preflmr.encode.device_workers import compile_modules
from m2kr.preflmr.preflmr import PreFLMR
from m2kr.training.batch_encoder import BatchEncoder
from m2kr.training.loader import Loader
from m2kr.training.mixture import Mixture, open_splits
from m2kr.training.objective import Objective, StepLosses
from m2kr.training.recipe_file import dump_recipe, recipe_fingerprint
from m2kr.training.start import build_model
from m2kr.training.trained_parts import set_trained
from m2kr.training.training_state import Identity, model_files_sha256, weights_sha256

if TYPE_CHECKING:
    from torch import nn

    from m2kr.progress import Progress
    from m2kr.training.batch import TrainingBatch, Visit
    from m2kr.training.parallel import Team
    from m2kr.training.recipe import Recipe
    from m2kr.training.validation import Validator


class RetrieverTask:
    """A recipe's model on its mixture.

    Args:
        recipe: Checked.
        team: This process.
        data: The data root.
        images: Image roots searched before the sources' own.
    """

    patience: int | None = None
    ends_with_best = False

    def __init__(
        self, recipe: "Recipe", team: "Team", data: Path, images: Sequence[str | Path]
    ) -> None:
        self.recipe, self._team, self._data, self._images = recipe, team, data, images
        double = recipe.steps.precision == "float64"
        self._dtype = torch.float64 if double else torch.float32
        self.model = build_model(recipe.start, team.device, self._dtype)
        self._mixture = Mixture(recipe, open_splits(recipe, data, images))
        self._objective = Objective(recipe, team.rank, team.world)

    def identity(self) -> Identity:
        """Of recipe, data and start weights."""
        steps = self.recipe.steps
        return Identity(
            recipe_fingerprint(self.recipe),
            self._mixture.fingerprint,
            weights_sha256(self.model),
            self._team.world,
            steps.batch,
            steps.accumulate,
            model_files_sha256(self.model),
        )

    def recipe_text(self) -> str:
        """The recipe's file."""
        return dump_recipe(self.recipe)

    def facts(self) -> Mapping[str, Any]:
        """The mixture's."""
        return self._mixture.facts()

    def load(self, folder: Path) -> None:
        """Puts a checkpoint's weights into the model."""
        whole = PreFLMR.from_pretrained(folder, dtype=self._dtype)
        self.model.load_state_dict(whole.state_dict())

    def module(self, progress: "Progress") -> "nn.Module":
        """The model as a batch is encoded with it.

        What frozen parts make of texts and images may be computed here, before they are wrapped.
        """
        team = self._team
        self._loader = Loader(
            self.recipe, self._mixture, self.model, team.rank, team.world, progress=progress
        )
        set_trained(self.model, self.recipe)
        if self.recipe.steps.compile:
            compile_modules([self.model])
        return BatchEncoder(self.model, self.recipe)

    def groups(self) -> "dict[str, list[nn.Parameter]]":
        """Of `set_trained`."""
        return set_trained(self.model, self.recipe)

    def batches(self, first_step: int) -> "Generator[list[TrainingBatch]]":
        """Made ahead by threads."""
        return self._loader.steps(first_step)

    def backward(self, module: "nn.Module", batch: "TrainingBatch", scale: float) -> StepLosses:
        """By the recipe's losses."""
        return self._objective.backward(module, batch, scale)

    def described(self, batch: "TrainingBatch") -> list[dict[str, Any]]:
        """Each visit's query and passages."""
        return [self._described(visit) for visit in batch.visits]

    def _described(self, visit: "Visit") -> dict[str, Any]:
        shares = self._mixture.shares
        split = shares[visit.share].split
        return {
            "visit": visit.number,
            "source": split.label,
            "row": visit.row,
            "question_id": split.queries_view.ids[visit.row].as_py(),
            "passages": [
                {
                    "source": shares[drawn.share].split.label,
                    "row": drawn.row,
                    "passage_id": shares[drawn.share].split.passages_view.ids[drawn.row].as_py(),
                    "origin": drawn.origin,
                }
                for drawn in visit.passages
            ],
        }

    def validator(self) -> "Validator":
        """Retrieval on the recipe's validation sources."""
        from m2kr.training.validation import Validator

        return Validator(self.recipe, self._data, self._images)
