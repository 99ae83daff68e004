"""How two built versions of a source differ: tables, rows, columns, fingerprints."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from m2kr.build.compare.rows import StoredTable
from m2kr.build.compare.table import TableDiff, compare_rows
from m2kr.data.file_checks import check_table
from m2kr.errors import CheckError, UsageError
from m2kr.progress import Progress, Silent
from m2kr.schema import ID_COLUMN, SUFFIX, TableKind
from m2kr.sources import split_name

PARTS = ("queries", "judgements", "pool", "eval", "image_paths")
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Version:
    """One built version of a source: the edition folder and the source's manifest."""

    folder: Path
    manifest: Facts

    @property
    def name(self) -> str:
        """``EDITION/SOURCE``."""
        return f"{self.folder.name}/{self.manifest['source']['name']}"

    def table(self, kind: TableKind, split: str) -> str:
        """Name of a table below the edition folder, as in the manifest."""
        return f"{self.manifest['source']['config']}_{SUFFIX[kind]}/{split}"

    def names(self, kind: TableKind) -> list[str]:
        """Splits that it has a table of a kind for."""
        tables: Mapping[str, Facts] = self.manifest["tables"]
        return [name.split("/")[1] for name, facts in tables.items() if facts["kind"] == kind]


@dataclass(frozen=True)
class SourceDiff:
    """How two versions of a source differ.

    Attributes:
        a: One version.
        b: The other.
        tables: The tables that both have.
        tables_a: Names of tables that B lacks.
        tables_b: Names of tables that A lacks.
        fingerprints: By split, which parts of `m2kr.fingerprint` are equal.
    """

    a: Version
    b: Version
    tables: list[TableDiff]
    tables_a: list[str]
    tables_b: list[str]
    fingerprints: dict[str, dict[str, bool]]

    @property
    def equal(self) -> bool:
        """Whether everything that both have is equal."""
        parts = (same for split in self.fingerprints.values() for same in split.values())
        return all(table.equal for table in self.tables) and all(parts)


def diff(
    a: Version,
    b: Version,
    *,
    split: str | None = None,
    examples: int = 3,
    progress: Progress | None = None,
) -> SourceDiff:
    """Compares what two versions both have.

    Queries are compared by split and pools by name, or by the split that they serve where their
    names differ. Judgements (qrels) and ``pos_item_contents`` follow from these and are left out. In
    ``pos_item_ids`` the order does not count. Order and number of rows in files never do.

    Args:
        a: One version.
        b: The other.
        split: A query split, to compare it and its pool alone.
        examples: Differences of each sort that are kept.
        progress: Told of each table, in rows of A.

    Raises:
        UsageError: they have nothing in common, or lack the split.
        MissingError: files are gone.
        CheckError: files do not fit their manifest.
    """
    bars = progress or Silent()
    if split is not None:
        split = split_name(split, (*a.manifest["splits"], *b.manifest["splits"]))
    splits = [s for s in a.manifest["splits"] if s in b.manifest["splits"] and split in (None, s)]
    pairs = list(_pairs(a, b, splits, narrow=split is not None))
    if not pairs:
        have = [", ".join(v.names("queries") + v.names("passages")) for v in (a, b)]
        raise UsageError(
            f"{a.name} and {b.name} have no {f'split {split!r}' if split else 'table'} in common",
            expected=f"{a.name} has {have[0]}; {b.name} has {have[1]}",
        )
    tables = [_table(a, b, each, examples, bars) for each in pairs]
    lone: tuple[list[str], list[str]] = ([], [])
    if split is None:
        for side, version in enumerate((a, b)):
            seen = {(kind, names[side]) for kind, *names in pairs}
            for kind in ID_COLUMN:
                rest = [s for s in version.names(kind) if (kind, s) not in seen]
                lone[side].extend(version.table(kind, s) for s in rest)
    prints = (a.manifest["fingerprints"], b.manifest["fingerprints"])
    same = {s: {p: prints[0][s].get(p) == prints[1][s].get(p) for p in PARTS} for s in splits}
    return SourceDiff(a, b, tables, *lone, same)


def _pairs(
    a: Version, b: Version, splits: Sequence[str], *, narrow: bool
) -> Iterator[tuple[TableKind, str, str]]:
    yield from (("queries", split, split) for split in splits)
    alike = [] if narrow else [name for name in a.names("passages") if name in b.names("passages")]
    pool_a, pool_b = ({s: v.manifest["splits"][s]["pool"] for s in splits} for v in (a, b))
    served = [(pool_a[s], pool_b[s]) for s in splits]
    for one, other in dict.fromkeys([*((name, name) for name in alike), *served]):
        yield "passages", one, other


def _table(
    a: Version, b: Version, pair: tuple[TableKind, str, str], examples: int, bars: Progress
) -> TableDiff:
    kind, name_a, name_b = pair[0], a.table(*pair[:2]), b.table(pair[0], pair[2])
    facts_a, facts_b = a.manifest["tables"][name_a], b.manifest["tables"][name_b]
    found = TableDiff(kind, name_a, name_b, (facts_a["rows"], facts_b["rows"]))
    check_table(a.folder, a.manifest, name_a)
    check_table(b.folder, b.manifest, name_b)
    if _hashes(facts_a) == _hashes(facts_b):
        found.same_files = True
        return found
    bars.start(found.name, found.rows[0], "rows")
    try:
        compare_rows(
            found,
            StoredTable(a.folder / name_a, kind, facts_a),
            StoredTable(b.folder / name_b, kind, facts_b),
            examples,
            lambda n: bars.advance(found.name, n),
        )
    except (pa.ArrowInvalid, OSError) as error:
        where = f"{a.folder / name_a} or {b.folder / name_b}"
        raise CheckError(str(error), where=where, fix="m2kr verify says what is wrong") from error
    bars.done(found.name)
    return found


def _hashes(facts: Facts) -> list[str]:
    return [shard["sha256"] for shard in facts["shards"]]
