"""What ``m2kr diff`` shows: tables for people, a record for machines."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from m2kr.build.compare.table import UNORDERED
from m2kr.cli import output

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from m2kr.build.compare.diff import SourceDiff, Version
    from m2kr.build.compare.table import ColumnDiff, TableDiff

JSON_VALUE = 200  # characters of a value in --json
VERDICT = {True: "equal for scoring", False: "NOT equal for scoring"}
_RULES = (
    "not counted: the order of pos_item_ids, of rows and of files; "
    "left out, because they follow from the rest: pos_item_contents, qrels"
)


def show(found: "SourceDiff") -> None:
    """Prints how two versions differ."""
    console = output.console()
    for letter, version in (("A", found.a), ("B", found.b)):
        output.say(f"{letter}  {version.name}: {_made(version)}, {version.folder}")
    console.print(_tables(found))
    for table in found.tables:
        if (shown := _examples(table, console.width)) is not None:
            console.print(shown)
    for line in _notes(found):
        output.say(line)
    if found.fingerprints:
        console.print(_verdicts(found))


def _made(version: "Version") -> str:
    record = version.manifest
    limit = f", limit {record['limit']}" if record.get("limit") is not None else ""
    return f"route {record['route']}, m2kr {record['versions']['m2kr']}{limit}"


def _tables(found: "SourceDiff") -> "Table":
    from rich.table import Table

    table = Table(title="tables that both have", title_justify="left")
    table.add_column("table", overflow="fold")
    for head in ("rows A", "rows B", "only in A", "only in B", "changed"):
        table.add_column(head, justify="right")
    table.add_column("columns that differ, and in how many rows", overflow="fold")
    for each in found.tables:
        counts = (*each.rows, each.only_a.rows, each.only_b.rows, each.changed)
        what = [_column(c) for c in each.columns]
        what += [f"{name}: {one} in A, {other} in B" for name, one, other in each.retyped]
        if each.equal:
            what = ["equal, the same files" if each.same_files else "equal"]
        table.add_row(each.name, *(f"{n:,}" for n in counts), "\n".join(what))
    return table


def _column(c: "ColumnDiff") -> str:
    share = "all" if c.space_only == c.rows else f"{c.space_only:,}"
    return f"{c.column} {c.rows:,}" + (f" ({share} in white space alone)" if c.space_only else "")


def _examples(found: "TableDiff", width: int) -> "Table | None":
    """The first differences of each sort, A's value over B's; None where there is none."""
    from rich.table import Table
    from rich.text import Text

    room = max(30, width - 70)
    groups: list[tuple[str, list[tuple[str, Text]]]] = [
        (f"{c.column} ({c.rows:,})", [(e.id, _both(c.column, e.a, e.b, room)) for e in c.examples])
        for c in found.columns
    ]
    for letter, lone in (("A", found.only_a), ("B", found.only_b)):
        rows = [(i, Text(f"{letter} {_cut(as_text(text), 0, room)}")) for i, text in lone.examples]
        groups.append((f"only in {letter} ({lone.rows:,})", rows))
    if not any(rows for _, rows in groups):
        return None
    table = Table(title=f"{found.name}: examples", title_justify="left")
    table.add_column("what (rows)", overflow="fold", max_width=32)
    table.add_column("id", overflow="fold", max_width=26)
    table.add_column("values", overflow="fold")
    for what, rows in groups:
        for n, (row_id, values) in enumerate(rows):
            last = n == len(rows) - 1
            table.add_row("" if n else what, Text(row_id), values, end_section=last)
    return table


def _both(column: str, a: Any, b: Any, room: int) -> "Text":
    """Two values one over the other; what differs stands out."""
    from rich.text import Text

    texts = shortened(column, a, b, room)
    first = _alike(*texts)
    last = _alike(*(text[first:][::-1] for text in texts))
    made = Text()
    for letter, text in zip("AB", texts, strict=True):
        line = Text(f"{letter} {text}")
        line.stylize("bold yellow", 2 + first, 2 + len(text) - last)
        made.append_text(line).append("\n" if letter == "A" else "")
    return made


def shortened(column: str, a: Any, b: Any, room: int) -> list[str]:
    """Two values as JSON texts of at most ``room`` characters, cut to where they begin to differ."""
    if column in UNORDERED and a is not None and b is not None:
        a, b = sorted(a, key=str), sorted(b, key=str)
    texts = [as_text(a), as_text(b)]
    first = _alike(*texts)
    start = max(0, first - room // 3) if max(map(len, texts)) > room else 0
    return [_cut(text, start, room) for text in texts]


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(one), len(other)))


def as_text(value: Any) -> str:
    """A value as one line of JSON: quotes and white space show, and null is not an empty string."""
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str, start: int, room: int) -> str:
    shown = text if not start else "…" + text[start + 1 :]
    return shown if len(shown) <= room else shown[: room - 1] + "…"


def _notes(found: "SourceDiff") -> Iterator[str]:
    for table in found.tables:
        for letter, names in (("A", table.columns_a), ("B", table.columns_b)):
            if names:
                yield f"{table.name}: only {letter} has the columns {', '.join(names)}"
        if not table.same_order:
            yield f"{table.name}: the rows come in another order, which does not count"
        for letter, times in zip("AB", table.repeated, strict=True):
            if times:
                yield f"{table.name}: {letter} uses an id again in {times:,} rows"
    for letter, lone in (("A", found.tables_a), ("B", found.tables_b)):
        if lone:
            yield f"only {letter} has {', '.join(lone)}"
    yield _RULES


def _verdicts(found: "SourceDiff") -> "Table":
    from rich.table import Table

    table = Table(title="fingerprints", title_justify="left")
    for head in ("split", "queries", "judgements", "pool", "eval", "images", "verdict"):
        table.add_column(head)
    for split, parts in found.fingerprints.items():
        words = ["equal" if same else "differ" for same in parts.values()]
        verdict = VERDICT[parts["eval"]]
        if parts["eval"] and not parts["image_paths"]:
            verdict += " of what reads no images"
        table.add_row(split, *words, verdict)
    return table


def record(found: "SourceDiff") -> dict[str, Any]:
    """How two versions differ, as JSON. Values are JSON texts, shortened."""
    versions = {
        letter: {
            "edition": version.folder.name,
            "source": version.manifest["source"]["name"],
            "folder": str(version.folder),
        }
        for letter, version in (("a", found.a), ("b", found.b))
    }
    return {
        **versions,
        "equal": found.equal,
        "tables": [_table_record(table) for table in found.tables],
        "tables_only_a": found.tables_a,
        "tables_only_b": found.tables_b,
        "splits": [
            {"split": split, "fingerprints_equal": parts, "equal_for_scoring": parts["eval"]}
            for split, parts in found.fingerprints.items()
        ],
    }


def _table_record(table: "TableDiff") -> dict[str, Any]:
    facts = asdict(table)
    for key in ("rows", "repeated"):
        facts[key] = dict(zip("ab", facts[key], strict=True))
    for key in ("only_a", "only_b"):
        first = [{"id": i, "text": _cut(t, 0, JSON_VALUE)} for i, t in facts[key]["examples"]]
        facts[key]["examples"] = first
    for column in facts["columns"]:
        for each in column["examples"]:
            each["a"], each["b"] = shortened(column["column"], each["a"], each["b"], JSON_VALUE)
    facts["columns_only_a"], facts["columns_only_b"] = (
        facts.pop("columns_a"),
        facts.pop("columns_b"),
    )
    facts["retyped"] = [dict(zip(("column", "a", "b"), r, strict=True)) for r in facts["retyped"]]
    return facts | {"equal": table.equal}
