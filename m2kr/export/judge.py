"""Writing judge files: see `m2kr.evaluation.judge_file`."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr.data.load import Split
from m2kr.evaluation.answer_ranks import normalised
from m2kr.evaluation.answer_search import AnswerSearch
from m2kr.evaluation.judge_file import (
    FORMAT,
    KEY,
    MANIFEST,
    SHA256_KEY,
    SHORT,
    pages_sha256,
    schema_text,
)
from m2kr.evaluation.scoring import require_judgements
from m2kr.export.request import require_current, streamed
from m2kr.progress import SILENT, Progress, task
from m2kr.schema import GRADES, LOST_GRADES, LOST_IDS

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_QUERY_COLUMNS = ("question_id", "pos_item_ids", GRADES.name, LOST_IDS.name, LOST_GRADES.name)


def write_judge_file(split: Split, path: Path, *, progress: Progress = SILENT) -> Path:
    """Writes the judge file of a split, whole or not at all.

    Memory grows with what is found: 8 bytes for each answer and passage that holds it.

    Args:
        split: A split with judgements or answers.
        path: The file.
        progress: Told of the passages.

    Raises:
        MissingError: the split has neither right passages nor answers.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_judgements(split)
    queries, passages = split.queries_view, split.passages_view
    given = normalised([answers or [] for answers in queries.column("answers")])
    number: dict[str, int] = {"": -1}
    numbers = [[number.setdefault(a, len(number) - 1) for a in accepted] for accepted in given]
    texts = list(number)[1:]
    columns: dict[str, Any] = {}
    here = queries.table.column_names
    groups = [name for name in split.manifest.get("groups", ()) if name in here]
    for name in (*_QUERY_COLUMNS, *groups):
        if name in here and name not in columns:
            columns[name] = _plain(queries.table.column(name))
    columns["answers"] = pa.array([list(dict.fromkeys(n)) for n in numbers], pa.list_(pa.int32()))
    columns[SHORT] = pa.array([any(0 < len(a) <= 2 for a in accepted) for accepted in given])
    columns["passage_id"] = _plain(passages.ids)
    if "scored_as" in passages.table.column_names:
        columns["scored_as"] = _plain(passages.table.column("scored_as"))
    with task(progress, "answers", len(passages)):
        columns |= _answer_columns(split, texts, progress)
    facts = {
        "format": FORMAT,
        "source": split.source,
        "split": split.split,
        "edition": split.edition,
        "fingerprints": split.fingerprints,
        "manifest": {n: split.manifest[n] for n in MANIFEST if n in split.manifest}
        | {"groups": groups},
        "sizes": {"queries": len(queries), "passages": len(passages), "answers": len(texts)},
    }
    longest = max(map(len, columns.values()))
    table = pa.table({name: _padded(column, longest) for name, column in columns.items()})
    table = table.replace_schema_metadata(None)
    require_current(split)
    with (
        atomic.writing(path) as aside,
        atomic.create(aside) as file,
        pq.ParquetWriter(
            file,
            table.schema,
            compression="zstd",
            compression_level=9,
            use_dictionary=groups,
            column_encoding={"answer_rows.list.element": "DELTA_BINARY_PACKED"},
            write_page_checksum=True,
            write_statistics=False,
        ) as writer,
    ):
        writer.write_table(table, row_group_size=longest or 1)
        file.flush()
        facts |= {"schema": schema_text(table.schema), **pages_sha256(aside)}
        raw = json.dumps(facts, sort_keys=True)
        digest = hashlib.sha256(raw.encode()).hexdigest()
        writer.add_key_value_metadata({KEY.decode(): raw, SHA256_KEY.decode(): digest})
    return path


def _answer_columns(split: Split, answers: list[str], progress: Progress) -> dict[str, "pa.Array"]:
    """Per answer the rows of the passages that hold it, and whether as whole words."""
    import numpy as np
    import pyarrow as pa

    search = AnswerSearch(answers)
    parts: list[NDArray[np.int64]] = []
    row = 0
    for batch in streamed(split.passages) if answers else ():
        column = batch.column("passage_content")
        for start in range(0, len(column), search.texts_at_once):
            texts = column.slice(start, search.texts_at_once).to_pylist()
            found = search.matches([text.lower() for text in texts])
            which, place = np.nonzero(found)
            parts.append((which << 32 | row + place) << 1 | (found[which, place] == 2))
            row += len(texts)
            progress.advance("answers", len(texts))
    keys = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)
    offsets = np.searchsorted(keys, np.arange(len(answers) + 1) << 33)
    rows = pa.array((keys >> 1 & 0xFFFFFFFF).astype(np.int32))
    words = pa.array((keys & 1).astype(bool))
    starts = pa.array(offsets.astype(np.int32))
    return {
        "answer_rows": pa.ListArray.from_arrays(starts, rows),
        "answer_words": pa.ListArray.from_arrays(starts, words),
    }


def _plain(column: "pa.ChunkedArray") -> "pa.Array":
    return column.combine_chunks()


def _padded(column: "pa.Array", length: int) -> "pa.Array":
    import pyarrow as pa

    if len(column) == length:
        return column
    return pa.concat_arrays([column, pa.nulls(length - len(column), column.type)])
