"""``m2kr build --shard``: one share of a build, and what is still to be done."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2kr.building.request import BuildRequest
from m2kr.building.shards import Shard, ShardBuilt, build_shard
from m2kr.building.spec import Builder
from m2kr.cli import output, plans


def run(
    builders: Sequence[Builder],
    root: Path,
    share: str,
    request: BuildRequest,
    asked: Mapping[str, Any],
    *,
    offline: bool,
    jobs: int,
    json: bool,
) -> None:
    """Does one share of each source and says what comes next."""
    shard = Shard.parse(share)
    folder = asked["folder"]
    told = {**asked, "folder": None if folder is None else str(folder)}
    results = []
    for builder in builders:
        name = builder.source.name
        for line in plans.before(builder, root, request.options, request.edition, request.splits):
            output.say(f"{name}: {line}", json_mode=json)
        with output.Bars() as bars:
            done = build_shard(
                builder, root, shard, request, offline=offline, jobs=jobs, progress=bars, route=told
            )
        results.append(
            {
                "source": name,
                "folder": str(done.folder),
                "shard": str(shard),
                "done": done.done,
                "waits_for": list(done.waits_for),
                "fresh": done.fresh,
            }
        )
        output.say(_told(name, done, root), json_mode=json)
    if json:
        output.emit({"data": str(root), "shards": results})


def _told(name: str, built: ShardBuilt, root: Path) -> str:
    merge = f"m2kr merge {shlex.quote(name)} --data {shlex.quote(str(root))}"
    if not built.fresh:
        return f"already built: {name} in {built.folder}"
    what = f"shard {built.shard} of {name}: {len(built.done)} parts and tables are complete"
    if built.waits_for:
        count = len(built.waits_for)
        return (
            f"{what}; the {built.stage} need {count} of other shards: run this again when these are "
            f"done, or leave the rest to {merge}"
        )
    return f"{what}; when all shards are: {merge}"
