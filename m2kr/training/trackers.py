"""Where a run's log is shown besides ``log.jsonl``: adapters of trackers, imported when they are used."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from m2kr.errors import MissingError
from m2kr.training.training_task import LoopRecipe


class Tracker(Protocol):
    """What is told of a step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A step's figures by name."""
        ...

    def close(self) -> None:
        """The run stops here, for now or for ever."""
        ...


class TensorBoard:
    """Event files in the run's folder ``tensorboard``.

    Args:
        folder: The run's.
        step: Steps that are done; what was shown of later ones is withdrawn.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class WandB:
    """A run of the project ``m2kr`` at Weights & Biases; WANDB_PROJECT and its kin have their say.

    Args:
        name: Of the run.
        folder: Its; the folder's name is the run's id, under which a resumed one goes on.
        settings: Shown with the run.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "m2kr"),
            name=name,
            id=folder.name,
            resume="allow",
            dir=str(folder),
            config=dict(settings),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A row; wandb leaves out steps that it has already."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


class Trackio:
    """A run of the project ``m2kr`` in Trackio.

    Args:
        folder: The run's; its name is the run's there, under which a resumed one goes on.
        settings: Shown with the run.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import trackio

        with redirect_stdout(sys.stderr):  # it greets; --json alone may write there
            self._run: Any = trackio.init(
                project="m2kr", name=folder.name, resume="allow", config=dict(settings)
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Writes what is left."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


def open_trackers(
    recipe: LoopRecipe, folder: Path, step: int, settings: Mapping[str, Any]
) -> list[Tracker]:
    """The recipe's trackers.

    Args:
        recipe: Names them.
        folder: The run's.
        step: Steps that are done.
        settings: The recipe's values and the run's fingerprints, for those that show them.

    Raises:
        MissingError: A tracker's package is not installed.
    """
    openers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder, step),
        "wandb": lambda: WandB(recipe.name, folder, settings),
        "trackio": lambda: Trackio(folder, settings),
    }
    opened: list[Tracker] = []
    for name in recipe.saving.trackers:
        try:
            opened.append(openers[name]())
        except ImportError as error:
            raise MissingError(
                f"the tracker {name} needs the package '{name}', which is not installed",
                where="saving.trackers",
                fix=f"pip install {name}",
            ) from error
    return opened
