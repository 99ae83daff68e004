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
    from m2kr.cli import output
    from m2kr.search.index.build import build_index
    from m2kr.search.index.settings import pool_of
    from m2kr.search.store.reader import TokenStore

    chosen = _settings(preset, nbits, **_numbers(options.settings(set_)))
    pool = pool_of(TokenStore.open(store))
    with output.Bars() as bars:
        build_index(pool, index, chosen, progress=bars)
    info(index, json=json)


_LEAST = {"seed": 0, "centroids": 1, "iterations": 1}


def _numbers(given: dict[str, str]) -> dict[str, int]:
    from m2kr.errors import UsageError

    for name, text in given.items():
        if name not in _LEAST:
            raise UsageError(f"an index has no setting {name!r}", expected=", ".join(_LEAST))
        if not text.isdecimal() or int(text) < _LEAST[name]:
            raise UsageError(f"--set {name}={text}", expected=f"a number from {_LEAST[name]}")
    return {name: int(text) for name, text in given.items()}


def _settings(
    preset: str,
    nbits: int | None,
    *,
    seed: int = 0,
    centroids: int | None = None,
    iterations: int | None = None,
) -> "BuildSettings":
    from dataclasses import replace

    from m2kr.errors import UsageError
    from m2kr.search.index import official_train
    from m2kr.search.index.kmeans import Training
    from m2kr.search.index.settings import BuildSettings

    if preset == "official":
        chosen = official_train.official_build_settings(
            seed, nbits or official_train.NBITS, centroids
        )
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
            "m2kr index build store/ index/ --preset official --set seed=1",
        ),
    ),
    "add": (add, ("m2kr index add index/ more_tokens/",)),
    "info": (info, ("m2kr index info index/", "m2kr index info index/ --verify")),
    **index_search.SUBCOMMANDS,
}
