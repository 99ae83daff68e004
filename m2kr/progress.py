"""How long work reports its progress; only the command line draws it."""

from typing import Protocol


class Progress(Protocol):
    """Told of named tasks. Calls may come from several threads."""

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        """A task begins; ``total`` units (bytes by default) if known."""
        ...

    def advance(self, name: str, n: int) -> None:
        """``n`` more units are done."""
        ...

    def done(self, name: str) -> None:
        """A task is complete."""
        ...


class Silent:
    """The progress of a caller that does not want any."""

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        """Nothing."""

    def advance(self, name: str, n: int) -> None:
        """Nothing."""

    def done(self, name: str) -> None:
        """Nothing."""
