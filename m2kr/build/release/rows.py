"""Rows of the release in our schema: types made one, known faults repaired, each repair in the ledger.

Repairs: columns of type null or absent become nulls or empty values; a blank question becomes ``""``;
a positive without text (the authors' dummy for "none found") goes; of passages that share an id, equal
ones are dropped and others are numbered and scored as that id. Texts of positives that differ from the
pool's are replaced by the engine, which knows the pool.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from m2kr.build.ledger import Ledger
from m2kr.build.release.files import ReleaseTable
from m2kr.build.spec import UPSTREAM_ROW, BuildContext, Row
from m2kr.errors import InputError
from m2kr.schema import Column, arrow_schema, columns, default_value

_BATCH = 1_000
# Read although no column of ours: compared with the pool, whose texts take their place.
_ENGINE = {"pos_item_contents"}


def normalised_queries(ctx: BuildContext, table: ReleaseTable) -> Iterator[Row]:
    """Query rows of one split; positives without text are taken out."""
    extra = ctx.source.query_columns
    for file, first, batch in _batches(ctx.ledger, table, columns("queries", extra)):
        for i, row in enumerate(batch.to_pylist()):
            number = first + i
            if not row["question"].strip():
                if row["question"]:
                    ctx.ledger.repair("blank question", file=file, row=number)
                row["question"] = ""
            _keep_true_positives(ctx.ledger, file, number, row)
            row[UPSTREAM_ROW] = file, number
            ctx.ledger.use(file, number)
            yield row


def _keep_true_positives(ledger: Ledger, file: str, number: int, row: dict[str, Any]) -> None:
    """Takes positives out that have no text or were named before; ids and texts stay aligned."""
    ids, texts = row["pos_item_ids"], row["pos_item_contents"]
    if len(texts) != len(ids):
        row["pos_item_contents"] = texts = []
    elif not all(texts):
        kept = [i for i, text in enumerate(texts) if text]
        detail = f"{len(texts) - len(kept)} of {len(texts)}"
        ledger.repair("positive without text", file=file, row=number, detail=detail)
        row["pos_item_ids"] = ids = [ids[i] for i in kept]
        row["pos_item_contents"] = texts = [texts[i] for i in kept]
    first = {own: i for i, own in reversed(list(enumerate(ids)))}
    if len(first) < len(ids):
        ledger.repair("positive named twice", file=file, row=number)
        kept = sorted(first.values())
        row["pos_item_ids"] = [ids[i] for i in kept]
        row["pos_item_contents"] = [texts[i] for i in kept] if texts else []


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
    shared = any(column.name == "scored_as" for column in cols)
    seen: dict[str, list[str]] = {}
    for file, first, batch in _batches(ctx.ledger, table, cols):
        if shared:
            batch = _unique(ctx.ledger, file, first, batch, seen, repair=repair)
        else:
            ctx.ledger.use(file, np.arange(first, first + len(batch)))
        yield batch


def _unique(
    ledger: Ledger,
    file: str,
    first: int,
    batch: pa.RecordBatch,
    seen: dict[str, list[str]],
    *,
    repair: bool,
) -> pa.RecordBatch:
    """A batch whose ids are new: ``id#2`` and so on for those seen before."""
    kept, ids, scored = [], [], []
    pairs = zip(
        batch.column("passage_id").to_pylist(),
        batch.column("passage_content").to_pylist(),
        strict=True,
    )
    for i, (own, text) in enumerate(pairs):
        texts = seen.setdefault(own, [])
        if text in texts and repair:
            ledger.drop("a passage twice", file=file, row=first + i, detail=own)
            continue
        texts.append(text)
        again = len(texts) > 1
        if again:
            rule = "a passage twice, kept" if text in texts[:-1] else "an id used for another text"
            ledger.repair(rule, file=file, row=first + i, detail=own)
        kept.append(i)
        ids.append(f"{own}#{len(texts)}" if again else own)
        scored.append(own if again else None)
    ledger.use(file, first + np.array(kept, np.int64))
    batch = batch.take(pa.array(kept, pa.int64()))
    new = {"passage_id": pa.array(ids, pa.string()), "scored_as": pa.array(scored, pa.string())}
    arrays = [new.get(f.name, batch.column(f.name)) for f in batch.schema]
    return pa.record_batch(arrays, schema=batch.schema)


def _batches(
    ledger: Ledger, table: ReleaseTable, cols: tuple[Column, ...]
) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """File, number of the first row and rows in our columns, batch by batch."""
    schema = arrow_schema(cols)
    for path in table.files:
        name, number = path.name, 1
        with pq.ParquetFile(path) as file:
            _note_columns(ledger, name, file.schema_arrow, cols)
            wanted = [c.name for c in cols if c.name in file.schema_arrow.names]
            try:
                for batch in file.iter_batches(_BATCH, columns=wanted):
                    ledger.read(name, len(batch))
                    arrays = [
                        _column(ledger, name, number, batch, column, field.type)
                        for column, field in zip(cols, schema, strict=True)
                    ]
                    yield name, number, pa.record_batch(arrays, schema=schema)
                    number += len(batch)
            except (pa.ArrowException, OSError) as error:
                raise InputError(
                    f"the file can't be read: {error}"[:300],
                    where=f"{path}, row {number} or after",
                    expected="a whole Parquet file of the release",
                    fix=f"delete {path.resolve()} and fetch it again",
                ) from error


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
    wanted: pa.DataType,
) -> pa.Array:
    """One of our columns out of a batch of the release."""
    n = len(batch)
    at = batch.schema.get_field_index(column.name)
    array = batch.column(at) if at >= 0 else pa.nulls(n)
    if pa.types.is_null(array.type):
        return pa.array([default_value(column)] * n, wanted)
    array = _typed(array, wanted)
    if not column.nullable and array.null_count:
        if column.type == "string":
            rows = first + np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            ledger.repair(f"null {column.name}", file=name, row=rows)
        filled = [default_value(column) if v is None else v for v in array.to_pylist()]
        array = pa.array(filled, wanted)
    return array


def _typed(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """An array as another type: numbers as text, nested values as JSON text."""
    if array.type == wanted:
        return array
    if pa.types.is_string(wanted) and pa.types.is_nested(array.type):
        texts = [None if v is None else orjson.dumps(v).decode() for v in array.to_pylist()]
        return pa.array(texts, wanted)
    if pa.types.is_list(wanted) and pa.types.is_null(getattr(array.type, "value_type", None)):
        return pa.array([None if v is None else [] for v in array.to_pylist()], wanted)
    return pc.cast(array, wanted)
