"""``m2kr build``."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from m2kr.cli import options, output

if TYPE_CHECKING:
    from m2kr.building.request import BuildRequest
    from m2kr.building.shards import ShardBuilt
    from m2kr.building.spec import Builder

EXAMPLES = (
    "m2kr build mini",
    "m2kr build okvqa --plan",
    "m2kr build okvqa --route release --split test",
    "m2kr build okvqa --edition okvqa-gs",
    "m2kr build msmarco --set pool=full",
    "m2kr build evqa --align release",
    "m2kr build infoseek --set test_images=all --ledger full",
    "m2kr build msmarco --probe",
    "m2kr build mini --limit 100 --json",
    "m2kr build wit --engine ray --address auto",
    "m2kr build wit --shard $((SLURM_ARRAY_TASK_ID + 1))/8   (then once: m2kr merge wit)",
)
ROUTES = "How: from upstream files, or from the authors' release on the Hugging Face hub."


def command(
    source: Annotated[list[str], typer.Argument(help="Sources, or 'all'.", metavar="SOURCE...")],
    data: options.Data = None,
    edition: options.Edition = None,
    route: Annotated[
        Literal["sources", "release"], typer.Option("--route", help=ROUTES)
    ] = "sources",
    align: Annotated[
        Literal["release"] | None,
        typer.Option(
            "--align", help="Build from upstream files the very rows that the release has."
        ),
    ] = None,
    split: options.Splits = None,
    set_: options.Settings = None,
    plan: options.Plan = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Ask every file for its first MB and parse it; build nothing."
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", help="Keep N queries a split, in an edition of its own."
        ),
    ] = None,
    offline: options.Offline = False,
    jobs: options.Jobs = 1,
    shard: options.Shard = None,
    engine: options.Engine = "local",
    address: options.Address = "auto",
    force: options.Force = False,
    ledger: Annotated[
        Literal["faults", "full"],
        typer.Option("--ledger", help="Upstream rows listed: dropped and repaired ones, or all."),
    ] = "faults",
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Release route: a local copy of its files."),
    ] = None,
    revision: options.Revision = None,
    no_repair: Annotated[
        bool, typer.Option("--no-repair", help="Release route: keep passages that occur twice.")
    ] = False,
    any_counts: Annotated[
        bool, typer.Option("--any-counts", help="Release route: accept other row counts.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Download a source and build its tables.

    A build can be interrupted at any point and resumed by the same command; nothing half-written is
    ever taken for whole.
    """
    from m2kr import paths
    from m2kr.building import registry
    from m2kr.building.build import build
    from m2kr.building.release.routes import builder_for
    from m2kr.cli import plans
    from m2kr.errors import M2KRError, UsageError

    root = paths.data_root(data)
    given = options.settings(set_)
    if source != ["all"]:
        names = [*map(registry.resolve_source, source)]
    else:
        every = not align and route != "release"
        names = [name for name, spec in registry.sources().items() if every or spec.released]
        for broken in registry.broken_builders().values():
            output.say(f"left out: {broken}", json_mode=True)
    asked: dict[str, Any] = {
        "route": route,
        "align": align is not None,
        "folder": from_,
        "revision": revision,
        "repair": not no_repair,
        "any_counts": any_counts,
    }
    builders = [builder_for(name, **asked) for name in names]
    if plan:
        plans.show(builders, root, given, edition, split, json=json)
        return
    if probe:
        show_probes(builders, given, edition, json=json)
        return
    output.say(f"data root: {root}", json_mode=json)
    executor = None
    if engine == "ray":
        from m2kr.distributed.ray_engine import RayExecutor

        executor = RayExecutor(address)
    if shard is not None:
        from m2kr.building.request import BuildRequest

        if executor is not None:
            raise UsageError("--shard and --engine ray are two ways to share a build out: take one")
        request = BuildRequest(
            edition, given, split, limit, full_ledger=ledger == "full", force=force
        )
        build_share(builders, root, shard, request, asked, offline=offline, jobs=jobs, json=json)
        return
    results = []
    failed: dict[str, M2KRError] = {}
    for name, builder in zip(names, builders, strict=True):
        try:
            for line in plans.before(builder, root, given, edition, split):
                output.say(f"{name}: {line}", json_mode=json)
            with output.Bars() as bars:
                built = build(
                    builder,
                    root,
                    edition=edition,
                    options=given,
                    splits=split,
                    limit=limit,
                    offline=offline,
                    jobs=jobs,
                    force=force,
                    full_ledger=ledger == "full",
                    progress=bars,
                    executor=executor,
                )
        except M2KRError as error:
            # The base class stands for this machine's troubles, such as a full disk.
            if len(names) == 1 or type(error) is M2KRError:
                raise
            failed[name] = error
            output.complain(error)
            continue
        record = built.manifest
        results.append({"source": name, "folder": str(built.folder), "fresh": built.fresh})
        results[-1] |= {
            key: record[key] for key in ("route", "splits", "fingerprints", "comparable")
        }
        if not json:
            show(name, built.folder, record, fresh=built.fresh)
    if json:
        errors = {name: error.as_dict() for name, error in failed.items()}
        output.emit({"data": str(root), "built": results} | ({"failed": errors} if failed else {}))
    if failed:
        many = f"{len(failed)} of {len(names)} sources were not built: {', '.join(failed)}"
        output.say(many, json_mode=True)
        raise typer.Exit(max(error.exit_code for error in failed.values()))


def show(name: str, folder: object, manifest: dict[str, Any], *, fresh: bool) -> None:
    """What a build left, as a table for people."""
    from m2kr import sources

    output.say(f"{'built' if fresh else 'already built:'} {name} in {folder}")
    output.table(
        ("split", "queries", "with image", "pool", "passages", "fingerprint (eval)"),
        [
            (
                split,
                f"{facts['queries']:,}",
                f"{facts['with_image']:,}",
                facts["pool"],
                f"{facts['passages']:,}",
                manifest["fingerprints"][split]["eval"][:16],
            )
            for split, facts in manifest["splits"].items()
        ],
    )
    for action, rules in _ledger_totals(manifest).items():
        listed = ", ".join(f"{n:,} {rule}" for rule, n in rules.items())
        output.say(f"upstream rows {action}: {listed}")
    for warning in manifest["count_warnings"]:
        output.say(f"count differs from the published one: {warning}")
    output.say(sources.verdict(manifest["comparable"]))


def _ledger_totals(manifest: dict[str, Any]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for facts in manifest["tables"].values():
        for action, rules in facts.get("ledger", {}).items():
            for rule, n in rules.items():
                totals.setdefault(action, {}).setdefault(rule, 0)
                totals[action][rule] += n
    return totals


def show_probes(
    builders: "Sequence[Builder]", given: Mapping[str, str], edition: str | None, *, json: bool
) -> None:
    """Asks for the first MB of every file that some builds need, and tells what is not as expected.

    Raises:
        UsageError: an option is unknown or has a wrong value.
        typer.Exit: with `UpstreamError`'s code, if a file isn't as expected or can't be had.
    """
    from concurrent.futures import ThreadPoolExecutor

    from m2kr.building.options import resolve_options
    from m2kr.building.probe import probe_asset
    from m2kr.errors import UpstreamError

    # The release route has no assets: a build checks it by its counts of rows.
    users: dict[str, list[str]] = {}
    assets = {}
    for builder in builders:
        for asset in builder.assets(resolve_options(builder.source, given, edition)):
            assets[asset.name] = asset
            users.setdefault(asset.name, []).append(builder.source.name)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(probe_asset, assets.values()))
    bad = [file for file in found if file.status not in {"ok", "local"}]
    if json:
        files = [asdict(file) | {"sources": users[file.name]} for file in found]
        output.emit({"ok": not bad, "files": files})
    else:
        rows = []
        for file in found:
            parsed = "-" if file.rows is None else f"{file.rows:,}"
            names, size = ", ".join(users[file.name]), output.size(file.size)
            rows.append((names, file.name, file.status, size, parsed, file.problem))
        if rows:
            output.table(("sources", "file", "state", "size", "rows parsed", "problem"), rows)
        asked = sum(file.status != "local" for file in found)
        output.say(f"{asked - len(bad)} of {asked} files upstream are as expected")
    if bad:
        raise typer.Exit(UpstreamError.exit_code)


def build_share(
    builders: "Sequence[Builder]",
    root: Path,
    share: str,
    request: "BuildRequest",
    asked: Mapping[str, Any],
    *,
    offline: bool,
    jobs: int,
    json: bool,
) -> None:
    """Does one share of each source and says what comes next."""
    from m2kr.building.shards import Shard, build_shard
    from m2kr.cli import plans

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
        output.say(_next_step(name, done, root), json_mode=json)
    if json:
        output.emit({"data": str(root), "shards": results})


def _next_step(name: str, built: "ShardBuilt", root: Path) -> str:
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
