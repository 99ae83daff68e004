"""Export as MTEB's retrieval tasks load it: a data set folder with corpus, queries and qrels.

A task of one's own names the folder as its data set's ``path`` (``revision`` can be anything). Texts are
whole passages, and instruction and question of a query; images are embedded where the source has an image
root.
"""

import json
from typing import TYPE_CHECKING, Any

import yaml

from m2kr.data.records import Queries
from m2kr.errors import UsageError
from m2kr.export.request import ExportRequest, unjudged_note, whole_grades

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from datasets import Dataset

    from m2kr.data.images.store import ImageStore
    from m2kr.data.load import Split

_MOST_GRADE = 2**31 - 1


def write(request: ExportRequest) -> list[str]:
    """Writes ``corpus``, ``queries`` and ``qrels`` as Parquet, and the card that names their files."""
    import pyarrow as pa
    import pyarrow.compute as pc

    notes: list[str] = []
    for pool, split in request.pools.items():
        notes += _write_texts(request, split, split.passages, f"corpus/{pool}.parquet")
    for split in request.splits:
        notes += _write_texts(request, split, split.queries, f"queries/{split.split}.parquet")
        judged = whole_grades(split, "MTEB")
        notes += unjudged_note(split, judged, "MTEB")
        if (pc.max(judged.column("relevance")).as_py() or 0) > _MOST_GRADE:
            raise UsageError("a grade is above 2^31", where=split.label, fix="--format parquet")
        schema = pa.schema(
            [("query-id", pa.string()), ("corpus-id", pa.string()), ("score", pa.int32())]
        )
        table = judged.rename_columns(schema.names).cast(schema)
        request.write_parquet(f"qrels/{split.split}.parquet", schema, iter(table.to_batches()))
    configs = [
        {
            "config_name": config,
            "data_files": [
                {
                    "split": s.split,
                    "path": f"{folder}/{s.pool if folder == 'corpus' else s.split}.parquet",
                }
                for s in request.splits
            ],
            **({"default": True} if config == "default" else {}),
        }
        for config, folder in (("corpus", "corpus"), ("queries", "queries"), ("default", "qrels"))
    ]
    with request.file("README.md") as file:
        file.write(f"---\n{yaml.safe_dump({'configs': configs}, sort_keys=False)}---\n".encode())
    return list(dict.fromkeys(notes))


def _write_texts(request: ExportRequest, split: "Split", rows: "Dataset", name: str) -> list[str]:
    """Ids, texts and images of queries or passages."""
    import pyarrow as pa

    column = rows.data.column("img_path")
    paths = len(column) - column.null_count
    store = split.images if paths else None
    if store is not None and not store.roots:
        store = None
    fields = [("id", pa.string()), ("text", pa.string())]
    schema = pa.schema(fields)
    if store is not None:
        store.require(path for chunk in column.chunks for path in chunk.to_pylist())
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        features = {n: {"dtype": "string", "_type": "Value"} for n, _ in fields}
        features["image"] = {"_type": "Image"}
        schema = pa.schema([*fields, ("image", image)]).with_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    request.write_parquet(name, schema, _rows(request, rows, schema, store))
    if store is None and paths:
        return [
            f"{split.split}: images are left out, as the source has no image root (--images DIR)"
        ]
    if store is not None and paths < len(column):
        return [f"{name}: {len(column) - paths:,} of {len(column):,} rows have no image"]
    return []


def _rows(
    request: ExportRequest, rows: "Dataset", schema: "pa.Schema", store: "ImageStore | None"
) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    step = 64 if store is not None else 10_000  # images are read into memory
    for batch in request.batches(rows):
        for start in range(0, len(batch), step):
            records = [_record(row, store) for row in batch.slice(start, step).to_pylist()]
            yield pa.RecordBatch.from_pylist(records, schema=schema)


def _record(row: dict[str, Any], store: "ImageStore | None") -> dict[str, Any]:
    if "question_id" in row:
        record: dict[str, Any] = {"id": row["question_id"], "text": Queries.text(row)}
    else:
        record = {"id": row["passage_id"], "text": row["passage_content"]}
    if store is not None and row["img_path"] is not None:
        record["image"] = {"bytes": store.read(row["img_path"]), "path": None}
    return record
