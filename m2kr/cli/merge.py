"""``m2kr merge``."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr merge wit",
    "m2kr merge wit /scratch/node1/m2kr-data /scratch/node2/m2kr-data",
    "m2kr merge okvqa --edition okvqa-gs --json",
)


def command(
    source: Annotated[str, typer.Argument(help="A source.", metavar="SOURCE")],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...", help="Data roots of shards that did not share this one."
        ),
    ] = None,
    data: options.Data = None,
    edition: options.Edition = None,
    offline: options.Offline = False,
    jobs: options.Jobs = 1,
    json: options.Json = False,
) -> None:
    """Put the shards of a build together and publish it.

    All of `m2kr build SOURCE --shard 1/N` to `N/N` must have run. What they left undone is done here;
    the bytes are those of a build in one process.
    """
    from m2kr import paths
    from m2kr.building import registry
    from m2kr.building.release.routes import builder_for
    from m2kr.building.shards import find_shards, merge_shards
    from m2kr.cli import output
    from m2kr.cli.build import show
    from m2kr.errors import MissingError

    root, name = paths.data_root(data), registry.resolve_source(source)
    output.say(f"data root: {root}", json_mode=json)
    shards = find_shards(registry.builder(name).source, root, folders or (), edition)
    if shards is None:
        raise MissingError(
            f"there is no shard of {name}",
            where=str(root),
            fix=f"m2kr build {name} --shard 1/2 --data {quote(str(root))} and 2/2, then this again",
        )
    route = shards.route
    if route.get("folder"):
        route["folder"] = Path(route["folder"])
    with output.Bars() as bars:
        built = merge_shards(
            builder_for(name, **route), root, shards, offline=offline, jobs=jobs, progress=bars
        )
    record = built.manifest
    if json:
        told = {key: record[key] for key in ("route", "splits", "fingerprints", "comparable")}
        entry = {"source": name, "folder": str(built.folder), "fresh": built.fresh} | told
        output.emit({"data": str(root), "built": [entry]})
    else:
        show(name, built.folder, record, fresh=built.fresh)
