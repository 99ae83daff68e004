"""``m2kr diff``."""

import json as jsons
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.building.diff import TableDiff

EXAMPLES = (
    "m2kr diff m2kr/okvqa rebuilt/okvqa --split test",
    "m2kr diff m2kr rebuilt",
    "m2kr diff mini /mnt/other/mini --examples 10",
)
_ROOM = 200  # characters of a value


def command(
    a: Annotated[str, typer.Argument(help="EDITION/SOURCE, EDITION or an edition folder.")],
    b: Annotated[str, typer.Argument(help="The same, for the other version.")],
    split: options.SplitOrNone = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="Differences shown of each sort.")
    ] = 3,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show how two built versions of a source differ: ids, rows, columns, fingerprints.

    Exit code 0 if everything that both have is equal, else 1. What only one of them has (splits,
    columns) is listed and not compared. With --split only that split and its pool are. The order
    of rows and the cut into files do not count. Tables whose files have equal hashes are not joined.
    """
    from m2kr import paths
    from m2kr.building.diff import diff, find_versions, label
    from m2kr.cli import output

    root = paths.data_root(data)
    sources: list[dict[str, Any]] = []
    for one, other in find_versions(a, b, root):
        with output.Bars() as bars:
            tables, prints = diff(one, other, split, examples, bars)
        same = [not t.differences for t in tables] + [all(p.values()) for p in prints.values()]
        sources.append(
            {"a": label(one), "b": label(other), "equal": all(same), "fingerprints": prints}
        )
        sources[-1]["tables"] = [_record(table) for table in tables]
        for key, x, y in (("splits_a", one, other), ("splits_b", other, one)):
            sources[-1][key] = [s for s in x.manifest["splits"] if s not in y.manifest["splits"]]
        if not json:
            output.say(f"A  {label(one)}: route {one.manifest['route']}, {one.folder}")
            output.say(f"B  {label(other)}: route {other.manifest['route']}, {other.folder}")
            _show(sources[-1])
    equal = all(source["equal"] for source in sources)
    if json:
        output.emit({"data": str(root), "equal": equal, "sources": sources})
    else:
        output.say("everything compared is equal" if equal else "A and B differ")
    if not equal:
        raise typer.Exit(1)


def _record(table: "TableDiff") -> dict[str, Any]:
    """A table for ``--json``; values as JSON texts, cut to where they begin to differ."""
    record = asdict(table) | {"equal": not table.differences}
    for each in record["differences"]:
        rows = ((row_id, *_texts(a, b)) for row_id, a, b in each["examples"])
        each["examples"] = [dict(zip(("id", "a", "b"), row, strict=True)) for row in rows]
    return record


def _texts(*values: Any) -> list[str]:
    texts = [jsons.dumps(value, ensure_ascii=False) for value in values]
    first = next((i for i, (x, y) in enumerate(zip(*texts, strict=False)) if x != y), 0)
    start = max(0, first - _ROOM // 3) if max(map(len, texts)) > _ROOM else 0
    texts = ["…" + text[start + 1 :] if start else text for text in texts]
    return [text if len(text) <= _ROOM else text[: _ROOM - 1] + "…" for text in texts]


def _show(source: dict[str, Any]) -> None:
    from m2kr.cli import output

    for table in source["tables"]:
        rows = ", ".join(
            f"{n:,} rows in {side}" for side, n in zip("AB", table["rows"], strict=True)
        )
        notes = "; ".join(["equal"] * table["equal"] + table["notes"])
        output.say(f"{table['name']} ({rows}): {notes or 'they differ'}")
        for each in table["differences"]:
            output.say(f"  {each['what']}: {each['rows']:,} rows")
            lone = each["what"] in ("only in A", "only in B")
            for row in each["examples"]:
                output.say(f"    {row['id']}")
                for side in each["what"][-1] if lone else "AB":
                    output.say(f"      {side} {row[side.lower()]}")
    for letter in "AB":
        if splits := source[f"splits_{letter.lower()}"]:
            output.say(f"only {letter} has the splits {', '.join(splits)}")
    for split, parts in source["fingerprints"].items():
        differ = ", ".join(part for part, same in parts.items() if not same)
        verdict = "equal for scoring" if parts["eval"] else "NOT equal for scoring"
        output.say(
            f"{split}: {verdict}" + (f" (fingerprints that differ: {differ})" if differ else "")
        )
