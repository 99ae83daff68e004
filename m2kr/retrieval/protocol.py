"""What a retriever is, and what it reports of its progress."""

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from m2kr.retrieval.modalities import Modalities

if TYPE_CHECKING:
    from m2kr.data.records import Passages, Queries
    from m2kr.retrieval.run import Run

# Called with the stage ("encode document"), rows done and rows in all.
Progress = Callable[[str, int, int], None]


@runtime_checkable
class Retriever(Protocol):
    """Anything that indexes passages and answers queries with ranked ids.

    It may also have ``seconds``, a mapping (``encode document``, ``encode query``), which the
    result reports apart, ``progress`` (a `Progress`), which `evaluate` sets, ``reused``, rows by
    stage that were encoded before, ``index_bytes``, and ``searched``: how it searched, which becomes
    `Result.search`.
    """

    @property
    def name(self) -> str:
        """Name in tables and file names."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that changes its scores, as JSON values; kept in the result."""
        ...

    @property
    def modalities(self) -> Modalities | Mapping[str, Any]:
        """What it reads of queries and passages; see `m2kr.retrieval.modalities.modalities_of`."""
        ...

    def index(self, passages: "Passages", *, workdir: Path) -> None:
        """Takes in the pool; files go below ``workdir``, which outlives the search."""
        ...

    def search(self, queries: "Queries", k: int) -> "Run":
        """Ranks up to ``k`` passages for every query; each query is in the run, if only with none."""
        ...


class Steps:
    """A `m2kr.progress.Progress` that calls a function with task, units done and units in all.

    Tasks whose end isn't known are not reported.

    Args:
        report: The function; None for silence.
    """

    def __init__(self, report: Progress | None) -> None:
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
