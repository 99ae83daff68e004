"""Hashes of table rows in the order they lie in: what may be kept by row number is kept under these.

A fingerprint (`m2kr.fingerprint`) ignores the order of rows and every column that no score depends
on. These ignore neither, and are read from the mapped table itself, so they are of the very rows
that are encoded, whatever a manifest says. They don't depend on how the rows are cut into chunks.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1 << 16  # at a time
_New = Callable[..., Any]


def order_of(ids: "pa.ChunkedArray") -> str:
    """Hex BLAKE2b of ids in their order; 8.8 million take about a second."""
    return _column(ids, hashlib.blake2b).hex()


def content_of(table: "pa.Table", names: Iterable[str]) -> str:
    """Hex SHA-256 of some columns of a table, row by row; about a second a GB."""
    whole = hashlib.sha256()
    for name in sorted(names):
        raw = name.encode()
        column = _column(table.column(name), hashlib.sha256)
        whole.update(len(raw).to_bytes(8, "little") + raw + column)
    return whole.hexdigest()


class _Level:
    """The hashes of values and of lengths at one depth of a nested column."""

    def __init__(self, new: _New) -> None:
        self.values, self.lengths = new(), new()


def _column(column: "pa.ChunkedArray", new: _New) -> bytes:
    levels: list[_Level] = []
    for chunk in column.chunks:
        for start in range(0, len(chunk), _ROWS):
            _feed(chunk.slice(start, _ROWS), levels, 0, new)
    parts = (part.digest() for level in levels for part in (level.values, level.lengths))
    whole: bytes = new(b"".join(parts)).digest()
    return whole


def _feed(array: "pa.Array", levels: list[_Level], depth: int, new: _New) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds = pa.types
    if depth == len(levels):
        levels.append(_Level(new))
    level = levels[depth]
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if kinds.is_dictionary(array.type):
        array = array.dictionary_decode()
    if kinds.is_list(array.type) or kinds.is_large_list(array.type):
        level.lengths.update(_int64(pc.list_value_length(array)))
        _feed(array.flatten(), levels, depth + 1, new)
        return
    texts = _as_bytes(array)
    level.lengths.update(_int64(pc.binary_length(texts)))
    if texts.null_count:
        texts = texts.drop_null()
    _, offsets, data = texts.buffers()
    if data is not None and len(texts):
        ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        level.values.update(memoryview(data)[int(ends[0]) : int(ends[-1])])


def _int64(lengths: "pa.Array") -> bytes:
    """Lengths as int64; -1 where there is no value."""
    numbers: np.ndarray = lengths.fill_null(-1).to_numpy(zero_copy_only=False)
    return numbers.astype("<i8").tobytes()


def _as_bytes(array: "pa.Array") -> "pa.Array":
    import pyarrow as pa

    try:
        if not pa.types.is_large_binary(array.type):
            text = pa.types.is_binary(array.type) or pa.types.is_string(array.type)
            array = array if text else array.cast(pa.large_string())
        return array.cast(pa.large_binary())
    except pa.ArrowNotImplementedError:
        values = [None if value is None else repr(value).encode() for value in array.to_pylist()]
        return pa.array(values, pa.large_binary())
