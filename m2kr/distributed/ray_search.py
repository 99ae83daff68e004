"""Exact search of a token store by the nodes of a Ray cluster, each searching a range of it.

All nodes must see the store at the same path, as on a cluster's shared file system: only queries and
results travel. A range whose node dies is searched by another, so the result is the same.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.distributed.ray_engine import RayCluster
from m2kr.errors import CheckError, UsageError
from m2kr.progress import SILENT, Progress
from m2kr.ranking import id_ranks
from m2kr.search import devices, shards
from m2kr.search.dispatch import SearchResult, check_options, exact_how, is_store, per_query
from m2kr.search.shards import Part, Span
from m2kr.search.store.reader import TokenStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_TASK = "sharded search"


@dataclass(frozen=True, slots=True)
class StoreRange:
    """What a node must know to search a range of a token store; pickled.

    Attributes:
        folder: Of the store.
        fingerprint: `shards.fingerprint` of the store.
        span: The range.
        k: Passages a query.
        threads: As `exact.search`.
        device: As `exact.search`.
    """

    folder: Path
    fingerprint: str
    span: Span
    k: int
    threads: int
    device: str


def search_range(piece: StoreRange, queries: "Sequence[NDArray[np.floating]]") -> Part:
    """The exact best of a range; called on a node.

    Raises:
        MissingError: the store isn't there.
        CheckError: it is another; and as `exact.search`.
    """
    store = TokenStore.open(piece.folder)
    seen = shards.fingerprint(store)
    if seen != piece.fingerprint:
        raise CheckError(
            "this is another store than the one that the search began with",
            where=str(piece.folder),
            expected=f"fingerprint {piece.fingerprint[:16]}, not {seen[:16]}",
            fix="let every node see the same files at this path, and none of them change",
        )
    part, _ = devices.search_shard(
        queries, store, piece.span, piece.k, threads=piece.threads, device=piece.device
    )
    return part


def search(
    folder: Path,
    queries: TokenStore,
    k: int,
    *,
    store: TokenStore | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    address: str = "auto",
    jobs: int | None = None,
) -> SearchResult:
    """What `dispatch.search_folder` finds in a token store, by the nodes of a cluster.

    Args:
        folder: The token store.
        queries: As there.
        k: As there.
        store: None: a token store has no other one.
        threads: Of each range; by default the nodes' cores are shared out.
        device: Of each range; ``auto`` is CUDA if there are GPUs for all of them.
        progress: Told of the ranges that are done.
        address: Of the cluster, as `RayCluster`.
        jobs: Ranges, at most; by default one a node.

    Raises:
        UsageError: it is an index, or a device is asked for that no node has.
        M2KRError: as `RayCluster.map` and `exact.search`.
    """
    check_options(folder, store, "auto")
    queries.require_whole()
    if not is_store(folder) and (folder / "index.json").is_file():
        raise UsageError(
            "an index is searched by one process",
            where=str(folder),
            fix="--engine local; or search the token store, exactly, by the cluster",
        )
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"a shard has one device of its node's, not '{device}'",
            fix="--device cuda --jobs N, with as many shards as GPUs",
        )
    pool = TokenStore.open(folder)
    pool.require_whole()
    cluster = RayCluster(address)
    there = cluster.size()
    count = jobs or there.nodes
    if device == "auto":
        device = "cuda" if there.gpus >= count else "cpu"
    if device == "cuda" and not there.gpus:
        raise UsageError("--device cuda needs GPUs, the cluster has 0", fix="--device cpu")
    threads = threads or max(1, there.cpus * there.nodes // max(count, there.nodes))
    fingerprint = shards.fingerprint(pool)
    pieces = [
        StoreRange(pool.folder.absolute(), fingerprint, span, k, threads, device)
        for span in shards.spans(pool, min(count, max(1, len(pool))))
    ]
    start, cpu = time.perf_counter(), time.process_time()
    progress.start(_TASK, len(pieces), "shards")
    results = cluster.map(
        search_range,
        pieces,
        queries.take(range(len(queries))),
        names=[f"the search of {piece.span}" for piece in pieces],
        # More cores than any node has would be waited for in vain.
        cpus=0 if device == "cuda" else min(threads, there.cpus),
        gpus=int(device == "cuda"),
    )
    parts = []
    for part in results:
        parts.append(part)
        progress.advance(_TASK, 1)
    ids = pool.ids()
    numbers, scores = shards.merge(parts, k, id_ranks(ids))
    progress.done(_TASK)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    stats = {"shards": len(pieces), **per_query(seconds, cpu, len(queries))}
    return SearchResult(numbers, scores, ids, exact_how(k), stats)
