"""What the loop is given: a model, batches by the step's number, their gradients, validation."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import Field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import nn

    from m2kr.progress import Progress
    from m2kr.training.parallel import Team
    from m2kr.training.recipe import Optimiser, Saving, Steps
    from m2kr.training.training_state import Identity


class Looks(Protocol):
    """What the loop reads of a recipe's validation; see `m2kr.training.recipe.Validation`."""

    @property
    def every(self) -> int:
        """Steps between two; never if 0."""
        ...

    @property
    def metric(self) -> str:
        """What the best checkpoint is chosen by."""
        ...


class LoopRecipe(Protocol):
    """What the loop reads of a recipe. Its dataclass has more, and all of it is logged."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str:
        """Of the run's folder."""
        ...

    @property
    def optimiser(self) -> "Optimiser":
        """AdamW and its schedule."""
        ...

    @property
    def steps(self) -> "Steps":
        """How long and in what pieces."""
        ...

    @property
    def validation(self) -> Looks:
        """What is looked at meanwhile."""
        ...

    @property
    def saving(self) -> "Saving":
        """What is kept."""
        ...


class Looking(Protocol):
    """Scores a model while it trains.

    Attributes:
        fingerprint: Of what is looked at: values compare where it is the same.
    """

    @property
    def fingerprint(self) -> str:
        """Of what is looked at."""
        ...

    def validate(self, model: Any, step: int, progress: "Progress" = ...) -> dict[str, float]:
        """Scores by name; neither random states nor the modes of the model's parts change."""
        ...


class TrainingTask(Protocol):
    """What is trained, and on what; it is made by ``kind(recipe, team, data, images)``.

    What a step is fed must be a function of its number, and of nothing that happened before.

    Attributes:
        recipe: As given.
        model: All parameters, under the names by which the optimiser's state is kept; has
            ``save_pretrained(folder)``, which writes what `load` reads.
        patience: Validations without a better one after which training ends; None trains all steps.
        ends_with_best: Whether the run's model is the best checkpoint by validation, not the last.
    """

    recipe: Any
    model: Any
    patience: int | None
    ends_with_best: bool

    def identity(self) -> "Identity":
        """What must be the same for a run to go on; asked for before anything is loaded or trained."""
        ...

    def recipe_text(self) -> str:
        """The recipe's file."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Of the data, as JSON."""
        ...

    def load(self, folder: Path) -> None:
        """Puts a checkpoint's weights into the model."""
        ...

    def module(self, progress: "Progress") -> "nn.Module":
        """What is called with a batch, with ``requires_grad`` set; processes share its gradients."""
        ...

    def groups(self) -> "dict[str, list[nn.Parameter]]":
        """The trained parameters; those of names that end in ``undecayed`` have no weight decay."""
        ...

    def batches(self, first_step: int) -> "Generator[list[Any]]":
        """For each step from the first one its micro-batches of this process."""
        ...

    def backward(self, module: "nn.Module", batch: Any, scale: float) -> dict[str, float]:
        """Adds a batch's gradients times ``scale``; gives losses by name, ``loss`` among them."""
        ...

    def described(self, batch: Any) -> list[dict[str, Any]]:
        """A batch's visits for people: ``visit, source, question_id, passages``."""
        ...

    def validator(self) -> Looking:
        """Asked for by the first process alone."""
        ...


#: Makes a task: of the recipe, this process, the data root, image roots.
TaskKind = Callable[[Any, "Team", Path, Sequence[str | Path]], TrainingTask]
