"""The rows of a built table: mapped, in batches, or one by one by position in its files.

The last is for a few rows of a big table: a mapped page stays resident and brings 64 KB of neighbours
with it, and a row touches a dozen places. A thousand random rows of an 8.8 M-passage pool would make
1 GB resident. Arrow's own arrays say where each value lies in the file; just those bytes are read.
"""

import bisect
import io
import itertools
import json
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

_INT32_PAIR = struct.Struct("<ii")
_SEEKING = threading.Lock()
_NUMBERS = {pa.int64(): struct.Struct("<q"), pa.float64(): struct.Struct("<d")}


def read_at(file: io.FileIO, place: int, size: int) -> bytes:
    """Bytes of an unbuffered file at a place, without moving its position where the system can."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, place)
    with _SEEKING:
        file.seek(place)
        return file.read(size)


def shards_of(folder: Path) -> list[Path]:
    """The shards of one split in order, as listed in its ``state.json``."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / item["filename"] for item in state["_data_files"]]


def open_shards(folder: Path) -> pa.Table:
    """A memory-mapped table over the shards of one split."""
    maps = [pa.memory_map(str(shard)) for shard in shards_of(folder)]
    return pa.concat_tables([pa.ipc.open_stream(m).read_all() for m in maps])


def read_batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """The batches of one split in order, read and dropped again: a mapped pool would stay resident."""
    for shard in shards_of(folder):
        with pa.OSFile(str(shard)) as file:
            yield from pa.ipc.open_stream(file)


class RowReader:
    """Rows of one split by number, across its shards; opening touches only the batch headers.

    Args:
        shards: Arrow IPC stream files, in order.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = list(shards)
        self._files = [shard.open("rb", buffering=0) for shard in shards]
        maps = [pa.memory_map(str(shard)).read_buffer() for shard in shards]
        self._bases = [buffer.address for buffer in maps]
        self._maps = maps
        self._batches = [
            (number, batch)
            for number, buffer in enumerate(maps)
            for batch in pa.ipc.open_stream(buffer)
        ]
        self._ends = list(itertools.accumulate(len(batch) for _, batch in self._batches))
        self.names: list[str] = pa.ipc.open_stream(maps[0]).schema.names

    def __reduce__(self) -> tuple[type["RowReader"], tuple[list[Path]]]:
        return RowReader, (self._shards,)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, number: int) -> dict[str, Any]:
        """All columns of a row."""
        shard, batch, at = self._locate(number)
        return {
            name: self._value(shard, column, at)
            for name, column in zip(self.names, batch.columns, strict=True)
        }

    def value(self, column: str, number: int) -> Any:
        """One column of a row."""
        shard, batch, at = self._locate(number)
        return self._value(shard, batch.column(self.names.index(column)), at)

    def _locate(self, number: int) -> tuple[int, pa.RecordBatch, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = bisect.bisect_right(self._ends, number)
        shard, batch = self._batches[which]
        return shard, batch, number - (self._ends[which] - len(batch))

    def _value(self, shard: int, array: pa.Array, at: int) -> Any:
        buffers = array.buffers()
        if array.null_count and not self._bit(shard, buffers[0], at):
            return None
        kind = array.type
        if pa.types.is_string(kind):
            start, end = self._offsets(shard, buffers[1], at)
            return self._read(shard, buffers[2], start, end - start).decode()
        if pa.types.is_list(kind):
            start, end = self._offsets(shard, buffers[1], at)
            return [self._value(shard, array.values, i) for i in range(start, end)]
        if pa.types.is_boolean(kind):
            return self._bit(shard, buffers[1], at)
        packed = _NUMBERS[kind]
        return packed.unpack(self._read(shard, buffers[1], at * packed.size, packed.size))[0]

    def _offsets(self, shard: int, buffer: pa.Buffer, at: int) -> tuple[int, int]:
        pair: tuple[int, int] = _INT32_PAIR.unpack(self._read(shard, buffer, 4 * at, 8))
        return pair

    def _bit(self, shard: int, buffer: pa.Buffer, at: int) -> bool:
        return bool(self._read(shard, buffer, at // 8, 1)[0] >> at % 8 & 1)

    def _read(self, shard: int, buffer: pa.Buffer | None, start: int, size: int) -> bytes:
        if not size or buffer is None:
            return b""
        place = buffer.address - self._bases[shard] + start
        return read_at(self._files[shard], place, size)
