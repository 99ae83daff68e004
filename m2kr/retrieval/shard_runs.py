"""Runs of token stores and indexes: of a whole one, of a job's share, and of all shares merged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m2kr.errors import InputError, UsageError
from m2kr.progress import SILENT, Progress
from m2kr.retrieval.run import Run
from m2kr.search import devices, dispatch, shards
from m2kr.search.dispatch import SearchResult
from m2kr.search.store.reader import TokenStore


def run_of(
    result: SearchResult, queries: TokenStore, name: str, more: Mapping[str, Any] | None = None
) -> Run:
    """The rankings of a search; name and metadata don't tell who searched.

    Args:
        result: What was found for each of ``queries``.
        queries: The token store whose entries are the queries.
        name: The run's name.
        more: Further metadata.
    """
    return Run.from_rows(
        queries.ids().to_pylist(),
        result.ids,
        result.rows,
        result.scores,
        name=name,
        metadata={"search": result.how, **(more or {})},
    )


def search_share(
    pool: Path,
    queries: TokenStore,
    k: int,
    share: str,
    *,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> tuple[Run, SearchResult]:
    """One share of a token store searched exactly; the run says of what, for `merge_run_files`.

    Args:
        pool: The token store's folder.
        queries: The queries' tokens.
        k: Passages a query.
        share: ``I/N``: the I-th of N shares.
        threads: By default as many as torch uses.
        device: ``auto``, ``cpu``, ``cuda``, or several.
        progress: Told of the work.

    Raises:
        UsageError: the pool is an index, whose steps choose from the whole.
    """
    number, of = shards.parse_share(share)
    if not dispatch.is_store(pool) and (pool / "index.json").is_file():
        raise UsageError(
            "each step of an index's search chooses from the whole pool, so jobs can't each do a share",
            where=str(pool),
            fix="search the token store by shards, or the index by one process",
        )
    store = TokenStore.open(pool)
    store.require_whole()
    queries.require_whole()
    span = shards.ranges_of(store, of)[number - 1]
    found, stats = devices.search_range(
        queries.take(range(len(queries))),
        store,
        span,
        k,
        threads=threads,
        device=device,
        progress=progress,
    )
    facts = shards.PartFacts(
        *(number, of, span.first, span.last, len(store), k),
        store=shards.fingerprint_of(store),
        queries=shards.fingerprint_of(queries),
    )
    work = {"shard": f"{number}/{of}", "passages": len(span), "device": stats.device}
    spent = dispatch.time_per_query(stats.seconds, stats.cpu_seconds, len(queries))
    result = SearchResult(
        *(found.numbers, found.scores, store.ids()), dispatch.exact_how(k), work | spent
    )
    return run_of(result, queries, pool.resolve().name, facts.as_metadata()), result


def merge_run_files(paths: Sequence[Path]) -> Run:
    """The run that one search of the whole store gives, of the files of all shares.

    Raises:
        InputError: a file is of other queries.
        CheckError: shares are of another store or k, overlap, or were not made by `search_share`.
        MissingError: a share is missing.
    """
    runs = {str(path): Run.load(path) for path in paths}
    facts = {name: shards.PartFacts.of_metadata(run.metadata, name) for name, run in runs.items()}
    shards.check_parts(facts)
    name, first = next(iter(runs.items()))
    for other, run in runs.items():
        if run.query_ids != first.query_ids:
            raise InputError("its queries are others", where=other, expected=f"those of {name}")
    found = [
        (
            np.repeat(np.arange(len(run)), run.counts()),
            run.vocabulary.take(run.codes),
            run.flat_scores,
        )
        for run in runs.values()
    ]
    k = next(iter(facts.values())).k
    ids, rows, scores = shards.merge_parts(found, len(first), k)
    return Run.from_rows(
        first.query_ids,
        ids,
        rows,
        scores,
        name=first.name,
        metadata={"search": dispatch.exact_how(k)},
    )
