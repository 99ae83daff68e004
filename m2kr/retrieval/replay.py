"""A saved run in a retriever's place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2kr.data.records import Passages, Queries
from m2kr.retrieval.protocol import Modalities, RetrieverBase, RunStats
from m2kr.retrieval.run import Run


class RunRetriever(RetrieverBase):
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

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Does nothing: the ranking is already made."""

    def search(self, queries: Queries, k: int) -> Run:  # noqa: ARG002
        """The whole run as it was saved. Queries that it lacks stay lacking."""
        return self.run

    def run_stats(self) -> RunStats:
        """How the ranking was searched for, as the run recorded it."""
        recorded = self.run.recorded.get("search")
        return RunStats(search=recorded if isinstance(recorded, Mapping) else None)
