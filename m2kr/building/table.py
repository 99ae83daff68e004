"""Building one table of a source: rows from the builder in, Arrow shards, index and fingerprints out."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from m2kr import atomic
from m2kr.building.hashing import ShardHasher, shard_facts
from m2kr.building.ledger import Ledger
from m2kr.building.parts import Stats, complete, context
from m2kr.building.pool import PoolReader
from m2kr.building.spec import BuildConfig, BuildContext, Row
from m2kr.data.lookup import INDEX, duplicates, write_hashes, write_index
from m2kr.data.rows import open_shards, read_batches
from m2kr.errors import CheckError, InputError, M2KRError, plainly
from m2kr.fingerprint import image_paths_part, query_parts
from m2kr.progress import Progress
from m2kr.schema import (
    BATCH_ROWS,
    ID_COLUMN,
    LOST_IDS,
    Column,
    TableKind,
    arrow_schema,
    columns,
    default_value,
    qrels_columns,
    table_name,
)

SHARD_ROWS = 200_000
_BAD_VALUE = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError)
Written = Callable[[int], None]


@dataclass(frozen=True)
class TableJob:
    """One table of a build.

    Attributes:
        kind: ``passages`` or ``queries``.
        split: Name of the passage split or query split.
        config: What it shares with the others.
        like: For passages: a pool, built before, that holds the same rows.
        serves: For passages: pools that will be copies of this one.
    """

    kind: TableKind
    split: str
    config: BuildConfig
    like: str | None = None
    serves: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Folder of the table below the edition, such as ``OKVQA_data/test``."""
        return table_name(self.config.source.config, self.kind, self.split)

    @property
    def marker(self) -> Path:
        """The file whose presence says that the table is complete."""
        name = self.name.replace("/", ".")
        return self.config.staging / "tables" / f"{name}.json"

    @property
    def ledger_part(self) -> Path:
        """The table's own part of the ledger."""
        return self.marker.with_suffix(".ledger.parquet")


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


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A column's type as ``datasets`` 4 and later writes it; to import that library takes a second."""
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": "float64" if kind == pa.float64() else str(kind), "_type": "Value"}


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
    features = {field.name: _feature(field.type) for field in schema}
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


def build_table(job: TableJob, progress: Progress) -> Stats:
    """Builds one table in the staging folder, or takes it as it is if it is already complete."""
    name, config = job.name, job.config

    def make() -> Stats:
        if job.like is not None:
            return _copy_pool(job)
        ledger = Ledger(name, job.ledger_part, full=config.full_ledger)
        ctx = context(config, ledger, progress)
        progress.start(name, None, "rows")
        build = _build_passages if job.kind == "passages" else _build_queries
        stats = build(ctx, job, lambda n: progress.advance(name, n))
        progress.done(name)
        stats |= ledger.close(whole=config.limit is None)
        pa.default_memory_pool().release_unused()  # the next table has a peak of its own
        return stats

    return complete(job.marker, name, make)


def _copy_pool(job: TableJob) -> Stats:
    """A pool with the rows of another one: the same files under a second name."""
    source = job.config.source
    other = TableJob("passages", str(job.like), job.config)
    stats: Stats = json.loads(other.marker.read_text(encoding="utf-8"))
    old = job.config.staging / other.name
    new = job.config.staging / job.name
    atomic.discard(new)
    new.mkdir(parents=True)
    for name in (*(f["file"] for f in stats["shards"]), INDEX):
        atomic.link(old / name, new / name)
    schema = arrow_schema(columns("passages", source.passage_columns))
    write_dataset_files(new, stats["shards"], schema, split=job.split)
    return stats | {"ledger": {}, "inputs": {}}


def _build_passages(ctx: BuildContext, job: TableJob, written: Written) -> Stats:
    name, cols = job.name, columns("passages", ctx.source.passage_columns)
    folder, hasher = job.config.staging / name, ShardHasher()
    try:
        writer = TableWriter(folder, cols, table=name, written=written, finished=hasher.add)
        rows = job.config.builder.passages(ctx, job.split)
        if job.config.limit is not None:
            rows = _limited_pool(rows, _positives_of(ctx, job), job.config.limit)
        _write(writer, rows)
        writer.close()
        hashes = hasher.close()
    finally:
        hasher.stop()
    facts, pool = hashes.facts, hashes.fingerprint()
    write_dataset_files(folder, facts, writer.schema, split=job.split)
    _refuse_duplicates(folder, name, "passage_id", write_hashes(folder, hashes.id_hashes()))
    return {"rows": writer.rows, "shards": facts, "pool": pool}


def _build_queries(ctx: BuildContext, job: TableJob, written: Written) -> Stats:
    source, name = ctx.source, job.name
    staging, limit = job.config.staging, job.config.limit
    folder = staging / name
    pool = PoolReader(staging / table_name(source.config, "passages", source.pools[job.split]))
    writer = TableWriter(
        folder, columns("queries", source.query_columns), table=name, written=written
    )
    qrels_name = table_name(source.config, "qrels", job.split)
    qrels = TableWriter(staging / qrels_name, qrels_columns(source.query_columns), table=qrels_name)
    threshold = float(job.config.builder.relevance_threshold)
    totals: dict[str, int] = dict.fromkeys(("judged", "positives", "with_image", "with_answers"), 0)
    rows = iter(itertools.islice(job.config.builder.queries(ctx, job.split), limit))
    while block := list(itertools.islice(rows, BATCH_ROWS)):
        filled = pool.fill_contents(block, name, ctx.ledger)
        writer.write_rows(filled)
        qrels.write_rows(
            {"question_id": row["question_id"], "passage_id": passage, "relevance": grade}
            for row in filled
            for passage, grade in _judgements(row)
        )
        for row in filled:
            totals["judged"] += any(grade >= threshold for _, grade in _judgements(row))
            totals["positives"] += len(row["pos_item_ids"])
            totals["with_image"] += row.get("img_path") is not None
            totals["with_answers"] += bool(row.get("answers"))
    stats = _complete(writer, folder, name, job.split, "queries")
    stats["qrels"] = _complete(qrels, staging / qrels_name, qrels_name, job.split, "qrels")
    stats["totals"] = totals
    stats["queries"], stats["judgements"] = query_parts(read_batches(folder), threshold)
    stats["image_paths"] = image_paths_part(read_batches(folder))
    return stats


def _judgements(row: Row) -> list[tuple[str, float]]:
    """Passages and grades of a query row; passages that the pool lacks are among them."""
    judged: list[tuple[str, float]] = []
    for ids, grades in (
        ("pos_item_ids", "pos_item_grades"),
        (LOST_IDS.name, "lost_item_grades"),
    ):
        passages = row.get(ids) or ()
        judged += zip(passages, row.get(grades) or itertools.repeat(1, len(passages)), strict=True)
    return judged


def _write(writer: TableWriter, rows: "Iterator[Row | pa.RecordBatch]") -> None:
    for is_batch, group in itertools.groupby(rows, lambda r: isinstance(r, pa.RecordBatch)):
        if is_batch:
            for batch in group:
                writer.write_batch(batch)
        else:
            writer.write_rows(group)


def _complete(writer: TableWriter, folder: Path, name: str, split: str, kind: TableKind) -> Stats:
    """Closes a writer, adds the files around its shards and gives their facts."""
    facts = [shard_facts(shard) for shard in writer.close()]
    write_dataset_files(folder, facts, writer.schema, split=split)
    if kind in ID_COLUMN:
        column = ID_COLUMN[kind]
        alike = write_index(folder, (b.column(column) for b in read_batches(folder)))
        _refuse_duplicates(folder, name, column, alike)
    return {"rows": writer.rows, "shards": facts}


def _refuse_duplicates(folder: Path, name: str, column: str, alike: list[tuple[int, int]]) -> None:
    for row_id, first, other in duplicates(alike, open_shards(folder).column(column)):
        raise CheckError(
            f"{column} {row_id!r} is used twice",
            where=f"{name}, rows {first + 1} and {other + 1}",
            expected="unique ids",
        )


def _positives_of(ctx: BuildContext, job: TableJob) -> set[str]:
    """Ids that the kept queries of every split on this pool need."""
    return {
        passage
        for split, pool in ctx.source.pools.items()
        if pool in (job.split, *job.serves)
        for row in itertools.islice(
            job.config.builder.queries(ctx.quiet(), split), job.config.limit
        )
        for passage in row["pos_item_ids"]
    }


def _limited_pool(
    rows: "Iterable[Row | pa.RecordBatch]", needed: set[str], limit: int
) -> Iterator[Row]:
    """The needed passages and the first ``limit`` others, in order."""
    others, missing = 0, set(needed)
    for item in rows:
        for row in item.to_pylist() if isinstance(item, pa.RecordBatch) else (item,):
            if row["passage_id"] in needed:
                missing.discard(row["passage_id"])
                yield row
            elif others < limit:
                others += 1
                yield row
        if not missing and others >= limit:
            return
