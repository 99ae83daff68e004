"""``m2kr build``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from m2kr.cli import options

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
            "--probe", help="BuildRequest every file for its first MB and parse it; build nothing."
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
    from m2kr.cli import output, plans
    from m2kr.errors import M2KRError, UsageError

    root = paths.data_root(data)
    given = options.settings(set_)
    if source != ["all"]:
        names = [*map(registry.resolve, source)]
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
        from m2kr.cli import probes

        probes.show(builders, given, edition, json=json)
        return
    output.say(f"data root: {root}", json_mode=json)
    executor = None
    if engine == "ray":
        from m2kr.distributed.ray_engine import RayExecutor

        executor = RayExecutor(address)
    if shard is not None:
        from m2kr.building.request import BuildRequest
        from m2kr.cli import shards

        if executor is not None:
            raise UsageError("--shard and --engine ray are two ways to share a build out: take one")
        request = BuildRequest(
            edition, given, split, limit, full_ledger=ledger == "full", force=force
        )
        shards.run(builders, root, shard, request, asked, offline=offline, jobs=jobs, json=json)
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
    from m2kr.cli import output

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
                manifest["fingerprints"][split]["eval"][:16] + "…",
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
