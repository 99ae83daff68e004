"""Writes ``docs/sources``, a page for each source, from the builders' specs: ``source_pages.py [--check]``.

Each page is what ``m2kr info SOURCE`` shows and what a reader asks next: splits and their published counts,
columns, instructions, choices, open questions, licence and citation. ``--check`` writes nothing and fails
if a page is not as it would be written.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from m2kr.building import registry
from m2kr.instructions import templates_of
from m2kr.schema import CORE, Column
from m2kr.sources import UNKNOWN, Source, build_command, builder_modules, verdict

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "sources"
_BASIS = {"read": "read in official material", "inferred": "inferred", "ours": "our choice"}


def pages() -> dict[str, str]:
    """The text of every page by file name."""
    sources = [registry.builder(name).source for name in builder_modules()]
    texts = {f"{source.name}.md": "\n".join(page(source)) for source in sources}
    return texts | {"README.md": "\n".join(index(sources))}


def index(sources: list[Source]) -> Iterator[str]:
    """The list of sources, and the columns that all of them have."""
    yield "# The sources\n"
    yield "Written by `tools/source_pages.py` from the builders' specs; `m2kr info SOURCE` shows the same.\n"
    yield "| source | task | primary metric | queries of test | passages |\n|---|---|---|---:|---:|"
    for source in sources:
        split = "test" if "test" in source.pools else next(iter(source.pools))
        counts = (source.expected.get(name) for name in (split, source.pools[split]))
        told = " | ".join("–" if count is None else f"{count:,}" for count in counts)
        yield f"| [{source.title}]({source.name}.md) | {source.task} | {source.headline} | {told} |"
    yield "\nEvery source has these columns, and those of its page.\n"
    for kind in ("queries", "passages", "qrels"):
        yield f"## {kind}\n"
        yield from columns(CORE[kind])
        yield ""


def page(source: Source) -> Iterator[str]:
    """One source's page."""
    yield f"# {source.title}\n"
    if source.summary:
        yield f"{source.summary}\n"
    yield f"- Name: `{source.name}`" + "".join(f", `{alias}`" for alias in source.aliases)
    yield f"- Task: {source.task}; primary metric `{source.headline}`" + (
        f"; results also by {', '.join(f'`{group}`' for group in source.groups)}"
        if source.groups
        else ""
    )
    yield f"- Tables: `{source.config}_data`, `{source.config}_passages`, `{source.config}_qrels`"
    upstream = f"`m2kr build {source.name}`"
    yield (
        f"- Build: `{build_command(source.name)}` (the authors' copy), or {upstream} (from upstream)"
        if (source.released)
        else f"- Build: {upstream}"
    )
    if source.comparable and source.comparable != UNKNOWN:
        said = verdict(source.comparable)
        yield f"- {said[0].upper()}{said[1:]}"
    if source.unjudged == "miss":
        yield "- A query without a right passage counts as missed, as in the published numbers"
    yield f"- Licence: {source.licence}"
    if source.homepage:
        yield f"- Home: <{source.homepage}>"
    yield "\n## Splits\n\n| split | queries | pool | passages |\n|---|---:|---|---:|"
    for split, pool in source.pools.items():
        queries, passages = (source.expected.get(name) for name in (split, pool))
        told = ["–" if count is None else f"{count:,}" for count in (queries, passages)]
        yield f"| {split} | {told[0]} | {pool} | {told[1]} |"
    if source.query_columns or source.passage_columns:
        yield "\n## Columns\n\nBeside [those of every source](README.md):\n"
        yield from columns(source.query_columns, "query: ")
        yield from columns(source.passage_columns, "passage: ")
    listed = templates_of(source.name)
    if listed is not None:
        yield f"\n## Instructions\n\nList `{listed.name}` ({listed.confidence}): {listed.origin}\n"
        yield from (f"- `{text}`" for text in listed.templates)
    if source.options or source.variants:
        yield "\n## Choices\n"
    for option in source.options:
        values = ", ".join(option.choices) or option.kind
        yield f"- `--set {option.name}={option.default}` ({values}): {option.doc}"
    for name, variant in source.variants.items():
        yield f"- edition `{name}`: {variant.title}"
    for heading, wanted in (("How the record is read", True), ("Open questions", False)):
        rules = [rule for rule in source.rules if (rule.basis == "read") is wanted]
        if rules:
            yield f"\n## {heading}\n"
        yield from (f"- {rule.says} ({_BASIS[rule.basis]})" for rule in rules)
    if source.image_notes:
        yield "\n## Images\n"
        yield from (f"- {note}" for note in source.image_notes)
    if source.citation:
        yield f"\n## Citation\n\n```bibtex\n{source.citation.strip()}\n```"
    yield ""


def columns(listed: tuple[Column, ...], before: str = "") -> Iterator[str]:
    """A line for each column."""
    for column in listed:
        null = ", may be null" if column.nullable else ""
        yield f"- {before}`{column.name}` ({column.type}{null}): {column.doc}"


def main(check: bool) -> int:
    """Writes the pages, or says which are not up to date."""
    texts = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    stale = sorted(
        name for name in texts.keys() | there.keys() if texts.get(name) != there.get(name)
    )
    if check:
        sys.stderr.write(
            "".join(
                f"docs/sources/{name} is not as tools/source_pages.py writes it\n" for name in stale
            )
        )
        return bool(stale)
    FOLDER.mkdir(exist_ok=True)
    for name in stale:
        if name in texts:
            (FOLDER / name).write_text(texts[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
