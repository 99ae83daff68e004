"""``m2kr index search --shard``, a job's share of a search; and ``m2kr index merge``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2kr.cli import index_search, options

if TYPE_CHECKING:
    from m2kr.search.store.reader import TokenStore


def part(
    pool: Path,
    asked: "TokenStore",
    k: int,
    share: str,
    out: Path | None,
    *,
    threads: int | None,
    device: str,
    json: bool,
) -> None:
    """Searches one share of a token store and writes what `merge` needs."""
    from m2kr.cli import output
    from m2kr.errors import UsageError
    from m2kr.search import devices, search_index, shard_files, shards
    from m2kr.search.search_index import Found
    from m2kr.search.store.reader import TokenStore

    number, of = shard_files.parse_share(share)
    if out is None or out.suffix != ".parquet":
        raise UsageError("a shard's part is written as Parquet", fix="--out part.parquet")
    if not search_index.is_store(pool) and (pool / "index.json").is_file():
        raise UsageError(
            "each step of an index's search chooses from the whole pool, so jobs can't each do a share",
            where=str(pool),
            fix="search the token store by shards, or the index by one process",
        )
    store = TokenStore.open(pool)
    store.require_whole()
    asked.require_whole()
    span = shards.spans(store, of)[number - 1]
    with output.Bars() as bars:
        found, stats = devices.search_shard(
            asked.take(range(len(asked))),
            store,
            span,
            k,
            threads=threads,
            device=device,
            progress=bars,
        )
    facts = shard_files.Facts(
        *(number, of, span.first, span.last, len(store), k),
        store=shards.fingerprint(store),
        queries=shards.fingerprint(asked),
    )
    count = max(1, len(asked))
    whole = Found(
        found.numbers,
        found.scores,
        store.ids(),
        search_index.exact_how(k),
        stats.cpu_seconds / count,
        stats.seconds / count,
        {"shard": f"{number}/{of}", "passages": len(span), "device": stats.device},
    )
    run = index_search.save(whole, asked, pool.resolve().name, out, facts.as_metadata())
    index_search.show(whole.facts() | {"run": run}, json=json)


def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART...", help="What each --shard I/N wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Run file to write: .parquet, .trec.gz ...")],
    json: options.Json = False,
) -> None:
    """Merge the parts of a search into the run that one search of the whole store gives.

    All parts must be there, of one store, the same queries and one k.
    """
    import numpy as np

    from m2kr.errors import InputError
    from m2kr.retrieval.run import Run
    from m2kr.search import search_index, shard_files
    from m2kr.search.search_index import Found

    runs = {str(path): Run.load(path) for path in parts}
    facts = {name: shard_files.Facts.of_metadata(run.metadata, name) for name, run in runs.items()}
    shard_files.check(facts)
    name, first = next(iter(runs.items()))
    for other, run in runs.items():
        if run.query_ids != first.query_ids:
            raise InputError("its queries are others", where=other, expected=f"those of {name}")
    named = [
        (
            np.repeat(np.arange(len(run)), run.counts()),
            run.vocabulary.take(run.codes),
            run.flat_scores,
        )
        for run in runs.values()
    ]
    k = next(iter(facts.values())).k
    ids, rows, scores = shard_files.merge_named(named, len(first), k)
    found = Found(rows, scores, ids, search_index.exact_how(k), 0.0, 0.0)
    saved = Run.from_rows(
        first.query_ids, ids, rows, scores, name=first.name, metadata={"search": found.how}
    ).save(out)
    index_search.show(
        {"queries": len(first), **found.how, "shards": len(runs), "run": str(saved)}, json=json
    )


SUBCOMMANDS = {"merge": (merge, ("m2kr index merge part*.parquet --out run.parquet",))}
