"""The search layer's progress, told through the one function that an evaluation reports to."""

from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2kr.retrieval.encoder import Progress


class Steps:
    """A `m2kr.progress.Progress` that calls a function with task, units done and units in all.

    Tasks whose end isn't known are not reported.

    Args:
        report: The function; None for silence.
    """

    def __init__(self, report: "Progress | None") -> None:
        self._report = report
        self._tasks: dict[str, tuple[int, int]] = {}
        self._lock = Lock()

    def start(self, name: str, total: int | None, unit: str = "B") -> None:  # noqa: ARG002
        """A task begins."""
        if self._report and total:
            with self._lock:
                self._tasks[name] = 0, total
                self._report(name, 0, total)

    def advance(self, name: str, n: int) -> None:
        """``n`` more units are done."""
        with self._lock:
            if self._report and name in self._tasks:
                done, total = self._tasks[name]
                # Its end is for `done` to tell.
                done = min(done + n, total - 1)
                self._tasks[name] = done, total
                self._report(name, done, total)

    def done(self, name: str) -> None:
        """A task is complete."""
        with self._lock:
            if self._report and name in self._tasks:
                total = self._tasks.pop(name)[1]
                self._report(name, total, total)
