"""What commands write: tables for people, one JSON object for machines, progress on a terminal."""

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def console(*, stderr: bool = False) -> "Console":
    """A rich console; piped output is plain and as wide as it needs."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=max(made.width, 160))
    return made


def say(text: str, *, json_mode: bool = False) -> None:
    """A line for people: on stdout, or on stderr where stdout carries JSON."""
    console(stderr=json_mode).print(text, markup=False, soft_wrap=True)


def emit(obj: Any) -> None:
    """The one JSON object of a ``--json`` call."""
    sys.stdout.write(json.dumps(obj, ensure_ascii=False, sort_keys=True) + "\n")


def size(n: float | None) -> str:
    """Bytes for people: ``1.4 GB``."""
    if n is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


class Bars:
    """Progress bars on stderr; silent when stderr is no terminal.

    Works for downloads (bytes) and for rows; see `m2kr.progress.Progress`.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        if sys.stderr.isatty():
            from rich.progress import (
                BarColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )

            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[amount]}"),
                TimeElapsedColumn(),
                console=console(stderr=True),
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
            self._tasks[name] = self._progress.add_task(name, total=total, amount="", unit=unit)

    def advance(self, name: str, n: int) -> None:
        """``n`` more units of a task are done."""
        if self._progress and name in self._tasks:
            task = self._tasks[name]
            self._progress.advance(task, n)
            state = self._progress.tasks[self._progress.task_ids.index(task)]
            self._progress.update(task, amount=_amount(state.completed, state.fields["unit"]))

    def done(self, name: str) -> None:
        """A task is complete and leaves the screen."""
        if self._progress and name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))


def _amount(n: float, unit: str) -> str:
    return size(n) if unit == "B" else f"{n:,.0f} {unit}"
