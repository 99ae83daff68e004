"""A progress that keeps what it is told."""


class Recorder:
    """Calls in order: ``("start", name, total)``, ``("advance", name, n)``, ``("done", name, 0)``."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        self.calls.append(("start", name, total or 0))

    def advance(self, name: str, n: int) -> None:
        self.calls.append(("advance", name, n))

    def done(self, name: str) -> None:
        self.calls.append(("done", name, 0))

    def advanced(self) -> int:
        """Units of all tasks together."""
        return sum(n for call, _, n in self.calls if call == "advance")
