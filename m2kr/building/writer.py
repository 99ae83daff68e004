"""The streaming table writer: rows or batches in, whole Arrow shards out."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from m2kr import atomic
from m2kr.errors import InputError, M2KRError, plainly
from m2kr.schema import BATCH_ROWS, Column, arrow_schema, default_value

SHARD_ROWS = 200_000
_BAD_VALUE = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError)


class TableWriter:
    """Writes one split as shards of a fixed row count; a shard appears whole or not at all.

    A writer opened on a folder that already holds whole shards skips the rows they hold, so an
    interrupted build is resumed by feeding the same rows again.

    Args:
        folder: Where ``data-00000.arrow`` ... go; made if absent.
        columns: The table's columns, in order.
        table: Name for messages.
        shard_rows: Rows a shard; a multiple of ``batch_rows``.
        batch_rows: Rows an Arrow batch.
        written: Called with the number of rows of each batch taken in.
        finished: Called with each whole shard, also with those that were there before, and whether
            it has all the rows a shard takes.

    Raises:
        InputError: a row has an unknown column, a wrong type or a null where none may be.
        M2KRError: the disk is full; whole shards are kept.
    """

    def __init__(
        self,
        folder: Path,
        columns: Sequence[Column],
        *,
        table: str = "table",
        shard_rows: int = SHARD_ROWS,
        batch_rows: int = BATCH_ROWS,
        written: Callable[[int], None] = lambda _: None,
        finished: Callable[[Path, bool], None] = lambda *_: None,
    ) -> None:
        if shard_rows % batch_rows:
            raise ValueError("shard_rows must be a multiple of batch_rows")
        self.columns = tuple(columns)
        self.schema = arrow_schema(self.columns)
        self.rows = 0
        self._folder = folder
        self._table = table
        self._shard_rows = shard_rows
        self._batch_rows = batch_rows
        self._written = written
        self._finished = finished
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._file: Any = None
        self._stream: Any = None
        folder.mkdir(parents=True, exist_ok=True)
        for rest in folder.glob("*.tmp"):
            rest.unlink()
        self._skip = self._whole_shards() * shard_rows
        for number in range(self._whole_shards()):
            finished(self._shard(number), True)

    def _whole_shards(self) -> int:
        n = 0
        while self._shard(n).exists():
            n += 1
        return n

    def _shard(self, number: int) -> Path:
        return self._folder / f"data-{number:05d}.arrow"

    def _aside(self) -> Path:
        """Where the open shard is; not by `atomic.writing`, as it is open for longer than a block."""
        return self._shard(self._number).with_suffix(".arrow.tmp")

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes dict rows; columns left out take `m2kr.schema.default_value`."""
        for batch in self.to_batches(rows):
            self.write_batch(batch)

    def to_batches(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[pa.RecordBatch]:
        """Dict rows as record batches of this table."""
        block: list[Mapping[str, Any]] = []
        done = 0
        for row in rows:
            block.append(row)
            if len(block) == self._batch_rows:
                yield self._convert(block, done)
                done += len(block)
                block = []
        if block:
            yield self._convert(block, done)

    def _convert(self, rows: list[Mapping[str, Any]], first: int) -> pa.RecordBatch:
        known = {c.name for c in self.columns}
        for i, row in enumerate(rows):
            if not row.keys() <= known:
                raise InputError(
                    f"unknown column {sorted(row.keys() - known)[0]!r}",
                    where=f"{self._table}, row {first + i + 1}",
                    expected="one of " + ", ".join(c.name for c in self.columns),
                )
        arrays = []
        for column, field in zip(self.columns, self.schema, strict=True):
            default = default_value(column)
            values = [row.get(column.name, default) for row in rows]
            try:
                arrays.append(_array(values, field.type))
            except _BAD_VALUE:
                raise self._wrong_value(column, field.type, values, first) from None
        return pa.record_batch(arrays, schema=self.schema)

    def _wrong_value(
        self, column: Column, type_: pa.DataType, values: list[Any], first: int
    ) -> InputError:
        i, value = next((i, v) for i, v in enumerate(values) if not _fits(v, type_))
        return InputError(
            f"column '{column.name}' holds {value!r:.80}",
            where=f"{self._table}, row {first + i + 1}",
            expected=column.type + (" or null" if column.nullable else ""),
        )

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Writes a record batch of this table's schema, of any length."""
        if batch.schema != self.schema:
            raise InputError(
                f"a batch has the columns {batch.schema.names}",
                where=self._table,
                expected=", ".join(f"{f.name}: {f.type}" for f in self.schema),
            )
        for column, array in zip(self.columns, batch.columns, strict=True):
            if not column.nullable and array.null_count:
                at = array.is_null().to_pylist().index(True)
                raise InputError(
                    f"column '{column.name}' is null",
                    where=f"{self._table}, row {self.rows + at + 1}",
                    expected=column.type,
                )
        self.rows += len(batch)
        self._written(len(batch))
        if self._skip:
            skipped = min(self._skip, len(batch))
            self._skip -= skipped
            batch = batch.slice(skipped)
            if not len(batch):
                return  # kept, an empty slice would hold the rows it was cut from
        self._pending.append(batch)
        self._pending_rows += len(batch)
        while self._pending_rows >= self._batch_rows:
            self._write(self._take(self._batch_rows))

    def _take(self, n: int) -> pa.RecordBatch:
        """The next ``n`` pending rows as one batch, its bytes free of how the rows arrived."""
        head = self._pending[0]
        if len(head) == n and not any(column.offset for column in head.columns):
            self._pending_rows -= n
            return self._pending.pop(0)
        parts: list[pa.RecordBatch] = []
        while n:
            head = self._pending[0]
            if len(head) <= n:
                parts.append(self._pending.pop(0))
            else:
                parts.append(head.slice(0, n))
                self._pending[0] = head.slice(n)
            n -= len(parts[-1])
            self._pending_rows -= len(parts[-1])
        joined = pa.concat_batches(parts)
        # A slice keeps its parent's bits and offsets; a copy does not.
        return joined.take(np.arange(len(joined)))

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Drops the unfinished shard if the disk fails; whole ones stay."""
        try:
            with plainly(self._folder):
                yield
        except M2KRError:
            if self._file is not None:
                self._stream = None
                with suppress(OSError):  # the buffered rest has no room; the file goes next
                    self._file.close()
                self._aside().unlink(missing_ok=True)
            raise

    def _write(self, batch: pa.RecordBatch) -> None:
        with self._on_disk():
            if self._stream is None:
                self._number = self._whole_shards()
                self._in_shard = 0
                self._file = atomic.create(self._aside())
                self._stream = pa.ipc.new_stream(self._file, self.schema)
            self._stream.write_batch(batch)
            self._in_shard += len(batch)
            if self._in_shard >= self._shard_rows:
                self._finish_shard()

    def _finish_shard(self) -> None:
        self._stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._stream = None
        shard = self._shard(self._number)
        atomic.replace(self._aside(), shard)
        self._finished(shard, self._in_shard >= self._shard_rows)

    def close(self) -> list[Path]:
        """Writes what is pending; gives the shards in order. An empty table has one empty shard."""
        with self._on_disk():
            if self._pending_rows:
                self._write(self._take(self._pending_rows))
            if self._stream is not None:
                self._finish_shard()
            if not self._whole_shards():
                self._write(pa.RecordBatch.from_pylist([], schema=self.schema))
                self._finish_shard()
        return [self._shard(i) for i in range(self._whole_shards())]


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    if pa.types.is_list(type_) and any(isinstance(value, str) for value in values):
        raise pa.ArrowTypeError("a string is no list of strings")  # Arrow would take its letters
    return pa.array(values, type_)


def _fits(value: Any, type_: pa.DataType) -> bool:
    try:
        _array([value], type_)
    except _BAD_VALUE:
        return False
    return True


def write_dataset_files(
    folder: Path, shards: Sequence[Mapping[str, Any]], schema: pa.Schema, *, split: str
) -> None:
    """Writes what ``datasets.load_from_disk`` wants beside the shards of one split.

    Args:
        folder: Of the split.
        shards: File name and sha256 of each, in order.
        schema: Of the table.
        split: Its name.
    """
    from datasets import Features

    features = Features.from_arrow_schema(schema).to_dict()
    atomic.write_json(folder / "dataset_info.json", {"features": features}, alone=True)
    hashes = "".join(shard["sha256"] for shard in shards)
    state: dict[str, Any] = {
        "_data_files": [{"filename": shard["file"]} for shard in shards],
        "_fingerprint": hashlib.sha256(hashes.encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    atomic.write_json(folder / "state.json", state, alone=True)
