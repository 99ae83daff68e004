"""``m2kr build``."""

from typing import Annotated, Any

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr build mini",
    "m2kr build mini --plan",
    "m2kr build mini --limit 100 --json",
)


def command(
    source: Annotated[list[str], typer.Argument(help="Sources, or 'all'.", metavar="SOURCE...")],
    data: options.Data = None,
    edition: Annotated[
        str | None,
        typer.Option("--edition", help="Name of the edition to write; the source's own if absent."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be fetched and from where; do nothing.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", help="Keep N queries a split, in an edition of its own."
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use only files that are already here.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Files fetched and tables built at once.")
    ] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Build again even if nothing changed.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Download a source and build its tables.

    A build can be interrupted at any point and resumed by the same command; nothing half-written is
    ever taken for whole.
    """
    from m2kr import paths, sources
    from m2kr.build.run import build
    from m2kr.cli import output, plans

    root = paths.data_root(data)
    names = sorted(sources.sources()) if source == ["all"] else [*map(sources.resolve, source)]
    if plan:
        plans.show(names, root, json=json)
        return
    results = []
    output.say(f"data root: {root}", json_mode=json)
    for name in names:
        builder = sources.builder(name)
        spec: sources.Source = builder.SOURCE
        output.say(f"{name}: {plans.to_fetch([name], root)}", json_mode=json)
        if spec.comparable:
            note = f"not comparable with published numbers: {spec.comparable}"
            output.say(f"{name}: {note}", json_mode=json)
        with output.Bars() as bars:
            built = build(
                builder,
                root,
                edition=edition,
                limit=limit,
                offline=offline,
                jobs=jobs,
                force=force,
                progress=bars,
            )
        results.append({"source": name, "folder": str(built.folder), "fresh": built.fresh})
        results[-1] |= {"splits": built.manifest["splits"]}
        results[-1] |= {"fingerprints": built.manifest["fingerprints"]}
        if not json:
            show(name, built.folder, built.manifest, fresh=built.fresh)
    if json:
        output.emit({"data": str(root), "built": results})


def show(name: str, folder: object, manifest: dict[str, Any], *, fresh: bool) -> None:
    """What a build left, as a table for people."""
    from rich.table import Table

    from m2kr.cli import output

    output.say(f"{'built' if fresh else 'already built:'} {name} in {folder}")
    table = Table("split", "queries", "with image", "pool", "passages", "fingerprint (eval)")
    for split, facts in manifest["splits"].items():
        table.add_row(
            split,
            f"{facts['queries']:,}",
            f"{facts['with_image']:,}",
            facts["pool"],
            f"{facts['passages']:,}",
            manifest["fingerprints"][split]["eval"][:16] + "…",
        )
    output.console().print(table)
    for action, rules in _ledger_totals(manifest).items():
        listed = ", ".join(f"{n:,} {rule}" for rule, n in rules.items())
        output.say(f"upstream rows {action}: {listed}")
    for warning in manifest["count_warnings"]:
        output.say(f"count differs from the published one: {warning}")


def _ledger_totals(manifest: dict[str, Any]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for facts in manifest["tables"].values():
        for action, rules in facts.get("ledger", {}).items():
            for rule, n in rules.items():
                totals.setdefault(action, {}).setdefault(rule, 0)
                totals[action][rule] += n
    return totals
