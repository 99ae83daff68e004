"""`search_index.search` in shards, by whoever opens them: processes of a cluster, or this one."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING

from m2kr.errors import UsageError
from m2kr.search.late.index.files import IndexFiles
from m2kr.search.late.search_index import Found, check_options, exact_how, is_store
from m2kr.search.late.sharded import groups as sharded_groups
from m2kr.search.late.sharded import index as sharded_index
from m2kr.search.late.sharded import owners as sharded_owners
from m2kr.search.late.sharded.owners import Owners, Shard
from m2kr.search.late.store import TokenStore
from m2kr.search.topk import id_ranks

if TYPE_CHECKING:
    from pathlib import Path

    from m2kr.progress import Progress

Hire = Callable[[Sequence[Shard]], AbstractContextManager[Owners]]


def search(
    folder: "Path",
    queries: TokenStore,
    k: int,
    count: int,
    hire: Hire,
    *,
    store: TokenStore | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: "Progress | None" = None,
) -> Found:
    """What `search_index.search` finds, by the owners of shards, wherever they are.

    Args:
        folder: As there, but no index of the kind ``official``.
        queries: As there.
        k: As there.
        count: Shards, at most.
        hire: Given the shards, opens them: an `Owners` in a ``with`` block.
        store: As there.
        threads: Of each shard.
        device: Of each shard.
        progress: Told of the queries that are done.

    Raises:
        UsageError: the index is of the kind ``official``; and as there.
        M2KRError: as `sharded.owners.search` and `sharded.index.search`.
    """
    check_options(folder, store, device)
    rows = queries.take(range(len(queries)))
    start, cpu = time.perf_counter(), time.process_time()
    if is_store(folder):
        pool = TokenStore.open(folder)
        pool.require_whole()
        shards = sharded_owners.store_shards(pool, count, threads=threads, device=device)
        ids, how = pool.ids(), exact_how(k)
        with hire(shards) as owners:
            numbers, scores = sharded_owners.search(
                owners, rows, k, id_ranks(ids), progress=progress
            )
        hired = len(shards)
    else:
        files = IndexFiles.open(folder)
        files.require_whole()
        if files.settings.kind == "official":
            raise UsageError(
                "the published protocol is searched by one process",
                where=str(folder),
                fix="--engine local, or build an index of the kind 'compressed'",
            )
        at = store.folder if store is not None else None
        groups = sharded_groups.index_shards(files, count, store=at, threads=threads)
        ids = files.ids()
        with hire(groups) as owners:
            numbers, scores, widths = sharded_index.search(
                owners, groups, files, rows, k, id_ranks(ids), progress=progress
            )
        how = {"k": k, "kind": "compressed", "final": "exact" if at else "compressed"}
        how |= asdict(widths)
        hired = len(groups)
    each = max(1, len(rows))
    seconds, cpu = (time.perf_counter() - start) / each, (time.process_time() - cpu) / each
    return Found(numbers, scores, ids, how, cpu, seconds, {"shards": hired})
