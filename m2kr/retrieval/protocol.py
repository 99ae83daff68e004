"""What a retriever is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from m2kr.retrieval.modalities import Modalities

if TYPE_CHECKING:
    from m2kr.data.records import Passages, Queries
    from m2kr.retrieval.run import Run


@runtime_checkable
class Retriever(Protocol):
    """Anything that indexes passages and answers queries with ranked ids.

    It may also have ``seconds``, a mapping (``encode document``, ``encode query``), which the
    result reports apart, ``progress`` (a `m2kr.progress.Progress`), which `evaluate` sets,
    ``reused``, rows by stage that were encoded before, ``index_bytes``, and ``searched``: how it
    searched, which becomes `Result.search`.
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
