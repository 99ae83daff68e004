"""``m2kr index``: Compressed late-interaction indexes: build, add to, look at, search."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from m2kr.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Callable

    from m2kr.search.config import Mode
    from m2kr.search.dispatch import SearchResult
    from m2kr.search.hub import Contents
    from m2kr.search.index.settings import BuildSettings
    from m2kr.search.plan import Plan

Store = Annotated[Path, typer.Argument(help="A token store: a folder with store.json.")]
Index = Annotated[Path, typer.Argument(help="An index: a folder with index.json.")]
Preset = Annotated[
    str,
    typer.Option("--preset", help="compressed (ours), or official: the published protocol."),
]
Folder = Annotated[Path, typer.Argument(help="A token store or an index.")]
Expect = Annotated[
    list[str] | None,
    typer.Option(
        "--expect",
        metavar="KEY=VALUE",
        help="Refuse another: checkpoint, pool, eval, dtype, dim ...; may be repeated.",
    ),
]


def build(
    store: Store,
    index: Annotated[Path, typer.Argument(help="Folder for the index.")],
    preset: Preset = "compressed",
    nbits: options.Nbits = None,
    set_: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Build a compressed index from a token store; the same command finishes one that was cut off.

    Settings: seed=0; centroids, by the pool's size if absent; iterations of k-means, at most (8,
    official 20).
    """
    from m2kr.search.index.build import build_index
    from m2kr.search.index.settings import pool_of
    from m2kr.search.store.reader import TokenStore

    numbers = _numbers(options.settings(set_), _LEAST, "an index")
    chosen = _settings(preset, nbits, **numbers)
    pool = pool_of(TokenStore.open(store))
    with output.Bars() as bars:
        build_index(pool, index, chosen, progress=bars)
    info(index, json=json)


_LEAST = {"seed": 0, "centroids": 1, "iterations": 1}


def _numbers(given: dict[str, str], least: dict[str, int], what: str) -> dict[str, int]:
    from m2kr.errors import UsageError

    for name, text in given.items():
        if name not in least:
            raise UsageError(f"{what} has no setting {name!r}", expected=", ".join(least))
        if not text.isdecimal() or int(text) < least[name]:
            raise UsageError(f"--set {name}={text}", expected=f"a number from {least[name]}")
    return {name: int(text) for name, text in given.items()}


def _settings(preset: str, nbits: int | None, **numbers: Any) -> "BuildSettings":
    from m2kr.errors import UsageError
    from m2kr.search.config import SearchConfig

    if preset not in ("compressed", "official"):
        raise UsageError(f"there is no preset '{preset}'", expected="compressed or official")
    mode = cast("Mode", preset)
    return SearchConfig(mode, nbits, **numbers).build_settings()


def add(
    index: Index,
    store: Store,
    json: options.Json = False,
) -> None:
    """Add the passages of a token store that the index does not have yet.

    The store may be another one, or the index's own after it has grown. Centroids stay as they are.
    Ids that the index has from another store are refused: nothing is taken out of an index.
    """
    from m2kr.search.index.build import add_passages
    from m2kr.search.index.settings import pool_of
    from m2kr.search.store.reader import TokenStore

    pool = pool_of(TokenStore.open(store))
    with output.Bars() as bars:
        add_passages(pool, index, progress=bars)
    info(index, json=json)


def info(
    index: Index,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte with its checksum.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show what an index holds, how it was made and what it takes."""
    from m2kr.search.index.files import IndexFiles

    files = IndexFiles.open(index)
    if verify:
        files.verify()
    settings = files.header
    told: dict[str, Any] = {
        "index": str(index),
        "kind": settings.kind,
        "passages": len(files),
        "complete": files.unfinished is None,
        "tokens": files.tokens,
        "shards": len(files.shards),
        "dim": settings.dim,
        "nbits": settings.nbits,
        "centroids": settings.centroids,
        "bytes": files.nbytes(),
        "bytes_per_token": round(files.nbytes() / max(1, files.tokens), 2),
        "training": dict(settings.training),
        "meta": dict(settings.meta),
        "verified": verify,
    }
    if json:
        output.emit(told)
        return
    for key, value in told.items():
        shown = output.size(value) if key == "bytes" else value
        if isinstance(value, dict):
            shown = ", ".join(f"{name} {each}" for name, each in sorted(value.items())) or "-"
        elif isinstance(value, int) and key != "bytes":
            shown = f"{value:,}" if not isinstance(value, bool) else "yes" if value else "no"
        output.say(f"{key.replace('_', ' '):<18}{shown}")
    if files.unfinished:
        output.say(
            f"Its build was cut off: {files.unfinished}. It is not searched before the same command "
            "has finished it."
        )


def plan(
    passages: Annotated[str, typer.Argument(help="How many, such as 8.8M or 400k.")],
    tokens: Annotated[float, typer.Argument(help="Of a passage, on average.")],
    set_: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Tell what a pool will take on disk, as a token store and as a compressed index.

    Bytes follow from the formats. How long a search takes is known once its first block is done: exact
    search then stops where that is more than --max-hours of m2kr eval.

    Settings: dim=128, numbers in a token's vector; id_bytes=12, of a passage's id on average.
    """
    from m2kr.search.plan import PoolSize, parse_count, plan_pool

    sizes = _numbers(options.settings(set_), {"dim": 1, "id_bytes": 1}, "a plan")
    planned = plan_pool(PoolSize(parse_count(passages), tokens, **sizes))
    if json:
        output.emit(planned.as_dict())
    else:
        _show(planned)


def _show(planned: "Plan") -> None:

    pool = planned.pool
    output.say(f"{pool.passages:,} passages, {pool.all_tokens:,} tokens of {pool.dim} numbers")
    sizes = {"exact (token store)": planned.store_bytes} | {
        f"compressed, {nbits} bits": size for nbits, size in planned.index_bytes.items()
    }
    output.table(
        ("mode", "bytes", "a passage"),
        [
            (mode, output.size(size), output.size(size / pool.passages))
            for mode, size in sizes.items()
        ],
    )
    output.say(
        f"A compressed index has {planned.centroids:,} centroids and is built from the store."
    )


def push(
    folder: Folder,
    repo: Annotated[str, typer.Argument(help="Data set on the hub, owner/name; made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Even if it holds another model's or pool's.")
    ] = False,
    revision: options.Revision = None,
    json: options.Json = False,
) -> None:
    """Upload a token store or an index to the hub, verified, in one commit; needs HF_TOKEN."""
    from m2kr.search.hub import push_folder

    with output.Bars() as bars:
        made, commit = push_folder(
            folder, repo, private=private, replace=replace, revision=revision, progress=bars
        )
    _tell(made, {"repo": repo, "commit": commit}, json=json)


def pull(
    repo: Annotated[str, typer.Argument(help="A data set on the hub: owner/name.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    expect: Expect = None,
    revision: options.Revision = None,
    json: options.Json = False,
) -> None:
    """Get a token store or an index from the hub, every byte verified.

    The folder appears when it is complete. With --expect, what was made with another checkpoint or
    from another pool is refused before anything big is fetched.
    """
    from m2kr.search.hub import pull_folder

    with output.Bars() as bars:
        pulled = pull_folder(
            repo, folder, revision=revision, expected=options.settings(expect), progress=bars
        )
    _tell(pulled, {"folder": str(folder)}, json=json)


def _tell(made: "Contents", what: dict[str, Any], *, json: bool) -> None:

    facts = made.facts()
    unknown = [name for name in ("checkpoint", "pool") if name not in facts]
    told = {**what, "passages": made.passages, "tokens": made.tokens, "files": len(made.names)}
    if json:
        output.emit(told | {"facts": facts, "unknown": unknown})
        return
    for key, value in {**told, **facts}.items():
        shown = output.size(value) if key == "bytes" else value
        output.say(f"{key:<18}{f'{shown:,}' if isinstance(shown, int) else shown}")
    if unknown:
        output.say(
            f"It doesn't say its {' and '.join(unknown)}: nobody can check that it fits a model "
            "and a pool."
        )


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
    from m2kr.errors import UsageError
    from m2kr.retrieval import shard_runs
    from m2kr.search import dispatch
    from m2kr.search.store.reader import TokenStore

    if audit and store is None:
        raise UsageError("an audit compares with exact search, which needs --store STORE")
    if engine == "local" and jobs is not None:
        raise UsageError("--jobs is for --engine ray; here --threads tells how many work")
    queries_store = TokenStore.open(queries)
    if shard is not None:
        if engine == "ray":
            raise UsageError(
                "--shard and --engine ray are two ways to share a search out: take one"
            )
        if out is None or out.suffix != ".parquet":
            raise UsageError("a shard's part is written as Parquet", fix="--out part.parquet")
        with output.Bars() as bars:
            run, result = shard_runs.search_share(
                pool, queries_store, k, shard, threads=threads, device=device, progress=bars
            )
        _show_search(result.facts() | {"run": str(run.save(out))}, json=json)
        return
    stored = TokenStore.open(store) if store is not None else None
    with output.Bars() as bars:
        look: Callable[..., SearchResult] = dispatch.search_folder
        if engine == "ray":
            from m2kr.distributed import ray_engine

            look = partial(ray_engine.search_by_nodes, address=address, jobs=jobs)
        result = look(
            pool, queries_store, k, store=stored, threads=threads, device=device, progress=bars
        )
    facts = result.facts()
    if audit and stored is not None:
        facts["recall"] = dispatch.audit(result, queries_store, stored, audit)
    if out is not None:
        run = shard_runs.run_of(result, queries_store, pool.resolve().name)
        facts["run"] = str(run.save(out))
    _show_search(facts, json=json)


def _show_search(facts: dict[str, Any], *, json: bool) -> None:
    """What was done, for people or machines."""
    if json:
        output.emit(facts)
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {_number(each)}" for name, each in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        output.say(f"{key.replace('_', ' '):<24}{_number(value)}")


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
    from m2kr.retrieval.shard_runs import merge_run_files

    run = merge_run_files(parts)
    facts = {"queries": len(run), **run.metadata["search"], "shards": len(parts)}
    _show_search(facts | {"run": str(run.save(out))}, json=json)


SUBCOMMANDS = {
    "build": (
        build,
        (
            "m2kr index build store/ index/",
            "m2kr index build store/ index/ --nbits 8",
            "m2kr index build store/ index/ --preset official --set seed=1",
        ),
    ),
    "add": (add, ("m2kr index add index/ more_tokens/",)),
    "info": (info, ("m2kr index info index/", "m2kr index info index/ --verify")),
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
    "plan": (
        plan,
        (
            "m2kr index plan 8.8M 80",
            "m2kr index plan 400k 120 --set dim=96 --set id_bytes=20",
        ),
    ),
    "push": (push, ("m2kr index push index/ my-name/okvqa-index --private",)),
    "pull": (
        pull,
        (
            "m2kr index pull my-name/okvqa-store store/",
            "m2kr index pull my-name/okvqa-index index/ --expect pool=fp1:...",
        ),
    ),
}
