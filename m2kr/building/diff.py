"""How two built versions of a source differ: a join on id, table by table and column by column.

Every value becomes a 64-bit digest, so that a column of a big table costs 8 bytes a row (and the join of
ids about 70) in whatever order its rows are; only the examples are read as they are.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from m2kr.data.built_sources import BuiltSource, BuiltSources
from m2kr.data.file_checks import SourceFiles
from m2kr.data.lookup import id_hash
from m2kr.data.rows import RowReader, open_shards, read_batches, shards_of
from m2kr.errors import MissingError, UsageError
from m2kr.paths import editions
from m2kr.progress import SILENT, Progress
from m2kr.schema import GRADES, ID_COLUMN, TableKind
from m2kr.sources import resolve_split

_TEXT: dict[TableKind, str] = {"queries": "question", "passages": "passage_content"}
_IDS = "pos_item_ids"
_PARTS = ("queries", "judgements", "pool", "eval", "image_paths")
_DERIVED = "pos_item_contents"  # follows from the ids and the pool


class _Table:
    """A built table on disk, whose files are checked."""

    def __init__(self, version: BuiltSource, kind: TableKind, split: str) -> None:
        self.name = version.table(kind, split)
        SourceFiles(version.folder, version.manifest).require(self.name)
        facts = version.manifest["tables"][self.name]
        self.folder, self.rows = version.folder / self.name, int(facts["rows"])
        self.hashes = [shard["sha256"] for shard in facts["shards"]]
        self.types = {field.name: str(field.type) for field in open_shards(self.folder).schema}

    def values(self, column: str, rows: np.ndarray) -> list[Any]:
        """Values of a few rows."""
        reader = RowReader(shards_of(self.folder))
        found = [reader.value(column, int(row)) for row in rows]
        return [sorted(ids) for ids in found] if column == _IDS else found


@dataclass(frozen=True)
class Difference:
    """One way in which two tables differ.

    Attributes:
        what: A column, or ``only in A``, ``only in B``, ``changed`` (in any column).
        rows: How many rows differ so.
        examples: The first of them: id, value in A, value in B.
    """

    what: str
    rows: int
    examples: list[tuple[str, Any, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class TableDiff:
    """How a table that both versions have differs.

    Attributes:
        name: Of the table; both names where they are not the same.
        rows: Rows of A and of B.
        differences: What differs; empty if the same ids hold the same values.
        notes: What does not count as a difference.
    """

    name: str
    rows: tuple[int, int]
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def diff(
    a: BuiltSource, b: BuiltSource, split: str | None, examples: int, progress: Progress = SILENT
) -> tuple[list[TableDiff], dict[str, dict[str, bool]]]:
    """Compares the tables that two versions both have, and their fingerprints.

    Queries are compared by split and pools by name, or by the split that they serve where their
    names differ. The order of rows and of ``pos_item_ids`` and the cut into files do not count.

    Args:
        a: One version.
        b: The other.
        split: A query split, to compare it and its pool alone.
        examples: Differences of each sort that are kept.
        progress: Told of each table, in columns.

    Returns:
        The tables; by split, which parts of `m2kr.fingerprint` are equal.

    Raises:
        UsageError: they have nothing in common, or lack the split.
        MissingError: files are gone.
        CheckError: files do not fit their manifest.
    """
    in_a, in_b = a.manifest["splits"], b.manifest["splits"]
    if split is not None:
        split = resolve_split(split, (*in_a, *in_b))
    splits = [s for s in in_a if s in in_b and split in (None, s)]
    served = [(in_a[s]["pool"], in_b[s]["pool"]) for s in splits]
    if split is None:
        pools = [{facts["pool"] for facts in each.values()} for each in (in_a, in_b)]
        served = [(pool, pool) for pool in sorted(pools[0] & pools[1])] + served
    pairs: list[tuple[TableKind, str, str]] = [("queries", s, s) for s in splits]
    pairs += [("passages", *names) for names in dict.fromkeys(served)]
    if not pairs:
        raise UsageError(
            f"{label(a)} and {label(b)} have no {f'split {split!r}' if split else 'table'} in common",
            expected=f"{label(a)} has {', '.join(in_a)}; {label(b)} has {', '.join(in_b)}",
        )
    tables = [
        _compare(kind, _Table(a, kind, x), _Table(b, kind, y), examples, progress)
        for kind, x, y in pairs
    ]
    one, other = a.manifest["fingerprints"], b.manifest["fingerprints"]
    return tables, {s: {p: one[s].get(p) == other[s].get(p) for p in _PARTS} for s in splits}


def _compare(kind: TableKind, a: _Table, b: _Table, examples: int, progress: Progress) -> TableDiff:
    name = a.name if a.name == b.name else f"{a.name} ~ {b.name}"
    found = TableDiff(name, (a.rows, b.rows))
    if a.hashes == b.hashes:
        found.notes.append("the same files")
        return found
    key = ID_COLUMN[kind]
    for letter, one, other in (("A", a, b), ("B", b, a)):
        if alone := [column for column in one.types if column not in other.types]:
            found.notes.append(f"only {letter} has the columns {', '.join(alone)}")
    columns = [n for n in a.types if n in b.types and n not in (key, _DERIVED)]
    progress.start(name, len(columns) + 1, "columns")
    keys = []
    for letter, table in (("A", a), ("B", b)):
        unique, again = _keys(_digests(table.folder, key))
        keys.append(unique)
        if again:
            found.notes.append(
                f"{letter} uses an id again in {again:,} rows, which are paired in their order"
            )
    _, both_a, both_b = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    order = np.argsort(both_a)
    both_a, both_b = both_a[order], both_b[order]
    for what, table, both in (("only in A", a, both_a), ("only in B", b, both_b)):
        alone_rows = np.delete(np.arange(table.rows), both)
        ids, texts = (table.values(n, alone_rows[:examples]) for n in (key, _TEXT[kind]))
        nothing = [None] * len(ids)
        values = (texts, nothing) if table is a else (nothing, texts)
        if len(alone_rows):
            found.differences.append(
                Difference(what, len(alone_rows), [*zip(ids, *values, strict=True)])
            )
    changed = np.zeros(len(both_a), bool)
    for column in columns:
        progress.advance(name, 1)
        if a.types[column] != b.types[column]:
            what = f"{column}: {a.types[column]} in A, {b.types[column]} in B"
            found.differences.append(Difference(what, len(both_a)))
            continue
        differs = _digests(a.folder, column)[both_a] != _digests(b.folder, column)[both_b]
        if differs.any():
            changed |= differs
            first = np.flatnonzero(differs)[:examples]
            values = a.values(column, both_a[first]), b.values(column, both_b[first])
            shown = [*zip(a.values(key, both_a[first]), *values, strict=True)]
            found.differences.append(Difference(column, int(differs.sum()), shown))
    if changed.any():
        found.differences.append(Difference("changed", int(changed.sum())))
    progress.done(name)
    return found


def _keys(digests: np.ndarray) -> tuple[np.ndarray, int]:
    """A key for each row that is its own: of the id, and of how often it came before; and repeats."""
    order = np.argsort(digests, kind="stable")
    ranked = digests[order]
    nth = np.arange(len(ranked)) - np.searchsorted(ranked, ranked)
    keys = np.empty_like(digests)
    keys[order] = ranked + nth.astype("<u8") * np.uint64(0x9E3779B97F4A7C15)
    return keys, int(np.count_nonzero(nth))


def _digests(folder: Path, column: str) -> np.ndarray:
    """The digest (uint64) of each value of a column, in row order; 0 for null."""
    made = []
    for batch in read_batches(folder):
        values = batch.column(column).to_pylist()
        if column == _IDS:  # their order means nothing
            values = [v and sorted(v) for v in values]
        elif column == GRADES.name:  # parallel to the ids
            both = zip(batch.column(_IDS).to_pylist(), values, strict=True)
            values = [v and [g for _, g in sorted(zip(ids, v, strict=True))] for ids, v in both]
        texts = (v if v is None or isinstance(v, str) else repr(v) for v in values)
        made.append(
            np.fromiter((0 if t is None else id_hash(t) for t in texts), "<u8", len(values))
        )
    return np.concatenate([np.empty(0, "<u8"), *made])


def label(version: BuiltSource) -> str:
    """``EDITION/SOURCE``."""
    return f"{version.folder.name}/{version.name}"


def find_versions(a: str, b: str, root: Path) -> list[tuple[BuiltSource, BuiltSource]]:
    """What to compare with what; several pairs if two editions share several sources.

    Args:
        a: ``EDITION/SOURCE``, ``EDITION``, or the path of an edition folder (with ``/SOURCE`` or not).
        b: The same. One that names no source takes the other's.
        root: The data root that editions are looked up in.

    Raises:
        UsageError: a name means nothing, or the editions share no source.
        MissingError: there is no such edition, or it lacks the source.
    """
    (in_a, said_a), (in_b, said_b) = (_edition(text, root) for text in (a, b))
    if said_a or said_b:
        return [(in_a.find(said_a or said_b or ""), in_b.find(said_b or said_a or ""))]
    if shared := [name for name in in_a.editions if name in in_b.editions]:
        return [(in_a.find(name), in_b.find(name)) for name in shared]
    raise UsageError(
        f"{a!r} and {b!r} share no source",
        expected=f"{_listed(in_a)}; {_listed(in_b)}",
        fix=f"m2kr diff {a}/{next(iter(in_a.editions))} {b}/{next(iter(in_b.editions))}",
    )


def _edition(text: str, root: Path) -> tuple[BuiltSources, str | None]:
    """What the edition folder that a text means holds, and the source that it names."""
    path = Path(text).expanduser()
    for place in [path] if text.startswith((".", "/", "~")) else [root / path, path]:
        for folder, name in ((place, None), (place.parent, place.name)):
            if any(folder.glob("*_manifest.json")):
                found = BuiltSources([folder.absolute()], folder.absolute().parent)
                if not found.editions:
                    raise next(iter(found.damaged.values()))
                found.warn_of_damaged()
                return found, name
    have = "; ".join(_listed(BuiltSources([folder], root)) for folder in editions(root))
    raise MissingError(
        f"{text!r} is no edition under {root} and no edition folder",
        expected=f"one of {have}" if have else "EDITION/SOURCE, but nothing is built here",
        fix="m2kr list",
    )


def _listed(have: BuiltSources) -> str:
    return ", ".join(label(each) for found in have.editions.values() for each in found.values())
