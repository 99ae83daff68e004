"""Row by row: which rows of two tables have the same id, and in which columns these differ.

Both id indexes are sorted by hash, so they are merged slice by slice. Then blocks of A are held
against the rows of B that belong to them, shard by shard: what is held grows with a block and with
8 bytes a row, never with the texts, in whatever order the rows are.
"""

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.data.lookup import FILE, id_hash
from m2kr.data.rows import RowReader
from m2kr.errors import CheckError
from m2kr.schema import ID_COLUMN, TableKind

BLOCK_BYTES = 160_000_000
SLICE_ROWS = 1_000_000

Piece = tuple[np.ndarray, pa.RecordBatch, pa.RecordBatch]


class StoredTable:
    """One split of a built table on disk, whose files were checked.

    Args:
        folder: The split's folder.
        kind: ``queries`` or ``passages``.
        facts: The table's entry in the manifest.

    Raises:
        CheckError: the shards hold another number of rows than the manifest says.
    """

    def __init__(self, folder: Path, kind: TableKind, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.id_column = ID_COLUMN[kind]
        self.rows: int = facts["rows"]
        self._files = [folder / shard["file"] for shard in facts["shards"]]
        self._ends: list[int] = []
        for path in self._files:
            with pa.memory_map(str(path)) as file:  # touches the headers of batches alone
                stream = pa.ipc.open_stream(file)
                self.schema: pa.Schema = stream.schema
                self._ends.append(sum(map(len, stream)) + (self._ends[-1] if self._ends else 0))
        if self._ends[-1] != self.rows:
            raise self.damaged(f"{self._ends[-1]:,} rows, but its manifest says {self.rows:,}")

    def damaged(self, what: str) -> CheckError:
        """The error for files that do not fit each other."""
        return CheckError(what, where=str(self.folder), fix="m2kr verify says what is wrong")

    def index(self) -> np.ndarray:
        """The entries of ``ids.npy``, (hash, row) by hash, mapped."""
        entries: np.ndarray = np.load(self.folder / FILE, mmap_mode="r")
        if entries.dtype.names != ("hash", "row") or len(entries) != self.rows:
            raise self.damaged(f"{FILE} is no index of {self.rows:,} rows")
        return entries

    @cached_property
    def reader(self) -> RowReader:
        """Single rows by number."""
        return RowReader(self._files)

    def batches(
        self, names: Sequence[str], first: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches with some columns and where they start; of those shards that hold wanted rows."""
        at = 0
        for path, shard_end in zip(self._files, self._ends, strict=True):
            if shard_end <= first:
                at = shard_end
                continue
            if end is not None and at >= end:
                return
            with pa.OSFile(str(path)) as file:
                for batch in pa.ipc.open_stream(file):
                    yield at, batch.select(names)
                    at += len(batch)

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """All rows in batches of about ``BLOCK_BYTES``, and where they start."""
        held: list[pa.RecordBatch] = []
        first = size = 0
        for at, batch in self.batches(names):
            held.append(batch)
            size += batch.nbytes
            if size >= BLOCK_BYTES:
                whole = pa.concat_batches(held)
                held, size = [], 0  # freed before the block is used, and the block before the next
                yield first, whole
                first = at + len(batch)
                del whole
        if held:
            yield first, pa.concat_batches(held)


def pair(a: StoredTable, b: StoredTable) -> tuple[np.ndarray, int, int]:
    """The row of B for each row of A (-1 where B lacks the id), and the ids used again in A and B.

    Of rows that share an id, those with equal values are paired first, the others in order.
    """
    match = np.full(a.rows, -1, np.int64)
    again_a = again_b = 0
    for left, right in _slices(a.index(), b.index()):
        hash_a, row_a = _sound(a, left)
        hash_b, row_b = _sound(b, right)
        alone_a, alone_b = _alone(hash_a), _alone(hash_b)
        again_a += int(np.count_nonzero(hash_a[1:] == hash_a[:-1]))
        again_b += int(np.count_nonzero(hash_b[1:] == hash_b[:-1]))
        if not len(hash_b):
            continue
        at = np.minimum(np.searchsorted(hash_b, hash_a), len(hash_b) - 1)
        hit = hash_b[at] == hash_a
        lone = hit & alone_a & alone_b[at]
        match[row_a[lone]] = row_b[at[lone]]
        for key in np.unique(hash_a[hit & ~lone]):
            rows_a, rows_b = _filed(hash_a, row_a, key), _filed(hash_b, row_b, key)
            _pair_alike(a, b, rows_a, rows_b, match)
    return match, again_a, again_b


def _slices(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both indexes cut at the same hashes into slices of about ``SLICE_ROWS``."""
    count = -(-max(len(a), len(b)) // SLICE_ROWS)
    bounds = [(i << 64) // count for i in range(1, count)]
    cuts_a, cuts_b = (
        [
            0,
            *(bisect.bisect_left(e, x, key=lambda entry: int(entry["hash"])) for x in bounds),
            len(e),
        ]
        for e in (a, b)
    )
    for i in range(count):
        yield a[cuts_a[i] : cuts_a[i + 1]], b[cuts_b[i] : cuts_b[i + 1]]


def _sound(table: StoredTable, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and rows of a slice as plain arrays."""
    hashes, rows = np.ascontiguousarray(entries["hash"]), entries["row"].astype(np.int64)
    if (hashes[1:] < hashes[:-1]).any() or (len(rows) and rows.max() >= table.rows):
        raise table.damaged(f"{FILE} is not in order")
    return hashes, rows


def _alone(hashes: np.ndarray) -> np.ndarray:
    """Where a hash occurs once."""
    alone = np.ones(len(hashes), bool)
    again = hashes[1:] == hashes[:-1]
    alone[1:] &= ~again
    alone[:-1] &= ~again
    return alone


def _filed(hashes: np.ndarray, rows: np.ndarray, key: np.uint64) -> list[int]:
    """The rows under one hash, in order."""
    first, end = np.searchsorted(hashes, key), np.searchsorted(hashes, key, side="right")
    return sorted(rows[first:end].tolist())


def _pair_alike(
    a: StoredTable, b: StoredTable, rows_a: list[int], rows_b: list[int], match: np.ndarray
) -> None:
    whole_a, whole_b = (
        [(row, t.reader.row(row)) for row in r] for t, r in ((a, rows_a), (b, rows_b))
    )
    for exactly in (True, False):
        waiting: dict[str, list[int]] = {}
        for row, values in whole_b:
            waiting.setdefault(_key(values, b.id_column, exactly), []).append(row)
        for row, values in whole_a:
            found = waiting.get(_key(values, a.id_column, exactly))
            if match[row] < 0 and found:
                match[row] = found.pop(0)
        taken = set(match[rows_a].tolist())
        whole_b = [(row, values) for row, values in whole_b if row not in taken]


def _key(values: Mapping[str, Any], id_column: str, exactly: bool) -> str:
    return repr(sorted(values.items())) if exactly else str(values[id_column])


def walk(
    a: StoredTable,
    b: StoredTable,
    match: np.ndarray,
    columns: Sequence[str],
    advance: Callable[[int], None],
) -> Iterator[Piece]:
    """Rows that belong together: their numbers in A, and as many rows of A and of B.

    Rows of B that turn out to have another id (a chance collision of hashes) are taken out of
    ``match`` and of the pieces.
    """
    names = [a.id_column, *columns]
    for start, block in a.blocks(names):
        wanted = match[start : start + len(block)]
        order = np.argsort(wanted, kind="stable")
        order = order[np.count_nonzero(wanted < 0) :]
        rows = wanted[order]
        if len(rows):
            for at, batch in b.batches(names, int(rows[0]), int(rows[-1]) + 1):
                low, high = np.searchsorted(rows, (at, at + len(batch)))
                if low < high:
                    picked = order[low:high]
                    left, right = _pick(block, picked), _pick(batch, rows[low:high] - at)
                    yield _same_ids(a, match, (start + picked, left, right))
                    del left, right
        advance(len(block))
        del block


def _pick(batch: pa.RecordBatch, rows: np.ndarray) -> pa.RecordBatch:
    if int(rows[-1]) - int(rows[0]) == len(rows) - 1 and (rows[1:] > rows[:-1]).all():
        return batch.slice(int(rows[0]), len(rows))
    return batch.take(pa.array(rows))


def _same_ids(a: StoredTable, match: np.ndarray, piece: Piece) -> Piece:
    numbers, left, right = piece
    wrong = pc.not_equal(left.column(0), right.column(0)).to_numpy(zero_copy_only=False)
    if not wrong.any():
        return piece
    for at in np.flatnonzero(wrong).tolist():
        if id_hash(left.column(0)[at].as_py()) != id_hash(right.column(0)[at].as_py()):
            raise a.damaged(f"{FILE} here or in the other table does not fit the rows")
    match[numbers[wrong]] = -1
    keep = pa.array(~wrong)
    return numbers[~wrong], left.filter(keep), right.filter(keep)
