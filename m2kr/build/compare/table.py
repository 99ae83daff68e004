"""How one table differs between two built versions: ids, rows, and values column by column."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.build.compare.rows import Piece, StoredTable, pair, walk
from m2kr.schema import TableKind

TEXT: dict[TableKind, str] = {"queries": "question", "passages": "passage_content"}
UNORDERED = frozenset({"pos_item_ids"})  # their order means nothing, to scores and fingerprints
DERIVED = frozenset({"pos_item_contents"})  # follows from pos_item_ids and the pool


@dataclass(frozen=True)
class Example:
    """Two values of one row: its id, the value in A and the value in B."""

    id: str
    a: Any
    b: Any


@dataclass
class ColumnDiff:
    """A column that differs.

    Attributes:
        column: Its name.
        rows: Rows whose values differ.
        space_only: Those of them that are equal but for white space.
        examples: The first of them in A's order, those in white space alone last.
    """

    column: str
    rows: int = 0
    space_only: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Lone:
    """Rows whose id the other version lacks: how many, and id and text of the first."""

    rows: int = 0
    examples: tuple[tuple[str, str], ...] = ()


@dataclass
class TableDiff:
    """How a table that both versions have differs.

    Attributes:
        kind: ``queries`` or ``passages``.
        a: Name of the table in A.
        b: Name of the table in B.
        rows: Rows of A and of B.
        same_files: The shards have equal hashes, so that nothing was read.
        same_order: Rows with equal ids come in the same order.
        repeated: How often A and B use an id again.
        only_a: Rows whose id B lacks.
        only_b: Rows whose id A lacks.
        changed: Rows with equal ids that differ in any column.
        columns: The columns that differ.
        columns_a: Columns that B lacks; they are not compared.
        columns_b: Columns that A lacks; they are not compared.
        retyped: Columns of another type in B, with both types; they differ.
    """

    kind: TableKind
    a: str
    b: str
    rows: tuple[int, int]
    same_files: bool = False
    same_order: bool = True
    repeated: tuple[int, int] = (0, 0)
    only_a: Lone = Lone()
    only_b: Lone = Lone()
    changed: int = 0
    columns: list[ColumnDiff] = field(default_factory=list)
    columns_a: list[str] = field(default_factory=list)
    columns_b: list[str] = field(default_factory=list)
    retyped: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether the same ids hold the same values in every column that both have."""
        return not (self.only_a.rows or self.only_b.rows or self.changed or self.retyped)

    @property
    def name(self) -> str:
        """Name of the table; both where they are not the same."""
        return self.a if self.a == self.b else f"{self.a} ~ {self.b}"


def compare_rows(
    found: TableDiff,
    a: StoredTable,
    b: StoredTable,
    examples: int,
    advance: Callable[[int], None],
) -> None:
    """Fills in how two tables differ.

    Args:
        found: The names of both; gets the rest.
        a: One table.
        b: The other.
        examples: Differences of each sort that are kept.
        advance: Told of rows of A that are done.
    """
    text = TEXT[found.kind]
    in_a, in_b = set(a.schema.names), set(b.schema.names)
    found.columns_a = [n for n in a.schema.names if n not in in_b]
    found.columns_b = [n for n in b.schema.names if n not in in_a]
    types = [
        (n, str(a.schema.field(n).type), str(b.schema.field(n).type))
        for n in a.schema.names
        if n in in_b
    ]
    found.retyped = [each for each in types if each[1] != each[2]]
    shared = [n for n, one, other in types if one == other and n not in DERIVED]
    tallies = [_Tally(n, examples) for n in shared if n != a.id_column]
    match, *again = pair(a, b)
    for piece in walk(a, b, match, [t.found.column for t in tallies], advance):
        changed = np.zeros(len(piece[0]), bool)
        for tally in tallies:
            changed |= tally.add(piece)
        found.changed += int(np.count_nonzero(changed))
        del piece  # or it would keep its block of A while the next is read
    paired = match[match >= 0]
    left_over = np.ones(b.rows, bool)
    left_over[paired] = False
    found.repeated = (again[0], again[1])
    found.same_order = bool((paired[1:] > paired[:-1]).all())
    found.only_a = _lone(a, np.flatnonzero(match < 0), text, examples)
    found.only_b = _lone(b, np.flatnonzero(left_over), text, examples)
    found.columns = [t.found for t in tallies if t.found.rows]


def _lone(table: StoredTable, rows: np.ndarray, text: str, examples: int) -> Lone:
    read = table.reader.value
    first = rows[:examples].tolist()
    return Lone(len(rows), tuple((read(table.id_column, r), read(text, r)) for r in first))


class _Tally:
    """Counts the differences in one column and keeps the first of them."""

    def __init__(self, column: str, examples: int) -> None:
        self.found = ColumnDiff(column)
        self._keep = examples
        self._places: list[tuple[bool, int]] = []

    def add(self, piece: Piece) -> np.ndarray:
        """Counts a piece's differences; tells where they are."""
        numbers, left, right = piece
        name, ids = self.found.column, left.column(0)
        a, b = left.column(name), right.column(name)
        differs = differing(a, b, ordered=name not in UNORDERED)
        at = np.flatnonzero(differs)
        if not len(at):
            return differs
        space = np.zeros(len(at), bool)
        if pa.types.is_string(a.type):
            keep = pa.array(differs)
            space = _space_only(a.filter(keep), b.filter(keep))
        self.found.rows += len(at)
        self.found.space_only += int(np.count_nonzero(space))
        # A block of A comes in the order of B, so later pieces may hold earlier rows.
        first = np.lexsort((numbers[at], space))[: self._keep]
        places = [(bool(space[i]), int(numbers[at[i]])) for i in first]
        new = [Example(ids[i].as_py(), a[i].as_py(), b[i].as_py()) for i in at[first].tolist()]
        both = zip(self._places + places, self.found.examples + new, strict=True)
        best = sorted(both, key=lambda each: each[0])[: self._keep]
        self._places = [place for place, _ in best]
        self.found.examples = [example for _, example in best]
        return differs


def differing(a: pa.Array, b: pa.Array, *, ordered: bool = True) -> np.ndarray:
    """Where two arrays of one type and length differ; null differs from everything else.

    Args:
        a: One array.
        b: The other.
        ordered: Whether the order inside a list counts.
    """
    if a.equals(b):
        return np.zeros(len(a), bool)
    if pa.types.is_list(a.type):
        return _lists_differ(a, b, ordered)
    differs = pc.fill_null(pc.not_equal(a, b), False)
    if pa.types.is_floating(a.type):  # "no number" is a value like any other
        both = pc.and_(pc.is_nan(a), pc.is_nan(b))
        differs = pc.and_(differs, pc.invert(pc.fill_null(both, False)))
    differs = pc.or_(differs, pc.xor(pc.is_null(a), pc.is_null(b)))
    return np.asarray(differs.to_numpy(zero_copy_only=False), bool)


def _lists_differ(a: pa.Array, b: pa.Array, ordered: bool) -> np.ndarray:
    count, other = (pc.fill_null(pc.list_value_length(x), -1).to_numpy() for x in (a, b))
    differs: np.ndarray = count != other
    same = np.flatnonzero(~differs & (count > 0))
    items = [x.take(pa.array(same)).flatten() for x in (a, b)]
    differs[np.repeat(same, count[same])[differing(*items)]] = True
    if not ordered:
        for at in np.flatnonzero(differs & (count == other)).tolist():
            differs[at] = Counter(a[at].as_py()) != Counter(b[at].as_py())
    return differs


def _space_only(a: pa.Array, b: pa.Array) -> np.ndarray:
    """Where two arrays of strings are equal but for white space."""
    plain = [pc.utf8_trim_whitespace(pc.replace_substring_regex(x, r"\s+", " ")) for x in (a, b)]
    equal = pc.fill_null(pc.equal(*plain), False)
    return np.asarray(equal.to_numpy(zero_copy_only=False), bool)
