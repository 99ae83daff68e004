"""Export in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``.

BEIR's tools index title and text, joined by a blank. So a title is written as such only where the text
begins with it: what is indexed is then what m2kr searches. A query's text is instruction and question, as
retrievers are given them. Whatever those tools don't know (question, instruction, image path, answers) is
in ``metadata``.
"""

import re
from typing import TYPE_CHECKING, Any

import orjson

from m2kr.data.records import Queries
from m2kr.errors import UsageError
from m2kr.export.request import ExportRequest, unjudged_note, whole_grades

if TYPE_CHECKING:
    from m2kr.data.load import Split

_APART = re.compile(r"[\t\r\n\"]")
_PASSAGE = ("language", "title", "img_path")
_QUERY = ("question", "instruction", "img_path", "answers", "gold_answer")


def write(request: ExportRequest) -> list[str]:
    """Writes the corpus, the queries of all splits, and a file of judgements for each split."""
    pools = {split.fingerprints["pool"]: split for split in request.splits}
    if len(pools) > 1:
        names = ", ".join(split.split for split in request.splits)
        raise UsageError(
            f"the splits {names} are searched in different passages, and BEIR has one corpus",
            where=f"{request.splits[0].source} ({request.splits[0].edition})",
            expected="one split, or several that share their passages",
            fix=f"--split {request.splits[-1].split}",
        )
    split = request.splits[0]
    notes = []
    with request.file("corpus.jsonl") as file:
        for batch in request.batches(split.passages):
            file.write(b"".join(map(_line, map(_passage, batch.to_pylist()))))
    seen: dict[str, int] | None = {} if len(request.splits) > 1 else None
    with request.file("queries.jsonl") as file:
        for each in request.splits:
            for batch in request.batches(each.queries):
                file.write(b"".join(_new(seen, query, each) for query in batch.to_pylist()))
    for each in request.splits:
        judged = whole_grades(each, "BEIR")
        notes += unjudged_note(each, judged, "BEIR")
        with request.file(f"qrels/{each.split}.tsv") as file:
            file.write(b"query-id\tcorpus-id\tscore\n")
            for batch in judged.to_batches(max_chunksize=10_000):
                columns = (column.to_pylist() for column in batch.columns)
                rows = (
                    f"{_id(q, each)}\t{_id(p, each)}\t{g}\n"
                    for q, p, g in zip(*columns, strict=True)
                )
                file.write("".join(rows).encode())
    if any(s.manifest["splits"][s.split].get("with_image") for s in request.splits):
        notes.append("BEIR is text alone: images are left out, metadata.img_path names them")
    return notes


def split_title(row: dict[str, Any]) -> tuple[str, str]:
    """Title and text that joined by a blank are a passage's content; the title may be empty."""
    title, content = row.get("title") or "", row["passage_content"]
    if title and content.startswith(f"{title} "):
        return title, content[len(title) + 1 :]
    return "", content


def _passage(row: dict[str, Any]) -> dict[str, Any]:
    title, text = split_title(row)
    more = {n: row[n] for n in _PASSAGE if row.get(n) and not (n == "title" and title)}
    return {"_id": row["passage_id"], "title": title, "text": text, "metadata": more}


def _new(seen: dict[str, int] | None, row: dict[str, Any], split: "Split") -> bytes:
    """A query's line; nothing if another split had the same one.

    Args:
        seen: Hashes of the lines by id; None for one split alone, whose ids are distinct.
        row: The query.
        split: Its split.

    Raises:
        UsageError: another split had another one of its id.
    """
    more = {name: row[name] for name in _QUERY if row.get(name)}
    line = _line({"_id": row["question_id"], "text": Queries.text(row), "metadata": more})
    if seen is None or row["question_id"] not in seen:
        if seen is not None:
            seen[row["question_id"]] = hash(line)
        return line
    if seen[row["question_id"]] == hash(line):
        return b""
    raise UsageError(
        f"two splits have different queries of the id {row['question_id']!r}",
        where=split.label,
        expected="ids that are unique, as BEIR has the queries of all splits in one file",
        fix=f"--split {split.split}",
    )


def _id(row_id: str, split: "Split") -> str:
    if _APART.search(row_id):
        raise UsageError(
            f"the id {row_id!r} holds a tab, a line's end or a quote, which BEIR's table can't",
            where=split.label,
            fix="--format parquet",
        )
    return row_id


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
