"""Progress bars: on a terminal, in a notebook, and nowhere else."""

import sys
from typing import TYPE_CHECKING, Any

from m2kr.display import printable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from tqdm import tqdm

    from m2kr.progress import Progress

_WAIT = 1.0  # seconds after which a notebook, which keeps what is printed, shows a bar


def bars() -> "AbstractContextManager[Progress]":
    """Bars for whoever looks on: a notebook, or else a terminal."""
    return NotebookBars() if _in_notebook() else Bars()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Bars:
    """Progress bars on stderr; silent when stderr is no terminal.

    Works for downloads (bytes) and for rows; see `m2kr.progress.Progress`.
    """

    def __init__(self) -> None:
        self._progress: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )

            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[amount]}", markup=False),
                TimeElapsedColumn(),
                console=Console(stderr=True, highlight=False, markup=False, emoji=False),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        """A task begins; ``total`` may be unknown."""
        if self._progress and name not in self._tasks:
            self._tasks[name] = self._progress.add_task(
                printable(name), total=total, amount="", unit=unit
            )

    def advance(self, name: str, n: int) -> None:
        """``n`` more units of a task are done."""
        if self._progress and name in self._tasks:
            task = self._tasks[name]
            self._progress.advance(task, n)
            state = self._progress.tasks[self._progress.task_ids.index(task)]
            amount = _amount(state.completed, state.fields["unit"])
            if state.fields["unit"] == "answers" and state.speed:
                amount += f", {state.speed:,.1f}/s"
            self._progress.update(task, amount=amount)

    def done(self, name: str) -> None:
        """A task is complete and leaves the screen."""
        if self._progress and name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))


class NotebookBars:
    """The same in a notebook, for tasks that take more than a second; they leave nothing behind."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Any]] = {}

    def __enter__(self) -> "NotebookBars":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._bars):
            self.done(name)

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        """A task begins; ``total`` may be unknown."""
        from tqdm import tqdm

        if name not in self._bars:
            self._bars[name] = tqdm(
                desc=printable(name),
                total=total,
                unit=unit if unit == "B" else f" {unit}",
                unit_scale=unit == "B",
                leave=False,
                delay=_WAIT,
            )

    def advance(self, name: str, n: int) -> None:
        """``n`` more units of a task are done."""
        if name in self._bars:
            self._bars[name].update(n)

    def done(self, name: str) -> None:
        """A task is complete and leaves the screen."""
        if name in self._bars:
            self._bars.pop(name).close()


def size(n: float | None) -> str:
    """Bytes for people: ``1.4 GB``."""
    if n is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def _amount(n: float, unit: str) -> str:
    if unit == "microdollars":
        return f"${n / 1e6:,.4f}"
    return size(n) if unit == "B" else f"{n:,.0f} {unit}"
