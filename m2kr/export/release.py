"""Export in the authors' release layout, for scripts that were written for it.

``<CONFIG>_data/<split>-00000-of-0000N.parquet`` and ``<CONFIG>_passages/...``, columns in the release's
order, with its oddities: a question that every row of CC lacks and the images that every row of MSMARCO
lacks are columns of type null; another blank question is one blank; ids are those that a build had to
number. Columns that m2kr's tables don't keep are left out.
"""

from typing import TYPE_CHECKING

from m2kr.errors import UsageError
from m2kr.export.request import ExportRequest
from m2kr.schema import GRADES, LOST_GRADES, LOST_IDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from datasets import Dataset

    from m2kr.data.load import Split

_SHARD_ROWS = 500_000
# What the release's tables hold in that order; other columns of ours follow.
_POSITIVES = "pos_item_ids pos_item_contents"
_IMAGE = "img_id img_path image_id"
_TAGGED = f"original_data_id {_POSITIVES} {_IMAGE} question_id"
_PLAIN = f"{_POSITIVES} {_IMAGE} question_id question"
_OF_IMAGES = "language original_data_id img_id img_path passage_id passage_content"
_ORDER = {
    "WIT_data": f"{_TAGGED} instruction question",
    "IGLUE_data": f"question_id {_POSITIVES} {_IMAGE} instruction question",
    "KVQA_data": f"{_POSITIVES} {_IMAGE} question_id instruction question",
    "CC_data": f"{_TAGGED} question instruction",
    "MSMARCO_data": f"{_TAGGED} question instruction",
    "OVEN_data": f"{_PLAIN} wiki_entity wiki_entity_id instruction",
    "LLaVA_data": f"{_PLAIN} llava_split instruction",
    "OKVQA_data": f"answers gold_answer question question_id img_path {_POSITIVES} instruction",
    "Infoseek_data": "question_id image_id question answers gold_answer "
    f"{_POSITIVES} instruction img_path question_type",
    "EVQA_data": f"{_PLAIN} answers gold_answer question_type instruction",
    "CC_passages": _OF_IMAGES,
    "MSMARCO_passages": _OF_IMAGES,
    "OKVQA_passages": "passage_id passage_content title",
    "Infoseek_passages": "passage_id passage_content title",
}
# Columns that are of type null there if no row has a value.
_NULLS = {
    "CC_data": ("question",),
    "MSMARCO_data": ("img_id", "img_path", "image_id"),
    "MSMARCO_passages": ("img_id", "img_path"),
}
_OURS = (GRADES.name, LOST_IDS.name, LOST_GRADES.name, "scored_as")


def write(request: ExportRequest) -> list[str]:
    """Writes the Parquet shards of some splits and their pools."""
    config = request.splits[0].manifest["source"]["config"]
    for split in request.splits:
        _require_plain_grades(split)
        _write(request, f"{config}_data", split.split, split.queries)
    for pool, split in request.pools.items():
        _write(request, f"{config}_passages", pool, split.passages)
    return ["columns of the release that m2kr's tables don't keep are not there"]


def _require_plain_grades(split: "Split") -> None:
    import pyarrow.compute as pc

    names = [n for n in (GRADES.name, LOST_GRADES.name) if n in split.queries.column_names]
    for name in names:
        for chunk in split.queries.data.column(name).chunks:
            if not pc.all(pc.equal(pc.list_flatten(chunk), 1), min_count=0).as_py():
                raise UsageError(
                    "its judgements have grades, and the release's tables have no place for them",
                    where=split.label,
                    fix="--format parquet",
                )


def _write(request: ExportRequest, table: str, split: str, rows: "Dataset") -> None:
    import pyarrow as pa

    data = rows.data
    null = [name for name in _NULLS.get(table, ()) if _is_empty(data.column(name))]
    names = [n for n in _ORDER.get(table, "").split() if n in data.column_names]
    names += [
        n for n in data.column_names if n not in names and _is_told(data, n, known=bool(names))
    ]
    types = [pa.null() if name in null else data.schema.field(name).type for name in names]
    schema = pa.schema(list(zip(names, types, strict=True)))
    shards = max(1, -(-len(rows) // _SHARD_ROWS))
    batches = request.batches(rows)
    left: list[pa.RecordBatch] = []
    for shard in range(shards):
        name = f"{table}/{split}-{shard:05d}-of-{shards:05d}.parquet"
        request.write_parquet(name, schema, _shard(batches, left, schema), codec="snappy")


def _is_told(data: "pa.Table", name: str, *, known: bool) -> bool:
    """Whether a column that the release's table is not known to have says anything."""
    column = data.column(name)
    if name == "language" and known and column.unique().to_pylist() == ["en"]:
        return False
    return name not in _OURS and not _is_empty(column)


def _is_empty(column: "pa.ChunkedArray") -> bool:
    """Whether no row has a value: all are null, blank or empty lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(column.type):
        return all(not pc.sum(pc.list_value_length(chunk)).as_py() for chunk in column.chunks)
    if pa.types.is_string(column.type):
        return all(not pc.sum(pc.binary_length(chunk)).as_py() for chunk in column.chunks)
    return bool(column.null_count == len(column))


def _shard(
    batches: "Iterator[pa.RecordBatch]", left: "list[pa.RecordBatch]", schema: "pa.Schema"
) -> "Iterator[pa.RecordBatch]":
    """The next rows of a table, as many as a shard has; what is more is left for the next."""
    rows = 0
    while rows < _SHARD_ROWS:
        batch = left.pop() if left else next(batches, None)
        if batch is None:
            return
        if rows + len(batch) > _SHARD_ROWS:
            left.append(batch.slice(_SHARD_ROWS - rows))
            batch = batch.slice(0, _SHARD_ROWS - rows)
        rows += len(batch)
        yield _theirs(batch, schema)


def _theirs(batch: "pa.RecordBatch", schema: "pa.Schema") -> "pa.RecordBatch":
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if "question" in columns:
        blank = pc.equal(columns["question"], "")
        columns["question"] = pc.if_else(blank, " ", columns["question"])
    if "scored_as" in columns:
        columns["passage_id"] = pc.coalesce(columns["scored_as"], columns["passage_id"])
    if LOST_IDS.name in columns:  # their texts are not known; without any, none is missed
        rows = batch.select(["pos_item_ids", "pos_item_contents", LOST_IDS.name]).to_pylist()
        lists, texts = (
            pa.list_(pa.string()),
            [[] if r[LOST_IDS.name] else r["pos_item_contents"] for r in rows],
        )
        ids = [r["pos_item_ids"] + r[LOST_IDS.name] for r in rows]
        columns |= {
            "pos_item_ids": pa.array(ids, lists),
            "pos_item_contents": pa.array(texts, lists),
        }
    arrays = [
        pa.nulls(len(batch)) if pa.types.is_null(field.type) else columns[field.name]
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)
