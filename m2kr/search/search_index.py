"""Searching an index of either kind or a token store by one call, and what is lost against exact search."""

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.data.row_hash import order_of
from m2kr.errors import UsageError
from m2kr.progress import SILENT, Progress
from m2kr.ranking import id_ranks
from m2kr.search import devices
from m2kr.search.index import compressed, official, official_train
from m2kr.search.index.files import IndexFiles
from m2kr.search.store import format
from m2kr.search.store.reader import TokenStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray


RECALL_AT = (1, 10, 100, 500)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Results of a search, and how they came about.

    Attributes:
        numbers: Passage numbers (queries x k), best first; -1 where there are fewer.
        scores: float64, likewise; -inf where there are fewer.
        ids: The passages' ids, by number.
        how: Settings of the search, which decide what is found; JSON values.
        cpu_seconds: Per query, all threads together; of this process alone.
        seconds: Per query.
        work: Who did it; changes nothing of what is found. JSON values.
    """

    numbers: "NDArray[np.int64]"
    scores: "NDArray[np.float64]"
    ids: "pa.ChunkedArray"
    how: dict[str, Any]
    cpu_seconds: float
    seconds: float
    work: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What to tell, without the results."""
        return {
            "queries": len(self.numbers),
            **self.how,
            **self.work,
            "seconds_per_query": self.seconds,
            "cpu_seconds_per_query": self.cpu_seconds,
        }


def search(
    folder: "Path",
    queries: "TokenStore",
    k: int,
    *,
    store: "TokenStore | None" = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Found:
    """Searches an index or a token store for the queries of a token store.

    Args:
        folder: The index, searched with the settings for ``k``; one of the kind ``official`` by the
            published protocol. Or a token store, searched exactly.
        queries: Their rows, float16.
        k: Passages a query.
        store: The index's token store: final scores are exact. Not for the official protocol.
        threads: By default as many as torch uses.
        device: Of exact search, as `devices.search`. An index is searched on the CPU.
        progress: Told of exact search.

    Raises:
        UsageError: a device or a token store is given where none is of use.
        M2KRError: as `devices.search`, `compressed.search` and `official_train.search`.
    """
    check_options(folder, store, device)
    queries.require_whole()
    if is_store(folder):
        return _exact(TokenStore.open(folder), queries, k, threads, device, progress)
    return search_files(IndexFiles.open(folder), queries, k, store=store, threads=threads)


def search_files(
    files: IndexFiles,
    queries: "TokenStore",
    k: int,
    ranks: "NDArray[np.int64] | None" = None,
    *,
    steer: "Callable[[Any], Any]" = lambda usual: usual,
    store: "TokenStore | None" = None,
    threads: int | None = None,
) -> Found:
    """`search` of an index that is open.

    Args:
        files: The index.
        queries: As there.
        k: As there.
        ranks: Per passage the rank of its id (`ranking.id_ranks`), if that is known.
        steer: Given the kind's usual settings for ``k``, `compressed.SearchSettings` or
            `official.OfficialSettings`, those to use.
        store: As there.
        threads: As there.
    """
    files.require_whole()
    ids = files.ids()
    ranks = id_ranks(ids) if ranks is None else ranks
    rows = queries.take(range(len(queries)))
    if files.settings.kind == "official":
        arrays = official_train.arrays_of(files)
        steered = steer(official.OfficialSettings.for_k(k))
        start, cpu = time.perf_counter(), time.process_time()
        numbers, scores = official_train.search(
            rows, arrays, k, ranks, settings=steered, threads=threads
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        how = {"kind": "official", "final": "compressed", **asdict(steered)}
    else:
        index = compressed.CompressedIndex(files)
        steered = steer(compressed.SearchSettings.suited(k, len(index), files.settings.nbits))
        numbers, scores, stats = compressed.search(
            rows, index, k, ranks, settings=steered, store=store, threads=threads
        )
        seconds, cpu = stats.seconds, stats.cpu_seconds
        how = {"kind": "compressed", "final": stats.final, **asdict(stats.settings)}
    count = max(1, len(rows))
    return Found(numbers, scores, ids, {"k": k, **how}, cpu / count, seconds / count)


def is_store(folder: "Path") -> bool:
    """Whether a folder says that it is a token store."""
    return (folder / format.SETTINGS).is_file()


def check_options(folder: "Path", store: "TokenStore | None", device: str) -> None:
    """Refuses what is of no use for a token store, or for an index.

    Raises:
        UsageError: a token store for a token store; or a device for an index.
    """
    if is_store(folder):
        if store is not None:
            raise UsageError(
                "this is a token store itself: its scores are exact", where=str(folder)
            )
    elif device not in ("auto", "cpu"):
        raise UsageError(
            f"an index is searched on the CPU, not on '{device}'",
            where=str(folder),
            fix="search the token store, exactly, on that device",
        )


def _exact(
    store: "TokenStore",
    queries: "TokenStore",
    k: int,
    threads: int | None,
    device: str,
    progress: Progress,
) -> Found:
    store.require_whole()
    ids, count = store.ids(), max(1, len(queries))
    numbers, scores, stats = devices.search(
        queries.take(range(len(queries))),
        store,
        k,
        id_ranks(ids),
        threads=threads,
        device=device,
        progress=progress,
    )
    work = {"device": stats.device, "passes": list(stats.passes), "scored": stats.scored}
    cpu, seconds = stats.cpu_seconds / count, stats.seconds / count
    return Found(numbers, scores, ids, exact_how(k), cpu, seconds, work)


def exact_how(k: int) -> dict[str, Any]:
    """`Found.how` of exact search."""
    return {"k": k, "kind": "exact", "final": "exact"}


def audit(found: Found, queries: "TokenStore", store: "TokenStore", count: int) -> dict[str, float]:
    """Recall against exact search of the token store, on some of the queries.

    Args:
        found: From `search`.
        queries: What was searched for.
        store: The tokens that the index was built from.
        count: Queries, spread evenly over all.

    Returns:
        By ``recall@k``: the mean share of the exact best k that are among the found best k.

    Raises:
        UsageError: the store is another pool's.
    """
    if order_of(store.ids()) != order_of(found.ids):
        raise UsageError(
            f"the token store holds {len(store)} passages, the index {len(found.ids)}, and they are "
            "not the same in one order",
            where=str(store.folder),
        )
    chosen = np.unique(np.linspace(0, len(queries) - 1, min(count, len(queries))).astype(np.int64))
    k = found.numbers.shape[1]
    true, _, _ = devices.search(queries.take(chosen), store, k)
    return {
        f"recall@{depth}": recall(found.numbers[chosen], true, depth)
        for depth in sorted({*(each for each in RECALL_AT if each < k), k})
    }


def recall(
    found: "NDArray[np.int64] | Sequence[NDArray[np.int64]]",
    true: "NDArray[np.int64]",
    depth: int,
) -> float:
    """Mean share of the true best ``depth`` that are among the found best ``depth``."""
    shares = [
        len(np.intersect1d(ours[:depth], theirs[:depth])) / max(1, len(theirs[:depth]))
        for ours, theirs in zip(found, true, strict=True)
    ]
    return float(np.mean(shares)) if shares else 1.0
