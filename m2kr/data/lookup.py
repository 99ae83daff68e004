"""Constant-time look-up of rows by id on disk, without a dictionary of 8.8 million strings.

``ids.npy`` beside a table's shards is a sorted array of (blake2b-64 of the id, row). Hashes are
uniform, so a key's place is guessed by interpolation and a small window is read around it. Hits are
verified against the stored id, so a hash collision can never return a wrong row.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import atomic
from m2kr.data.rows import RowReader, read_at, shards_of

if TYPE_CHECKING:
    import pyarrow as pa

INDEX = "ids.npy"
_ENTRY = np.dtype([("hash", "<u8"), ("row", "<u4")])
_SPAN = 2.0**64
_ALIKE = 0.6  # of an id that was meant and one that was typed, at least


def id_hash(row_id: str | bytes) -> int:
    """The 64-bit hash under which an id is filed."""
    raw = row_id.encode() if isinstance(row_id, str) else row_id
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def write_index(folder: Path, chunks: "Iterable[pa.Array]") -> list[tuple[int, int]]:
    """Writes ``ids.npy`` from a table's ids, chunk by chunk; 32 bytes a row of memory at most.

    Returns:
        Pairs of rows whose ids hash alike: `duplicates` tells which really are the same.
    """
    blocks = [id_hashes(chunk) for chunk in chunks]
    return write_hashes(folder, np.concatenate(blocks) if blocks else np.empty(0, "<u8"))


def id_hashes(ids: "pa.Array") -> np.ndarray:
    """The hashes (uint64) under which ids are filed."""
    import pyarrow as pa

    raw = ids.cast(pa.binary()).to_pylist()
    blake2b = hashlib.blake2b
    return np.frombuffer(b"".join([blake2b(i, digest_size=8).digest() for i in raw]), "<u8")


def write_hashes(folder: Path, hashes: np.ndarray) -> list[tuple[int, int]]:
    """`write_index` of ids that were hashed before, in row order."""
    order = np.argsort(hashes, kind="stable").astype(np.uint32)
    entries = np.empty(len(hashes), _ENTRY)
    entries["hash"], entries["row"] = hashes[order], order
    with atomic.writing(folder / INDEX, alone=True) as aside, atomic.create(aside) as file:
        np.save(file, entries)
    alike = np.flatnonzero(entries["hash"][1:] == entries["hash"][:-1])
    return [(int(entries["row"][at]), int(entries["row"][at + 1])) for at in alike]


def duplicates(
    pairs: Iterable[tuple[int, int]], ids: "pa.ChunkedArray"
) -> list[tuple[str, int, int]]:
    """The ids that occur at both rows of a pair, as (id, first row, other row)."""
    found = ((ids[first].as_py(), ids[other].as_py(), first, other) for first, other in pairs)
    return [(one, first, other) for one, two, first, other in found if one == two]


class IdIndex:
    """Finds the rows of ids in one table.

    Args:
        path: The ``ids.npy`` of the table.
        id_at: Gives the stored id of a row, to verify hits.
    """

    def __init__(self, path: Path, id_at: Callable[[int], str]) -> None:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            (self._count,), _, dtype = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
        if dtype != _ENTRY:
            raise ValueError(f"{path} is no id index")
        # Read, not mapped: mapped windows of random look-ups would stay resident.
        self._file = path.open("rb", buffering=0)
        self._path = path
        self._id_at = id_at

    def __reduce__(self) -> tuple[type["IdIndex"], tuple[Path, Callable[[int], str]]]:
        return IdIndex, (self._path, self._id_at)

    def __len__(self) -> int:
        return int(self._count)

    def _window(self, low: int, high: int) -> np.ndarray:
        size = _ENTRY.itemsize
        raw = read_at(self._file, self._start + low * size, (high - low) * size)
        return np.frombuffer(raw, _ENTRY)

    def row(self, row_id: str) -> int:
        """The row of an id, or -1."""
        n = len(self)
        key = id_hash(row_id)
        centre = int(key / _SPAN * n)
        # Four standard deviations of a uniform order statistic: one read nearly always.
        reach = 16 + 2 * int(n**0.5)
        low, high = max(0, centre - reach), min(n, centre + reach)
        window = self._window(low, high)
        while low > 0 and window["hash"][0] >= key:
            low = max(0, low - reach)
            window = self._window(low, high)
        while high < n and window["hash"][-1] <= key:
            high = min(n, high + reach)
            window = self._window(low, high)
        at = int(np.searchsorted(window["hash"], np.uint64(key)))
        while at < len(window) and int(window["hash"][at]) == key:
            row = int(window["row"][at])
            if self._id_at(row) == row_id:
                return row
            at += 1
        return -1

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Rows (int64) of several ids, -1 where there is none."""
        return np.fromiter((self.row(i) for i in ids), np.int64)


def nearest_ids(ids: "pa.ChunkedArray", wanted: str, most: int = 3) -> list[str]:
    """The ids that are most like one that is not among them, best first; those that hardly are left out."""
    from rapidfuzz import process
    from rapidfuzz.distance import Indel

    near: list[tuple[float, str]] = []
    for chunk in ids.chunks:  # as strings a chunk at a time: there may be millions
        hits = process.extract(
            wanted,
            chunk.to_pylist(),
            scorer=Indel.normalized_similarity,
            limit=most,
            score_cutoff=_ALIKE,
        )
        near = sorted([*near, *((-likeness, row_id) for row_id, likeness, _ in hits)])[:most]
    return [row_id for _, row_id in near]


def open_index(folder: Path, column: str) -> tuple[IdIndex, RowReader]:
    """The id index of a split's folder, and the reader of its rows.

    Args:
        folder: A built split, with ``state.json``, shards and ``ids.npy``.
        column: Its id column.
    """
    reader = RowReader(shards_of(folder))
    return IdIndex(folder / INDEX, functools.partial(reader.value, column)), reader


def values_at(column: "pa.ChunkedArray", rows: Sequence[int] | np.ndarray) -> list[Any]:
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
