"""``m2kr list``."""

from typing import Any

from m2kr.cli import options

EXAMPLES = (
    "m2kr list",
    "m2kr list --json",
)


def command(data: options.Data = None, json: options.Json = False) -> None:
    """List the sources and what is built here."""
    from m2kr import paths
    from m2kr.building import registry
    from m2kr.cli import output
    from m2kr.data.built_sources import BuiltSources, edition_in_words

    root = paths.data_root(data)
    here = BuiltSources.below(root)
    have = here.editions
    specs, broken = registry.sources(), dict(registry.broken_builders())
    title: str
    task: str
    rows: list[dict[str, Any]] = []
    for name in sorted({*specs, *broken, *have}):
        editions = have.get(name, {})
        if name in specs:
            title, task = specs[name].title, specs[name].task
        elif editions:
            source = next(iter(editions.values())).manifest["source"]
            title, task = source["title"], source["task"]
        else:
            title, task = "its builder is broken, see below", "-"
        rows.append(
            {
                "source": name,
                "title": title,
                "task": task,
                "editions": sorted(editions),
                **({"broken": broken[name].as_dict()} if name in broken else {}),
            }
        )
    if json:
        wrong = [error.as_dict() for error in here.damaged.values()]
        output.emit({"data": str(root), "sources": rows, "damaged": wrong})
        return
    cells = []
    for row in rows:
        editions = have.get(row["source"], {})
        words = [f"{name}: {edition_in_words(editions[name].manifest)}" for name in row["editions"]]
        cells.append((row["source"], row["task"], row["title"], "\n".join(words) or "-"))
    output.table(("source", "task", "what it is", "built here"), cells)
    for problem in (*broken.values(), *here.damaged.values()):
        output.say(str(problem))
    output.say(f"data root: {root}")
