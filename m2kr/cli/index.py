"""``m2kr index``: Compressed late-interaction indexes: build, add to, look at, search."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import index_search, options

if TYPE_CHECKING:
    from m2kr.search.index.settings import BuildSettings

Store = Annotated[Path, typer.Argument(help="A token store: a folder with store.json.")]
Index = Annotated[Path, typer.Argument(help="An index: a folder with index.json.")]
Preset = Annotated[
    str,
    typer.Option("--preset", help="compressed (ours), or official: the published protocol."),
]
ShardPassages = Annotated[
    int,
    typer.Option(
        "--shard-passages", min=1, max=1 << 16, help="Passages after which a kill loses nothing."
    ),
]


def build(
    store: Store,
    index: Annotated[Path, typer.Argument(help="Folder for the index.")],
    preset: Preset = "compressed",
    nbits: Annotated[
        int | None,
        typer.Option("--nbits", help="Bits a dimension; 4, or 8 for the official preset."),
    ] = None,
    centroids: Annotated[
        int | None, typer.Option("--centroids", min=1, help="By default by the pool's size.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the training.")] = 0,
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", min=1, help="Of k-means, at most; 8, official: 20."),
    ] = None,
    shard_passages: ShardPassages = 1 << 16,
    json: options.Json = False,
) -> None:
    """Build a compressed index from a token store; the same command finishes one that was cut off."""
    from m2kr.cli import output
    from m2kr.search.index.build import build_index
    from m2kr.search.index.settings import pool_of
    from m2kr.search.store.reader import TokenStore

    chosen = _settings(preset, nbits, centroids, seed, iterations)
    pool = pool_of(TokenStore.open(store))
    with output.Bars() as bars:
        build_index(pool, index, chosen, shard_passages=shard_passages, progress=bars)
    info(index, json=json)


def _settings(
    preset: str, nbits: int | None, centroids: int | None, seed: int, iterations: int | None
) -> "BuildSettings":
    from dataclasses import replace

    from m2kr.errors import UsageError
    from m2kr.search.index import official_train
    from m2kr.search.index.kmeans import Training
    from m2kr.search.index.settings import BuildSettings

    if preset == "official":
        chosen = official_train.settings(seed, nbits or official_train.NBITS, centroids)
    elif preset == "compressed":
        chosen = BuildSettings("compressed", nbits or 4, centroids, Training(seed=seed))
    else:
        raise UsageError(f"there is no preset '{preset}'", expected="compressed or official")
    if iterations is None:
        return chosen
    return replace(chosen, training=replace(chosen.training, iterations=iterations))


def add(
    index: Index,
    store: Store,
    shard_passages: ShardPassages = 1 << 16,
    json: options.Json = False,
) -> None:
    """Add the passages of a token store that the index does not have yet.

    The store may be another one, or the index's own after it has grown. Centroids stay as they are.
    Ids that the index has from another store are refused: nothing is taken out of an index.
    """
    from m2kr.cli import output
    from m2kr.search.index.build import add_passages
    from m2kr.search.index.settings import pool_of
    from m2kr.search.store.reader import TokenStore

    pool = pool_of(TokenStore.open(store))
    with output.Bars() as bars:
        add_passages(pool, index, shard_passages=shard_passages, progress=bars)
    info(index, json=json)


def info(
    index: Index,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte with its checksum.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show what an index holds, how it was made and what it takes."""
    from m2kr.cli import output
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


SUBCOMMANDS = {
    "build": (
        build,
        (
            "m2kr index build store/ index/",
            "m2kr index build store/ index/ --nbits 8",
            "m2kr index build store/ index/ --preset official --seed 1",
        ),
    ),
    "add": (add, ("m2kr index add index/ more_tokens/",)),
    "info": (info, ("m2kr index info index/", "m2kr index info index/ --verify")),
    **index_search.SUBCOMMANDS,
}
