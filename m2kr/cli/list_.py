"""``m2kr list``."""

from typing import Any

from m2kr.cli import options

EXAMPLES = (
    "m2kr list",
    "m2kr list --json",
)


def command(data: options.Data = None, json: options.Json = False) -> None:
    """List the sources and what is built here."""
    from rich.table import Table

    from m2kr import paths, sources
    from m2kr.cli import output, probes
    from m2kr.data.load import built, manifest_of

    root = paths.data_root(data)
    have, probed = built(root), probes.read(root)
    specs = sources.sources()
    rows: list[dict[str, Any]] = []
    for name in sorted({*specs, *have}):
        editions = have.get(name, {})
        if name in specs:
            title, task = specs[name].title, specs[name].task
        else:
            source = manifest_of(next(iter(editions.values())), name)["source"]
            title, task = source["title"], source["task"]
        parsed = None
        if name in specs and probes.has_urls(name):
            parsed = probed.get(name, {}).get("date", "never")
        rows.append(
            {
                "source": name,
                "title": title,
                "task": task,
                "editions": sorted(editions),
                "parsed_on_real_bytes": parsed,
            }
        )
    if json:
        output.emit({"data": str(root), "sources": rows})
        return
    table = Table("source", "task", "what it is", "built here", "parsed on real bytes")
    for row in rows:
        here, date = ", ".join(row["editions"]) or "-", row["parsed_on_real_bytes"] or "-"
        table.add_row(row["source"], row["task"], row["title"], here, date)
    output.console().print(table)
    output.say(f"data root: {root}")
