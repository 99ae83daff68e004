"""Searching a token store by the mode that was chosen: building its index, answering, auditing."""

import hashlib
import json
import logging
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from m2kr import atomic
from m2kr.data.row_hash import order_of
from m2kr.errors import CheckError, InputError, UsageError
from m2kr.progress import SILENT, Progress
from m2kr.search.config import SearchConfig
from m2kr.search.duration import require_short

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from m2kr.search.index.files import IndexFiles
    from m2kr.search.store.reader import TokenStore

logger = logging.getLogger("m2kr.search")

_WORTH_TORCH = 10**8  # products of a query row and a token: a second's work for the reference
_REFERENCE_BYTES = 1 << 22  # of tokens, a block
T = TypeVar("T", bound=Any)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a search found, and how.

    Attributes:
        numbers: Passage numbers (queries x k), best first; -1 where there are fewer.
        scores: float64, likewise; -inf where there are fewer.
        how: Mode and settings: the same for the same search. JSON values.
        cost: Engine, threads and time, as they happened to be. JSON values.
    """

    numbers: "NDArray[np.int64]"
    scores: "NDArray[np.float64]"
    how: dict[str, Any]
    cost: dict[str, Any]


def build(
    store: "TokenStore",
    folder: Path,
    searching: SearchConfig,
    progress: Progress = SILENT,
    *,
    spare: Path | None = None,
) -> "IndexFiles | None":
    """The index that a mode searches, built below ``folder`` or found there; None for ``exact``.

    Where ``folder`` may only be read and has none, it is built below ``spare``.

    Raises:
        InputError: the store has no token.
        UsageError: another process is building it, or settings make no sense.
        MissingError: torch isn't installed.
    """
    if searching.mode == "exact":
        return None
    from m2kr.search.index import build as index_build
    from m2kr.search.index.settings import pool_of

    settings = searching.build_settings()
    told = json.dumps({"kind": settings.kind, "nbits": settings.nbits, **settings.asked()})
    name = f"{settings.kind}-{settings.nbits}bit-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    pool = pool_of(store)
    if not atomic.writable(folder) and (folder / name).exists():
        files = index_build.opened(pool, folder / name, settings)
    else:
        if not atomic.writable(folder):
            folder = spare or folder
        files = index_build.build(pool, folder / name, settings, progress=progress)
    if order_of(files.ids()) != order_of(pool.ids):
        raise CheckError("it holds other passages than the store", where=str(files.folder))
    return files


def search(
    queries: "TokenStore",
    documents: "TokenStore",
    k: int,
    ranks: "NDArray[np.int64]",
    searching: SearchConfig,
    *,
    index: "IndexFiles | None" = None,
    memory: int,
    progress: Progress = SILENT,
) -> Answer:
    """The best ``k`` passages of every query.

    Args:
        queries: Their rows.
        documents: The pool's tokens.
        k: Passages a query.
        ranks: Per passage the rank of its id (`ranking.id_ranks`), which breaks ties.
        searching: How.
        index: From `build`; None for exact search.
        memory: Bytes that exact search may use for its blocks.
        progress: Told of exact search's pairs.

    Raises:
        InputError: the dims differ.
        UsageError: by its first block, exact search would take more than ``max_hours``.
        CheckError: bytes of the store or the index differ from their checksum.
    """
    if queries.dim != documents.dim:
        raise InputError(
            f"query vectors have {queries.dim} dimensions, passage vectors {documents.dim}",
            expected="the same on both sides",
        )
    if searching.mode == "exact":
        if queries.tokens * documents.tokens < _WORTH_TORCH or find_spec("torch") is None:
            return _reference(queries, documents, k, ranks, searching)
        return _exact(queries, documents, k, ranks, searching, memory, progress)
    if index is None:
        raise UsageError(
            f"{searching.mode} search needs its index", fix="dispatch.build(store, ...)"
        )
    return _indexed(queries, documents, k, ranks, searching, index)


def _reference(
    queries: "TokenStore",
    documents: "TokenStore",
    k: int,
    ranks: "NDArray[np.int64]",
    searching: SearchConfig,
) -> Answer:
    from m2kr.ranking import TopK
    from m2kr.search.exact import reference

    started, cpu = time.perf_counter(), time.process_time()
    rows, best = queries.take(range(len(queries))), TopK(len(queries), ranks, k)
    for block in documents.blocks(_REFERENCE_BYTES):
        for number, query in enumerate(rows):
            scores = reference.maxsim_many(query, block.tokens, block.offsets)
            best.push_block(scores[None, :], block.first, number)
        if block.first == 0 and 0 < len(block.tokens) < documents.tokens:
            share = documents.tokens / len(block.tokens)
            require_short((time.perf_counter() - started) * share, searching)
    numbers, found = best.result()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    cost = {"engine": "reference", "device": "cpu", **_each(seconds, cpu, len(queries))}
    return Answer(numbers, found, {"mode": "exact"}, cost)


def _exact(
    queries: "TokenStore",
    documents: "TokenStore",
    k: int,
    ranks: "NDArray[np.int64]",
    searching: SearchConfig,
    memory: int,
    progress: Progress,
) -> Answer:
    from m2kr.search import devices

    numbers, scores, stats = devices.search(
        queries.take(range(len(queries))),
        documents,
        k,
        ranks,
        memory=memory,
        threads=searching.threads,
        device=searching.device,
        progress=progress,
        check_seconds=partial(require_short, searching=searching),
    )
    logger.info("exact search: %s", stats)
    cost = {
        "engine": "exact",
        "device": stats.device,
        "passes": list(stats.passes),
        "threads": stats.threads,
        **_each(stats.seconds, stats.cpu_seconds, len(queries)),
    }
    return Answer(numbers, scores, {"mode": "exact"}, cost)


def _indexed(
    queries: "TokenStore",
    documents: "TokenStore",
    k: int,
    ranks: "NDArray[np.int64]",
    searching: SearchConfig,
    index: "IndexFiles",
) -> Answer:
    from m2kr.search import search_index

    found = search_index.search_files(
        index,
        queries,
        k,
        ranks,
        steer=lambda usual: _steered(usual, searching),
        store=documents if searching.final == "exact" else None,
        threads=searching.threads,
    )
    left_out = ("k", "kind", "final")
    how = {
        "mode": searching.mode,
        "nbits": index.settings.nbits,
        "centroids": index.settings.centroids,
        "training": dict(index.settings.training),
        "final": searching.final,
        **{name: value for name, value in found.how.items() if name not in left_out},
        "index_bytes": index.nbytes(),
    }
    if searching.audit:
        count = min(searching.audit, len(queries))
        how["audit"] = {
            "queries": count,
            **search_index.audit(found, queries, documents, count),
        }
    cost = {
        "seconds_per_query": found.seconds,
        "cpu_seconds_per_query": found.cpu_seconds,
    }
    return Answer(found.numbers, found.scores, how, cost)


def _steered(settings: T, searching: SearchConfig) -> T:
    """The settings with the caller's own widths.

    Raises:
        UsageError: one that this mode doesn't have.
    """
    known = {each.name: type(getattr(settings, each.name)) for each in fields(settings)}
    for name, value in searching.widths.items():
        if name not in known:
            raise UsageError(
                f"{searching.mode} search has no '{name}'", expected=", ".join(sorted(known))
            )
        settings = replace(settings, **{name: known[name](value)})
    return settings


def _each(seconds: float, cpu: float, queries: int) -> dict[str, Any]:
    count = max(1, queries)
    return {"seconds_per_query": seconds / count, "cpu_seconds_per_query": cpu / count}
