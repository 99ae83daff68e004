"""``m2kr index search`` and ``merge``: an index, or a token store, whole or a job's share."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from m2kr.search.dispatch import SearchResult
    from m2kr.search.store.reader import TokenStore


def search(
    pool: Annotated[
        Path,
        typer.Argument(
            metavar="INDEX_OR_STORE",
            help="An index, or a token store, which is searched exactly.",
        ),
    ],
    queries: Annotated[Path, typer.Argument(help="A token store whose entries are the queries.")],
    k: options.K = 100,
    out: options.OutOrNone = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="The index's token store, for exact scores.")
    ] = None,
    audit: options.Audit = 0,
    device: options.Device = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1)] = None,
    shard: options.Shard = None,
    engine: options.Engine = "local",
    address: options.Address = "auto",
    jobs: options.JobsOrNone = None,
    json: options.Json = False,
) -> None:
    """Search an index, or a token store exactly.

    An index that was built with the official preset is searched by the published protocol. A token
    store may be searched in shards: they find what one process finds, ids, order and scores. --out is
    a run file: .parquet, .trec.gz ...; --device may name several GPUs: cuda:0,cuda:1.
    """
    from m2kr.cli import output
    from m2kr.errors import UsageError
    from m2kr.search import dispatch
    from m2kr.search.store.reader import TokenStore

    if audit and store is None:
        raise UsageError("an audit compares with exact search, which needs --store STORE")
    if engine == "local" and jobs is not None:
        raise UsageError("--jobs is for --engine ray; here --threads tells how many work")
    asked = TokenStore.open(queries)
    if shard is not None:
        if engine == "ray":
            raise UsageError(
                "--shard and --engine ray are two ways to share a search out: take one"
            )
        _search_share(pool, asked, k, shard, out, threads=threads, device=device, json=json)
        return
    stored = TokenStore.open(store) if store is not None else None
    with output.Bars() as bars:
        look: Callable[..., SearchResult] = dispatch.search_folder
        if engine == "ray":
            from m2kr.distributed import ray_engine

            look = partial(ray_engine.search_by_nodes, address=address, jobs=jobs)
        result = look(pool, asked, k, store=stored, threads=threads, device=device, progress=bars)
    told = result.facts()
    if audit and stored is not None:
        told["recall"] = dispatch.audit(result, asked, stored, audit)
    if out is not None:
        told["run"] = _save(result, asked, pool.resolve().name, out)
    _show(told, json=json)


def _save(
    result: "SearchResult",
    asked: "TokenStore",
    name: str,
    out: Path,
    more: dict[str, Any] | None = None,
) -> str:
    """Writes a run; its name and metadata don't tell who searched."""
    from m2kr.retrieval.run import Run

    run = Run.from_rows(
        asked.ids().to_pylist(),
        result.ids,
        result.rows,
        result.scores,
        name=name,
        metadata={"search": result.how, **(more or {})},
    )
    return str(run.save(out))


def _show(told: dict[str, Any], *, json: bool) -> None:
    """What was done, for people or machines."""
    from m2kr.cli import output

    if json:
        output.emit(told)
        return
    for key, value in told.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {_number(each)}" for name, each in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        output.say(f"{key.replace('_', ' '):<24}{_number(value)}")


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _search_share(
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
    from m2kr.search import devices, dispatch, shards
    from m2kr.search.dispatch import SearchResult
    from m2kr.search.store.reader import TokenStore

    number, of = shards.parse_share(share)
    if out is None or out.suffix != ".parquet":
        raise UsageError("a shard's part is written as Parquet", fix="--out part.parquet")
    if not dispatch.is_store(pool) and (pool / "index.json").is_file():
        raise UsageError(
            "each step of an index's search chooses from the whole pool, so jobs can't each do a share",
            where=str(pool),
            fix="search the token store by shards, or the index by one process",
        )
    store = TokenStore.open(pool)
    store.require_whole()
    asked.require_whole()
    span = shards.ranges_of(store, of)[number - 1]
    with output.Bars() as bars:
        found, stats = devices.search_range(
            asked.take(range(len(asked))),
            store,
            span,
            k,
            threads=threads,
            device=device,
            progress=bars,
        )
    facts = shards.PartFacts(
        *(number, of, span.first, span.last, len(store), k),
        store=shards.fingerprint_of(store),
        queries=shards.fingerprint_of(asked),
    )
    work = {"shard": f"{number}/{of}", "passages": len(span), "device": stats.device}
    spent = dispatch.time_per_query(stats.seconds, stats.cpu_seconds, len(asked))
    whole = SearchResult(
        *(found.numbers, found.scores, store.ids()), dispatch.exact_how(k), work | spent
    )
    run = _save(whole, asked, pool.resolve().name, out, facts.as_metadata())
    _show(whole.facts() | {"run": run}, json=json)


def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART...", help="What each --shard I/N wrote.")
    ],
    out: options.Out,
    json: options.Json = False,
) -> None:
    """Merge the parts of a search into the run that one search of the whole store gives.

    All parts must be there, of one store, the same queries and one k.
    """
    import numpy as np

    from m2kr.errors import InputError
    from m2kr.retrieval.run import Run
    from m2kr.search import dispatch, shards

    runs = {str(path): Run.load(path) for path in parts}
    facts = {name: shards.PartFacts.of_metadata(run.metadata, name) for name, run in runs.items()}
    shards.check_parts(facts)
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
    ids, rows, scores = shards.merge_parts(named, len(first), k)
    how = dispatch.exact_how(k)
    saved = Run.from_rows(
        first.query_ids, ids, rows, scores, name=first.name, metadata={"search": how}
    ).save(out)
    _show({"queries": len(first), **how, "shards": len(runs), "run": str(saved)}, json=json)


SUBCOMMANDS = {
    "search": (
        search,
        (
            "m2kr index search index/ queries/ -k 100 --out run.parquet",
            "m2kr index search index/ queries/ --store store/ --audit 200",
            "m2kr index search store/ queries/ --device cuda:0,cuda:1",
            "m2kr index search store/ queries/ --shard 2/8 --out part2.parquet",
            "m2kr index search store/ queries/ --engine ray --address head:6379",
        ),
    ),
    "merge": (merge, ("m2kr index merge part*.parquet --out run.parquet",)),
}
