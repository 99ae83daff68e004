"""Token embeddings searched by one way in: a store exactly, an index by the kind that it is.

`search_folder` searches what lies in a folder, `search_tokens` what an evaluation has encoded, by the
mode that it chose; `audit` tells what an index loses against exact search.
"""

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from m2kr import atomic
from m2kr.data.row_hash import order_of
from m2kr.errors import CheckError, InputError, UsageError
from m2kr.progress import SILENT, Progress
from m2kr.ranking import TopK, id_ranks
from m2kr.search.config import SearchConfig
from m2kr.search.exact import reference
from m2kr.search.store.format import STORE
from m2kr.search.store.reader import TokenStore, read_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from m2kr.search.index.files import IndexFiles

logger = logging.getLogger("m2kr.search")

RECALL_AT = (1, 10, 100, 500)
_WORTH_TORCH = 10**8  # products of a query row and a token: a second's work for the reference
_REFERENCE_BYTES = 1 << 22  # of tokens, a block
T = TypeVar("T", bound=Any)


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """The passages of a search, and how they came about.

    Attributes:
        rows: Passage numbers (queries x k), best first; -1 where there are fewer.
        scores: float64, likewise; -inf where there are fewer.
        ids: The passages' ids, by number.
        how: The mode and its settings: the same for the same search. JSON values.
        stats: Who searched, and the time that a query took, as they happened to be. JSON values.
    """

    rows: "NDArray[np.int64]"
    scores: "NDArray[np.float64]"
    ids: "pa.ChunkedArray"
    how: "Mapping[str, Any]"
    stats: "Mapping[str, Any]"

    def facts(self) -> dict[str, Any]:
        """What to tell of it, without the passages."""
        return {"queries": len(self.rows), **self.how, **self.stats}


def index_for(
    store: TokenStore,
    folder: "Path",
    config: SearchConfig,
    progress: Progress = SILENT,
    *,
    spare: "Path | None" = None,
) -> "IndexFiles | None":
    """The index that a mode searches, built below ``folder`` or found there; None for ``exact``.

    Where ``folder`` may only be read and has none, it is built below ``spare``.

    Raises:
        InputError: the store has no token.
        UsageError: another process is building it, or settings make no sense.
        MissingError: torch isn't installed.
    """
    if config.mode == "exact":
        return None
    from m2kr.search.index import build
    from m2kr.search.index.settings import pool_of

    settings = config.build_settings()
    chosen = json.dumps({"kind": settings.kind, "nbits": settings.nbits, **settings.asked()})
    name = f"{settings.kind}-{settings.nbits}bit-{hashlib.sha256(chosen.encode()).hexdigest()[:8]}"
    pool = pool_of(store)
    if not atomic.writable(folder) and (folder / name).exists():
        index = build.open_built(pool, folder / name, settings)
    else:
        if not atomic.writable(folder):
            folder = spare or folder
        index = build.build_index(pool, folder / name, settings, progress=progress)
    if order_of(index.ids()) != order_of(pool.ids):
        raise CheckError("it holds other passages than the store", where=str(index.folder))
    return index


def search_tokens(
    queries: TokenStore,
    store: TokenStore,
    k: int,
    ids: "pa.ChunkedArray",
    config: SearchConfig,
    *,
    index: "IndexFiles | None" = None,
    memory: int,
    progress: Progress = SILENT,
) -> SearchResult:
    """The best ``k`` passages of every query, by the mode that was chosen.

    Args:
        queries: Their token embeddings.
        store: Those of the passages.
        k: Passages a query.
        ids: The passages' ids, which break ties.
        config: How.
        index: From `index_for`; None for exact search.
        memory: Bytes that exact search may use for its blocks.
        progress: Told of exact search's pairs.

    Raises:
        InputError: the dims differ.
        UsageError: by its first block, exact search would take more than ``max_hours``.
        CheckError: bytes of the store or the index differ from their checksum.
    """
    if queries.dim != store.dim:
        raise InputError(
            f"query vectors have {queries.dim} dimensions, passage vectors {store.dim}",
            expected="the same on both sides",
        )
    if config.mode == "exact":
        check = partial(_require_short, config=config)
        if queries.tokens * store.tokens < _WORTH_TORCH or find_spec("torch") is None:
            result = _search_by_reference(queries, store, k, ids, check)
        else:
            options = {"memory": memory, "threads": config.threads, "device": config.device}
            result = _search_store(
                queries, store, k, ids, progress=progress, check_seconds=check, **options
            )
        return replace(result, how={"mode": "exact"})
    if index is None:
        raise UsageError(
            f"{config.mode} search needs its index", fix="dispatch.index_for(store, ...)"
        )
    result = _search_index(
        queries,
        index,
        k,
        ids,
        config=config,
        store=store if config.final == "exact" else None,
        threads=config.threads,
    )
    how = {
        "mode": config.mode,
        "nbits": index.header.nbits,
        "centroids": index.header.centroids,
        "training": dict(index.header.training),
        "final": config.final,
        **{name: value for name, value in result.how.items() if name not in ("k", "kind", "final")},
        "index_bytes": index.nbytes(),
    }
    if config.audit:
        count = min(config.audit, len(queries))
        how["audit"] = {"queries": count, **audit(result, queries, store, count)}
    return replace(result, how=how)


def search_folder(
    folder: "Path",
    queries: TokenStore,
    k: int,
    *,
    store: TokenStore | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> SearchResult:
    """Searches an index or a token store for the queries of a token store.

    Args:
        folder: The index, searched with the settings for ``k``; one of the kind ``official`` by the
            published protocol. Or a token store, searched exactly.
        queries: Their token embeddings.
        k: Passages a query.
        store: The index's token store: final scores are exact. Not for the official protocol.
        threads: By default as many as torch uses.
        device: Of exact search, as `devices.search_devices`. An index is searched on the CPU.
        progress: Told of exact search.

    Raises:
        UsageError: a device or a token store is given where none is of use.
        M2KRError: as `devices.search_devices`, and as searches of indexes.
    """
    check_options(folder, store, device)
    queries.require_whole()
    if is_store(folder):
        pool = TokenStore.open(folder)
        pool.require_whole()
        return _search_store(queries, pool, k, threads=threads, device=device, progress=progress)
    from m2kr.search.index.files import IndexFiles

    return _search_index(queries, IndexFiles.open(folder), k, store=store, threads=threads)


def is_store(folder: "Path") -> bool:
    """Whether a folder says that it is a token store."""
    return (folder / STORE.header).is_file()


def check_options(folder: "Path", store: TokenStore | None, device: str) -> None:
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


def _search_store(
    queries: TokenStore,
    store: TokenStore,
    k: int,
    ids: "pa.ChunkedArray | None" = None,
    **options: Any,
) -> SearchResult:
    """Exact search; options are those of `devices.search_devices`, ids by default the store's."""
    from m2kr.search import devices

    ids = store.ids() if ids is None else ids
    rows, scores, stats = devices.search_devices(
        queries.take(range(len(queries))), store, k, id_ranks(ids), **options
    )
    logger.info("exact search: %s", stats)
    work = {
        "engine": "exact",
        "device": stats.device,
        "passes": list(stats.passes),
        "threads": stats.threads,
        "scored": stats.scored,
    }
    spent = time_per_query(stats.seconds, stats.cpu_seconds, len(queries))
    return SearchResult(rows, scores, ids, exact_how(k), work | spent)


def exact_how(k: int) -> dict[str, Any]:
    """`SearchResult.how` of exact search, the same whoever did it."""
    return {"k": k, "kind": "exact", "final": "exact"}


def _search_by_reference(
    queries: TokenStore,
    store: TokenStore,
    k: int,
    ids: "pa.ChunkedArray",
    check_seconds: "Callable[[float], None]",
) -> SearchResult:
    started, cpu = time.perf_counter(), time.process_time()
    matrices, best = queries.take(range(len(queries))), TopK(len(queries), id_ranks(ids), k)
    for block in read_ahead(store, _REFERENCE_BYTES // (2 * store.dim)):
        for number, query in enumerate(matrices):
            scores = reference.maxsim_many(query, block.tokens, block.offsets)
            best.push_block(scores[None, :], block.first, number)
        if block.first == 0 and 0 < len(block.tokens) < store.tokens:
            check_seconds((time.perf_counter() - started) * store.tokens / len(block.tokens))
    rows, scores = best.result()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    stats = {"engine": "reference", "device": "cpu", **time_per_query(seconds, cpu, len(queries))}
    return SearchResult(rows, scores, ids, exact_how(k), stats)


def _search_index(
    queries: TokenStore,
    index: "IndexFiles",
    k: int,
    ids: "pa.ChunkedArray | None" = None,
    *,
    config: SearchConfig | None = None,
    store: TokenStore | None = None,
    threads: int | None = None,
) -> SearchResult:
    """Search by the index's kind, with the config's ``widths``; ids are by default the index's."""
    from m2kr.search.index import compressed, official

    index.require_whole()
    ids = index.ids() if ids is None else ids
    matrices, ranks = queries.take(range(len(queries))), id_ranks(ids)
    if index.header.kind == "official":
        arrays = official.arrays_of(index)
        protocol = _with_widths(official.OfficialSettings.for_k(k), config)
        start, cpu = time.perf_counter(), time.process_time()
        rows, scores = official.search_official(
            matrices, arrays, k, ranks, settings=protocol, threads=threads
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        how = {"kind": "official", "final": "compressed", **asdict(protocol)}
    else:
        opened = compressed.CompressedIndex(index)
        usual = compressed.SearchSettings.suited(k, len(index), index.header.nbits)
        rows, scores, stats = compressed.search_compressed(
            *(matrices, opened, k, ranks),
            settings=_with_widths(usual, config),
            store=store,
            threads=threads,
        )
        seconds, cpu = stats.seconds, stats.cpu_seconds
        how = {"kind": "compressed", "final": stats.final, **asdict(stats.settings)}
    return SearchResult(
        rows, scores, ids, {"k": k, **how}, time_per_query(seconds, cpu, len(queries))
    )


def _with_widths(settings: T, config: SearchConfig | None) -> T:
    """The settings with the caller's own widths.

    Raises:
        UsageError: one that this mode doesn't have.
    """
    if config is None:
        return settings
    known = {each.name: type(getattr(settings, each.name)) for each in fields(settings)}
    for name, value in config.widths.items():
        if name not in known:
            raise UsageError(
                f"{config.mode} search has no '{name}'", expected=", ".join(sorted(known))
            )
        settings = replace(settings, **{name: known[name](value)})
    return settings


def time_per_query(seconds: float, cpu: float, queries: int) -> dict[str, Any]:
    """The time that a query took, for `SearchResult.stats`."""
    count = max(1, queries)
    return {"seconds_per_query": seconds / count, "cpu_seconds_per_query": cpu / count}


def audit(
    result: SearchResult, queries: TokenStore, store: TokenStore, count: int
) -> dict[str, float]:
    """Recall against exact search of the token store, on some of the queries.

    Args:
        result: Of the index.
        queries: What was searched for.
        store: The tokens that the index was built from.
        count: Queries, spread evenly over all.

    Returns:
        By ``recall@k``: the mean share of the exact best k that are among the best k of the result.

    Raises:
        UsageError: the store is another pool's.
    """
    from m2kr.search import devices

    if order_of(store.ids()) != order_of(result.ids):
        raise UsageError(
            f"the token store holds {len(store)} passages, the index {len(result.ids)}, and they are "
            "not the same in one order",
            where=str(store.folder),
        )
    chosen = np.unique(np.linspace(0, len(queries) - 1, min(count, len(queries))).astype(np.int64))
    k = result.rows.shape[1]
    true, _, _ = devices.search_devices(queries.take(chosen), store, k)
    return {
        f"recall@{depth}": recall(result.rows[chosen], true, depth)
        for depth in sorted({*(depth for depth in RECALL_AT if depth < k), k})
    }


def recall(
    rows: "NDArray[np.int64] | Sequence[NDArray[np.int64]]",
    true: "NDArray[np.int64]",
    depth: int,
) -> float:
    """Mean share of the true best ``depth`` that are among the best ``depth`` of ``rows``."""
    shares = [
        len(np.intersect1d(ours[:depth], theirs[:depth])) / max(1, len(theirs[:depth]))
        for ours, theirs in zip(rows, true, strict=True)
    ]
    return float(np.mean(shares)) if shares else 1.0


def _require_short(seconds: float, config: SearchConfig) -> None:
    """Stops exact search that would take more than ``config.max_hours``.

    Args:
        seconds: What all of it will take, by its first block. That one discards least, so that all of
            them take less than this says, down to half of it.
        config: As it was asked for.

    Raises:
        UsageError: that is too long; says the estimate, and what else there is.
    """
    hours = seconds / 3600
    if hours <= config.max_hours:
        return
    about = f"{hours:.1f} hours" if hours >= 0.1 else f"{seconds:.2g} seconds"
    # Estimates being what they are.
    enough = f"{2 * hours:.2g}" if hours < 5 else f"{2 * hours:.0f}"
    faster = "a GPU (--device cuda)" if find_spec("torch") else "pip install 'm2kr[models]'"
    raise UsageError(
        f"exact search would take about {about}",
        expected=f"at most {config.max_hours:g} hours (--max-hours)",
        fix=f"--search compressed --audit 200; or --max-hours {enough}; or {faster}",
    )
