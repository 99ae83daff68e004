"""``m2kr info``."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr info mini",
    "m2kr info mini --json",
)


def command(
    source: Annotated[str, typer.Argument(help="Source name.")],
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Show a source: what it is, its columns, and its counts where it is built."""
    from m2kr import paths
    from m2kr.building import registry
    from m2kr.cli import output
    from m2kr.data.built_sources import BuiltSources
    from m2kr.errors import UsageError

    root = paths.data_root(data)
    here = BuiltSources.below(root)
    here.warn_of_damaged()
    try:
        name = here.name_of(source)
    except UsageError as unknown:
        try:
            name = registry.resolve_source(source)  # an alias of what isn't built: builders know it
        except UsageError as error:
            expected = f"{error.expected}; built here: {', '.join(sorted(here.editions)) or 'none'}"
            raise UsageError(error.what, expected=expected, fix=error.fix) from unknown
    records = {
        e: found.manifest
        for e, found in here.editions.get(name, {}).items()
        if edition in (None, e)
    }
    spec = _spec(name, records)
    if json:
        output.emit({"data": str(root), "source": spec, "editions": records})
        return
    _show(spec, records, str(root))


def _spec(name: str, records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What the builder says of a source; where it has none that works, what its manifest says."""
    from m2kr.building import registry
    from m2kr.building.manifest import describe_source
    from m2kr.errors import InputError
    from m2kr.sources import builder_modules

    recorded: dict[str, Any] | None = next((each["source"] for each in records.values()), None)
    if recorded is not None and name not in builder_modules():
        return recorded
    try:
        return describe_source(registry.builder(name).source)
    except InputError:
        if recorded is None:
            raise
        return recorded


def _show(spec: dict[str, Any], records: dict[str, dict[str, Any]], root: str) -> None:
    from m2kr.cli import output
    from m2kr.data.built_sources import edition_in_words
    from m2kr.sources import UNKNOWN, build_command, verdict

    output.say(f"{spec['title']} ({spec['name']}), task {spec['task']}")
    for key in ("summary", "licence", "homepage"):
        if spec[key]:
            output.say(f"{key}: {spec[key]}")
    if not records and spec["comparable"] and spec["comparable"] != UNKNOWN:
        output.say(verdict(spec["comparable"]))
    output.say(f"headline metric: {spec['headline']}")
    for kind in ("queries", "passages"):
        columns = spec["columns"][kind]
        output.table(
            ("column", "type", "null", "what it holds"),
            [(c["name"], c["type"], "yes" if c["nullable"] else "", c["doc"]) for c in columns],
            title=kind,
        )
    for option in spec["options"]:
        values = " | ".join(option["choices"]) or option["kind"]
        shown = f"--set {option['name']}={option['default']}  ({values}): {option['doc']}"
        output.say(f"option {shown}")
    for name, variant in spec["variants"].items():
        output.say(f"edition {name}: {variant['title']}")
    for rule in spec["rules"]:
        output.say(f"rule {rule['name']} ({rule['basis']}): {rule['says']}")
    for note in spec["image_notes"]:
        output.say(f"images: {note}")
    if not records:
        output.say(f"not built under {root}; build it: {build_command(spec['name'])}")
    for edition, record in records.items():
        counts = ("queries", "judged", "with_image", "with_answers")
        output.table(
            ("split", *(name.replace("_", " ") for name in counts), "pool", "passages"),
            [
                (split, *(f"{f[name]:,}" for name in counts), f["pool"], f"{f['passages']:,}")
                for split, f in record["splits"].items()
            ],
            title=f"edition {edition}: {edition_in_words(record)}",
        )
        output.say(verdict(record["comparable"]))
