"""Export as Parquet with Croissant 1.1 metadata, which say what each file holds and what it was made from.

A built edition has such metadata, too, but of Arrow streams, which Croissant's tools don't read.
"""

import dataclasses
import hashlib
import json

from m2kr.building.croissant import described, file_object, record_set
from m2kr.export import tables
from m2kr.export.request import ExportRequest
from m2kr.schema import GRADES, QUERY_COLUMNS, qrels_columns

_PARQUET = "application/x-parquet"


def write(request: ExportRequest) -> list[str]:
    """Writes what `m2kr.export.tables` does, and ``croissant.json``."""
    notes = tables.write(request)
    split = request.splits[0]
    record = split.manifest
    columns = record["source"]["columns"]
    graded = any(column["name"] == GRADES.name for column in columns["queries"])
    judged = qrels_columns([*QUERY_COLUMNS, GRADES] if graded else QUERY_COLUMNS)
    columns = {**columns, "qrels": [dataclasses.asdict(column) for column in judged]}
    files, sets = [], []
    for path in sorted(request.folder.glob("*/*.parquet")):
        kind, name = path.parent.name, path.relative_to(request.folder).as_posix()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(file_object(name, _PARQUET, path.stat().st_size, digest))
        if kind in columns:
            sets.append(
                record_set(f"{kind}-{path.stem}", columns[kind], {"fileObject": {"@id": name}})
            )
    facts = described(f"m2kr-{split.source}-{split.edition}", [record], files, sets)
    with request.file("croissant.json") as out:
        out.write(f"{json.dumps(facts, indent=1, ensure_ascii=False)}\n".encode())
    return notes
