"""Export for trec_eval and its kin: judgements, topics, and a result's run.

Ids that hold blanks, ``%`` or control characters are percent-encoded, as in our TREC runs: two ids never
become one.
"""

import re

from m2kr.data.records import Queries
from m2kr.export.request import ExportRequest, unjudged_note, whole_grades
from m2kr.retrieval.run_text import escape_id

_BLANKS = re.compile(r"\s+")


def write(request: ExportRequest) -> list[str]:
    """Writes ``<split>.qrels.txt``, ``<split>.topics.tsv`` and ``<split>.run.trec``."""
    notes = []
    for split in request.splits:
        judged = whole_grades(split, "TREC")
        notes += unjudged_note(split, judged, "trec_eval")
        with request.file(f"{split.split}.qrels.txt") as file:
            for batch in judged.to_batches(max_chunksize=10_000):
                columns = (column.to_pylist() for column in batch.columns)
                lines = (
                    f"{escape_id(query)} 0 {escape_id(passage)} {grade}\n"
                    for query, passage, grade in zip(*columns, strict=True)
                )
                file.write("".join(lines).encode())
        with request.file(f"{split.split}.topics.tsv") as file:
            for batch in request.batches(split.queries):
                texts = (
                    f"{escape_id(row['question_id'])}\t{_BLANKS.sub(' ', Queries.text(row)).strip()}\n"
                    for row in batch.to_pylist()
                )
                file.write("".join(texts).encode())
        if request.run is not None:
            request.run.save(request.folder / f"{split.split}.run.trec")
    return notes
