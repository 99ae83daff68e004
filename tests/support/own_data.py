"""Small data of one's own: records, the files they are written to, and reading back what was built."""

import json
from pathlib import Path

from PIL import Image

import m2kr
from m2kr.data.load import load

PASSAGES = [{"id": f"p{i}", "text": f"Text number {i}."} for i in range(20)]
QUERIES = [{"id": f"q{i}", "question": f"What is {i}?", "positives": [f"p{i}"]} for i in range(5)]
NOTES = [{"id": f"d{i}", "text": f"note {i}"} for i in range(8)]
NOTE_QUERIES = [{"id": f"q{i}", "question": f"note {i}"} for i in range(3)]


def jsonl(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def photos(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        Image.new("RGB", (8 + i, 8), (i * 40, 0, 0)).save(folder / f"{i}.jpg")
    return folder


def read_back(built, split: str = "test") -> m2kr.Split:
    name = built.manifest["source"]["name"]
    return load(name, split, edition=built.folder.name, data=built.folder.parent)


def judged(split: m2kr.Split) -> dict[str, dict[str, float]]:
    """Grades by query and passage as the accessor gives them; the tables must agree."""
    grades: dict[str, dict[str, float]] = {}
    for row in split.queries_view.judgements().to_pylist():
        grades.setdefault(row["question_id"], {})[row["passage_id"]] = row["relevance"]
    listed = zip(
        *(split.qrels[name] for name in ("question_id", "passage_id", "relevance")), strict=True
    )
    assert {(q, p): g for q, p, g in listed} == {
        (q, p): g for q, of in grades.items() for p, g in of.items()
    }
    return grades


def beir_folder(folder: Path, qrels: dict[str, str], queries: list[dict] | None = None) -> Path:
    jsonl(folder / "corpus.jsonl", [{"_id": p["id"], "text": p["text"]} for p in NOTES])
    rows = (
        [{"_id": q["id"], "text": q["question"]} for q in NOTE_QUERIES]
        if queries is None
        else queries
    )
    jsonl(folder / "queries.jsonl", rows)
    (folder / "qrels").mkdir()
    for name, text in qrels.items():
        (folder / "qrels" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    return folder
