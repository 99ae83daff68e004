"""Constant-time look-up of rows by id on disk, without a dictionary of 8.8 million strings.

``ids.npy`` beside a table's shards is a sorted array of (blake2b-64 of the id, row). Hashes are
uniform, so a key's place is guessed by interpolation and a small window is read around it. Hits are
verified against the stored id, so a hash collision can never return a wrong row.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import atomic

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "ids.npy"
_ENTRY = np.dtype([("hash", "<u8"), ("row", "<u4")])
_SPAN = 2.0**64


def id_hash(row_id: str | bytes) -> int:
    """The 64-bit hash under which an id is filed."""
    raw = row_id.encode() if isinstance(row_id, str) else row_id
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def write_index(folder: Path, ids: "pa.ChunkedArray") -> list[tuple[str, int, int]]:
    """Writes ``ids.npy`` for a table's id column; 24 bytes a row of memory while sorting.

    Returns:
        Ids that occur more than once, as (id, first row, other row); at most ten.
    """
    import pyarrow as pa

    hashes = np.empty(len(ids), np.uint64)
    start = 0
    for chunk in ids.chunks:
        raw = chunk.cast(pa.binary()).to_pylist()
        joined = b"".join([hashlib.blake2b(i, digest_size=8).digest() for i in raw])
        hashes[start : start + len(chunk)] = np.frombuffer(joined, "<u8")
        start += len(chunk)
    order = np.argsort(hashes, kind="stable").astype(np.uint32)
    entries = np.empty(len(ids), _ENTRY)
    entries["hash"], entries["row"] = hashes[order], order
    aside = folder / f"{FILE}.tmp"
    with aside.open("wb") as file:
        np.save(file, entries)
    atomic.replace(aside, folder / FILE)
    return _duplicates(entries, ids)


def _duplicates(entries: np.ndarray, ids: "pa.ChunkedArray") -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    equal = np.flatnonzero(entries["hash"][1:] == entries["hash"][:-1])
    for at in equal:
        first, other = int(entries["row"][at]), int(entries["row"][at + 1])
        if ids[first].as_py() == ids[other].as_py():
            found.append((ids[first].as_py(), first, other))
            if len(found) == 10:
                break
    return found


class IdIndex:
    """Finds the rows of ids in one table.

    Args:
        path: The ``ids.npy`` of the table.
        ids: The table's id column, to verify hits.
    """

    def __init__(self, path: Path, ids: "pa.ChunkedArray") -> None:
        self._entries: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        self._ids = ids

    def __len__(self) -> int:
        return len(self._entries)

    def row(self, row_id: str) -> int:
        """The row of an id, or -1."""
        n = len(self._entries)
        key = id_hash(row_id)
        centre = int(key / _SPAN * n)
        reach = 64 + int(n**0.5)
        low, high = max(0, centre - reach), min(n, centre + reach)
        while low > 0 and self._entries["hash"][low] >= key:
            low = max(0, low - reach)
        while high < n and self._entries["hash"][high - 1] <= key:
            high = min(n, high + reach)
        window = np.array(self._entries[low:high])
        at = int(np.searchsorted(window["hash"], np.uint64(key)))
        while at < len(window) and int(window["hash"][at]) == key:
            row = int(window["row"][at])
            if self._ids[row].as_py() == row_id:
                return row
            at += 1
        return -1

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Rows (int64) of several ids, -1 where there is none."""
        return np.fromiter((self.row(i) for i in ids), np.int64)


def gather(column: "pa.ChunkedArray", rows: Sequence[int] | np.ndarray) -> list[Any]:
    """Values of a column at some rows.

    Chunk by chunk: `take` on a whole pool would overflow the 32-bit offsets of Arrow strings.
    """
    wanted = np.asarray(rows, np.int64)
    ends = np.cumsum([len(chunk) for chunk in column.chunks])
    which = np.searchsorted(ends, wanted, side="right")
    out: list[Any] = [None] * len(wanted)
    for chunk_number in np.unique(which):
        places = np.flatnonzero(which == chunk_number)
        chunk = column.chunk(int(chunk_number))
        local = wanted[places] - (ends[chunk_number] - len(chunk))
        for place, value in zip(places, chunk.take(local).to_pylist(), strict=True):
            out[place] = value
    return out
