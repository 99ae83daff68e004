"""The run whose passages a reader gets: opened, and held against the split that is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import CheckError, MissingError, UsageError
from m2kr.progress import SILENT, Progress
from m2kr.retrieval.cache import cache_folder
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.retrieval.search_split import MissingQueries, checked_run, search_split
from m2kr.retrievers import create, names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from m2kr.data.load import Split

_REPLAY = "run:"


@dataclass(frozen=True, slots=True)
class UsedRun:
    """A run whose passages are read.

    Attributes:
        name: In tables.
        file: Name of the file; "" if it was none.
        sha256: Of its rankings.
        run: In the split's order of queries, no deeper than asked for.
        rows: Of each passage of its vocabulary the row in the pool.
        recorded: What it tells of its making.
        notes: What must be said of it.
    """

    name: str
    file: str
    sha256: str
    run: Run
    rows: "NDArray[np.int64]"
    recorded: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Which it is, as JSON values."""
        return {"name": self.name, "file": self.file, "sha256": self.sha256}


def use_run(
    given: str | Path | Run,
    split: "Split",
    k: int,
    *,
    settings: Mapping[str, str] | None = None,
    missing_queries: MissingQueries = "error",
    progress: Progress = SILENT,
) -> UsedRun:
    """A run for a split.

    Args:
        given: A run; a run file, a pattern of one, or a result that has its run beside it; or a retriever's
            name (or class), which then searches.
        split: The split.
        k: Passages that are needed of each query.
        settings: The retriever's.
        missing_queries: What queries that it lacks lead to.
        progress: Told of a search.

    Raises:
        MissingError: there is no such file.
        UsageError: no such retriever, or the run was made less than k deep.
        InputError: the file is no run.
        CheckError: it has queries or passages that the split lacks, or lacks queries.
    """
    retriever = RunRetriever(given) if isinstance(given, Run) else _retriever(str(given), settings)
    if isinstance(retriever, RunRetriever):
        run, file = retriever.run, retriever.file
    else:
        cache = cache_folder(split.folder.parent)
        run, file = search_split(split, retriever, k=k, cache=cache, progress=progress).run, ""
    where = f"run '{retriever.name}' on {split.label}"
    if run.depth is not None and run.depth < k:
        raise UsageError(
            f"{k} passages a query are asked for, and the run was made {run.depth} deep",
            where=where,
            fix=f"--k {run.depth}, or evaluate its retriever again with --k {k}",
        )
    cut, lacking = checked_run(split, run, k, missing_queries)
    rows = split.passages_view.row_numbers(cut.vocabulary)
    if unknown := [cut.vocabulary[int(place)].as_py() for place in (rows < 0).nonzero()[0][:3]]:
        raise CheckError(
            f"{int((rows < 0).sum()):,} passages are not in the corpus, such as "
            + ", ".join(map(repr, unknown)),
            where=where,
            expected="passages of the pool that the split is searched in",
            fix="check that source, split and edition are those that the run was made for",
        )
    notes = [*_notes(run, split, k, int(cut.counts().max(initial=0)))]
    if lacking:
        notes.append(f"the run '{retriever.name}' lacks {lacking:,} queries: no passages there")
    return UsedRun(retriever.name, file, run.sha256(), cut, rows, dict(run.recorded), tuple(notes))


def _notes(run: Run, split: "Split", k: int, longest: int) -> list[str]:
    made_on = run.recorded.get("fingerprints", {})
    notes = [
        f"the run '{run.name}' was made for other {what} than {split.label} has"
        for part, what in (("pool", "passages"), ("queries", "queries"))
        if made_on.get(part) and made_on[part] != split.fingerprints[part]
    ]
    if run.depth is None and longest < k:
        notes.append(
            f"the longest list of the run '{run.name}' has {longest} passages, fewer than {k}"
        )
    return notes


def _retriever(spec: str, settings: Mapping[str, str] | None) -> Any:
    """What replays a run file, or searches."""
    if not spec.startswith(_REPLAY):
        path = Path(spec).expanduser()
        named = spec.strip().lower().replace("-", "_") in names() or ":" in spec
        there = path.exists() or any(path.parent.glob(path.name))
        if not there and not named and spec == path.stem:
            raise MissingError(
                "there is no such run file, and no retriever of that name",
                where=spec,
                expected=f"a run file, or one of {', '.join(names())}",
            )
        if there or not named:
            spec = _REPLAY + spec
    if spec == _REPLAY:
        raise UsageError("no run is named", expected="--run FILE, or a retriever's name")
    return create(spec, settings)
