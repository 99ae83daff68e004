"""How long work reports its progress; `m2kr.progress_bars` draws it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told of named tasks. Calls may come from several threads."""

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        """A task begins; ``total`` units (bytes by default) if known."""
        ...

    def advance(self, name: str, n: int) -> None:
        """``n`` more units are done; means nothing of a task that has not begun."""
        ...

    def done(self, name: str) -> None:
        """A task is complete."""
        ...


class _Silent:
    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        pass

    def advance(self, name: str, n: int) -> None:
        pass

    def done(self, name: str) -> None:
        pass


SILENT: Progress = _Silent()  # of a caller that wants none


@contextmanager
def task(progress: Progress, name: str, total: int | None, unit: str = "rows") -> Iterator[None]:
    """Reports that a task begins and, if all goes well, that it is over."""
    progress.start(name, total, unit)
    yield
    progress.done(name)
