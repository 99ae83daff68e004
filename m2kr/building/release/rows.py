"""Rows of the release in our schema: types made one, known faults repaired, each repair in the ledger.

One odd row never makes a source unbuildable. Repairs: columns of type null or absent become nulls or
empty values; a blank question becomes ``""``; a positive without text (the authors' dummy for "none
found") or without id goes; a row without an id is named after its place; of passages that share an id,
equal ones are dropped and others are numbered and, where a source has the column, scored as that id;
queries that share an id are numbered, so that a mean is over as many as the authors'. Positives that
the pool lacks, and texts that differ from the pool's, are repaired by the engine, which knows the pool.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.building.ledger import Ledger
from m2kr.building.release.tables import ReleaseTable, unreadable
from m2kr.building.spec import UPSTREAM_ROW, BuildContext, Row
from m2kr.data.lookup import id_hashes
from m2kr.errors import InputError
from m2kr.parquet import ParquetReader
from m2kr.schema import ID_COLUMN, Column, arrow_schema, columns, default_value

_BATCH = 1_000
# Read although no column of ours: compared with the pool, whose texts take their place.
_ENGINE = {"pos_item_contents"}
_UNREADABLE = (pa.ArrowException, InputError, UnicodeDecodeError)


def normalised_queries(ctx: BuildContext, table: ReleaseTable) -> Iterator[Row]:
    """Query rows of one split; positives without text are taken out."""
    extra, ids = ctx.source.query_columns, _Ids(table, "question_id")
    for file, first, batch in _batches(ctx.ledger, table, columns("queries", extra)):
        for i, row in enumerate(batch.to_pylist()):
            number, row_id = first + i, _named(ctx.ledger, file, first + i, row["question_id"])
            row["question_id"] = row_id
            if ids.repeats(row_id) and (times := ids.count(row_id)) > 1:
                ctx.ledger.repair("a query id used again", file=file, row=number, detail=row_id)
                row["question_id"] = ids.numbered(row_id, times)
            if not row["question"].strip():
                if row["question"]:
                    ctx.ledger.repair("blank question", file=file, row=number)
                row["question"] = ""
            if row["img_path"] is not None and not row["img_path"].strip():
                ctx.ledger.repair("blank img_path", file=file, row=number)
                row["img_path"] = None
            _keep_true_positives(ctx.ledger, file, number, row)
            row[UPSTREAM_ROW] = file, number
            ctx.ledger.use(file, number)
            yield row


def lose_positives(queries: ReleaseTable, pool: ReleaseTable) -> bool:
    """Whether a positive, but for those that are taken out, is not in the pool."""
    known = np.sort(np.concatenate([id_hashes(ids) for ids in _cells_of(pool, "passage_id")]))

    def lost(ids: pa.Array) -> bool:
        return not np.isin(id_hashes(ids), known).all()

    positives = _cells_of(queries, "pos_item_ids")
    if not any(lost(pc.fill_null(pc.list_flatten(lists), "")) for lists in positives):
        return False
    quiet = Ledger("positives")  # some are lost, or the authors' dummy: only their texts tell
    cols = [c for c in columns("queries") if c.name.startswith("pos_item_")]
    for file, _, batch in _batches(quiet, queries, tuple(cols)):
        for row in batch.to_pylist():
            _keep_true_positives(quiet, file, 0, row)
            if lost(pa.array(row["pos_item_ids"], pa.string())):
                return True
    return False


def _cells_of(table: ReleaseTable, column: str) -> Iterator[pa.Array]:
    """A column, batch by batch: ids, or lists of ids."""
    is_id = column in ID_COLUMN.values()
    target, empty = (pa.string(), "") if is_id else (pa.list_(pa.string()), [])
    for path in table.files:
        number = 1
        with ParquetReader(path) as file:
            try:
                for batch in file.batches([column], rows=1 << 16):
                    yield pc.fill_null(_typed(batch.column(0), target), pa.scalar(empty, target))
                    number += len(batch)
            except _UNREADABLE as error:
                raise unreadable(path, f"{path}, row {number} or after", error) from error


def _keep_true_positives(ledger: Ledger, file: str, number: int, row: dict[str, Any]) -> None:
    """Takes positives out that have no id or text or were named before; ids and texts stay aligned."""
    ids, texts = row["pos_item_ids"], row["pos_item_contents"]
    if texts and len(texts) != len(ids):
        detail = f"{len(texts)} texts of {len(ids)} positives"
        ledger.repair("texts of positives left out", file=file, row=number, detail=detail)
    if len(texts) != len(ids):
        texts = None
    kept: dict[str, str | None] = {}
    lost = dict.fromkeys(
        ("positive without id", "positive without text", "positive named twice"), 0
    )
    for row_id, text in zip(ids, texts or [None] * len(ids), strict=True):
        if not (row_id or "").strip():
            lost["positive without id"] += 1
        elif texts is not None and not (text or "").strip():
            lost["positive without text"] += 1
        elif row_id in kept:
            lost["positive named twice"] += 1
        else:
            kept[row_id] = text
    for rule, n in lost.items():
        if n:
            ledger.repair(rule, file=file, row=number, detail=f"{n} of {len(ids)}")
    row["pos_item_ids"] = list(kept)
    row["pos_item_contents"] = list(kept.values()) if texts is not None else []


def normalised_passages(
    ctx: BuildContext, table: ReleaseTable, *, repair: bool
) -> Iterator[pa.RecordBatch]:
    """Passage batches of one pool.

    Args:
        ctx: The build.
        table: The split.
        repair: Drop passages whose id and text both occurred before; else they stay, numbered.
    """
    cols = columns("passages", ctx.source.passage_columns)
    ids, seen = _Ids(table, "passage_id"), dict[str, list[str]]()
    for file, first, batch in _batches(ctx.ledger, table, cols):
        yield _unique(ctx.ledger, file, first, batch, ids, seen, repair=repair)


def _unique(
    ledger: Ledger,
    file: str,
    first: int,
    batch: pa.RecordBatch,
    known: "_Ids",
    seen: dict[str, list[str]],
    *,
    repair: bool,
) -> pa.RecordBatch:
    """A batch whose ids are new: ``id#2`` and so on for those seen before."""
    ids: list[str] = batch.column("passage_id").to_pylist()
    if not known.any and all(map(str.strip, ids)):
        ledger.use(file, np.arange(first, first + len(batch)))
        return batch
    kept, new, scored = [], [], []
    contents = batch.column("passage_content")
    for i, raw_id in enumerate(ids):
        row_id = _named(ledger, file, first + i, raw_id)
        again = ""
        if known.repeats(row_id):
            text, texts = contents[i].as_py(), seen.setdefault(row_id, [])
            if text in texts and repair:
                ledger.drop("a passage twice", file=file, row=first + i, detail=row_id)
                continue
            texts.append(text)
            if len(texts) > 1:
                twice = text in texts[:-1]
                rule = "a passage twice, kept" if twice else "an id used for another text"
                ledger.repair(rule, file=file, row=first + i, detail=row_id)
                again = known.numbered(row_id, len(texts))
        kept.append(i)
        new.append(again or row_id)
        scored.append(row_id if again else None)
    ledger.use(file, first + np.array(kept, np.int64))
    batch = batch.take(pa.array(kept, pa.int64()))
    columns_ = {
        "passage_id": pa.array(new, pa.string()),
        "scored_as": pa.array(scored, pa.string()),
    }
    arrays = [columns_.get(f.name, batch.column(f.name)) for f in batch.schema]
    return pa.record_batch(arrays, schema=batch.schema)


class _Ids:
    """The ids of a table, looked through before its rows are: which of them are used again.

    8 bytes an id are held while some are, and nothing else.
    """

    def __init__(self, table: ReleaseTable, column: str) -> None:
        blocks = [
            np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids))
            for ids in _cells_of(table, column)
        ]
        hashes = np.concatenate([np.empty(0, np.int64), *blocks])
        hashes.sort()
        self._again = frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        self._all = hashes if self._again else hashes[:0]
        self._times: Counter[str] = Counter()
        self._given: set[str] = set()

    @property
    def any(self) -> bool:
        """Whether an id may be used again."""
        return bool(self._again)

    def repeats(self, row_id: str) -> bool:
        """Whether this id may be used again: a look at the rows tells."""
        return hash(row_id) in self._again

    def count(self, row_id: str) -> int:
        """How often an id has come, this time included."""
        self._times[row_id] += 1
        return self._times[row_id]

    def numbered(self, row_id: str, time: int) -> str:
        """An id for a row that has another one's: ``id#2``, or the next that nothing is called."""
        new_id = f"{row_id}#{time}"
        while new_id in self._given or self._has(new_id):
            new_id += f"#{time}"
        self._given.add(new_id)
        return new_id

    def _has(self, row_id: str) -> bool:
        return bool(
            self._all[np.searchsorted(self._all, hash(row_id)) % len(self._all)] == hash(row_id)
        )


def _named(ledger: Ledger, file: str, number: int, row_id: str) -> str:
    """A row's id; where it has none, its place."""
    if row_id.strip():
        return row_id
    ledger.repair("a row without an id", file=file, row=number)
    return f"{file.removesuffix('.parquet')}-row-{number}"


def _batches(
    ledger: Ledger, table: ReleaseTable, cols: tuple[Column, ...]
) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """File, number of the first row and rows in our columns, batch by batch."""
    schema = arrow_schema(cols)
    for path in table.files:
        name, number = path.name, 1
        with ParquetReader(path) as file:
            _note_columns(ledger, name, file.schema, cols)
            names = [c.name for c in cols if c.name in file.schema.names]
            try:
                for batch in file.batches(names, rows=_BATCH):
                    ledger.read(name, len(batch))
                    arrays = [
                        _column(ledger, name, number, batch, column, field.type)
                        for column, field in zip(cols, schema, strict=True)
                    ]
                    yield name, number, pa.record_batch(arrays, schema=schema)
                    number += len(batch)
            except _UNREADABLE as error:
                raise unreadable(path, f"{path}, row {number} or after", error) from error


def _note_columns(ledger: Ledger, name: str, schema: pa.Schema, cols: tuple[Column, ...]) -> None:
    """One ledger row for each column that is of type null, or that our tables don't keep."""
    known = {column.name for column in cols}
    for field in schema:
        if field.name not in known and field.name not in _ENGINE:
            ledger.repair("column not kept", file=name, row=0, detail=f"{field.name}: {field.type}")
        elif pa.types.is_null(field.type):
            ledger.repair("column of type null", file=name, row=0, detail=field.name)


def _column(
    ledger: Ledger,
    name: str,
    first: int,
    batch: pa.RecordBatch,
    column: Column,
    target: pa.DataType,
) -> pa.Array:
    """One of our columns out of a batch of the release."""
    n = len(batch)
    place = batch.schema.get_field_index(column.name)
    array = batch.column(place) if place >= 0 else pa.nulls(n)
    if pa.types.is_null(array.type):
        return pa.array([default_value(column)] * n, target)
    array = _typed(array, target)
    if not column.nullable and array.null_count:
        if column.type == "string" and column.name not in ID_COLUMN.values():  # see `_named`
            rows = first + np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            ledger.repair(f"null {column.name}", file=name, row=rows)
        filled = [default_value(column) if v is None else v for v in array.to_pylist()]
        array = pa.array(filled, target)
    return array


def _typed(array: pa.Array, target: pa.DataType) -> pa.Array:
    """An array as another type: numbers as text, nested values as JSON text."""
    if array.type == target:
        return array
    if pa.types.is_string(target) and pa.types.is_nested(array.type):
        texts = [None if v is None else orjson.dumps(v).decode() for v in array.to_pylist()]
        return pa.array(texts, target)
    if pa.types.is_list(target) and pa.types.is_null(getattr(array.type, "value_type", None)):
        return pa.array([None if v is None else [] for v in array.to_pylist()], target)
    return pc.cast(array, target)
