"""A saved run in a retriever's place."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.data.records import Passages, Queries
from m2kr.retrieval.modalities import Modalities
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping


class RunRetriever:
    """Replays a run: whatever made it, it is evaluated like any retriever.

    Args:
        run: A run, or a run file (see `Run.load`).
        name: Name in tables; by default the run's own, or the file's stem.

    Attributes:
        run: The run, with what it recorded of its making in its metadata.
        file: Name of the file, if it was one.
    """

    modalities = Modalities(frozenset(), frozenset())

    def __init__(self, run: Run | str | Path, name: str | None = None) -> None:
        self.run = run if isinstance(run, Run) else Run.load(run)
        self.file = "" if isinstance(run, Run) else Path(run).name
        self.name = name or self.run.name or self.file.split(".")[0] or "run"
        self.settings: Mapping[str, Any] = self.run.recorded.get("settings", {})
        self.searched: Mapping[str, Any] | None = self.run.recorded.get("search")

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Does nothing: the ranking is already made."""

    def search(self, queries: Queries, k: int) -> Run:  # noqa: ARG002
        """The whole run as it was saved. Queries that it lacks stay lacking."""
        return self.run
