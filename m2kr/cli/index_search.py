"""``m2kr index search``: an index, or a token store, by this machine or a cluster."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from m2kr.search.search_index import Found
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
    k: Annotated[int, typer.Option("-k", min=1, help="Passages a query.")] = 100,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run file to write: .parquet, .trec.gz ...")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="The index's token store, for exact scores.")
    ] = None,
    audit: Annotated[
        int,
        typer.Option(
            "--audit", min=0, help="Search this many queries exactly, too (needs --store)."
        ),
    ] = 0,
    device: Annotated[
        str,
        typer.Option(
            "--device", help="Of exact search: auto, cpu, cuda, or several: cuda:0,cuda:1"
        ),
    ] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1)] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Search one of N shares of a token store, as a job of an array; "
            "'m2kr index merge' then puts the parts together.",
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="Who searches a store: this machine, or a Ray cluster."),
    ] = "local",
    address: Annotated[
        str,
        typer.Option("--address", help="Of the Ray cluster: HOST:PORT, auto, or local."),
    ] = "auto",
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Shards, with --engine ray; by default one a node."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Search an index, or a token store exactly.

    An index that was built with the official preset is searched by the published protocol. A token
    store may be searched in shards: they find what one process finds, ids, order and scores.
    """
    from m2kr.cli import output
    from m2kr.errors import UsageError
    from m2kr.search import search_index
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
        from m2kr.cli import index_shards

        index_shards.part(pool, asked, k, shard, out, threads=threads, device=device, json=json)
        return
    stored = TokenStore.open(store) if store is not None else None
    with output.Bars() as bars:
        look: Callable[..., Found] = search_index.search
        if engine == "ray":
            from m2kr.distributed import ray_search

            look = partial(ray_search.search, address=address, jobs=jobs)
        found = look(pool, asked, k, store=stored, threads=threads, device=device, progress=bars)
    told = found.facts()
    if audit and stored is not None:
        told["recall"] = search_index.audit(found, asked, stored, audit)
    if out is not None:
        told["run"] = save(found, asked, pool.resolve().name, out)
    show(told, json=json)


def save(
    found: "Found", asked: "TokenStore", name: str, out: Path, more: dict[str, Any] | None = None
) -> str:
    """Writes a run; its name and metadata don't tell who searched."""
    from m2kr.retrieval.run import Run

    run = Run.from_rows(
        asked.ids().to_pylist(),
        found.ids,
        found.numbers,
        found.scores,
        name=name,
        metadata={"search": found.how, **(more or {})},
    )
    return str(run.save(out))


def show(told: dict[str, Any], *, json: bool) -> None:
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
}
