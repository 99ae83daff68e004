"""A source, and readers' answers to it, with texts that mean harm."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from support.reports import HOSTILE, ODD
from support.tiny_rag import made_rag_result

import m2kr
from m2kr.rag.records import RagResult

HARM = HOSTILE + ODD.replace("\0", "")
QUESTIONS = 12


def hostile_split(folder: Path) -> m2kr.Split:
    """A dozen questions ``q0`` …, with harm in their texts; the even ones have an image."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    Image.new("RGB", (300, 200), (90, 120, 60)).save(photos / "a.png")
    passages = [
        {
            "id": f"p{i}",
            "text": f"The thing {i} is colour{i}. Then it is said. {HARM}",
            "title": HARM,
        }
        for i in range(QUESTIONS)
    ]
    queries: list[dict[str, Any]] = [
        {
            "id": f"q{i}",
            "question": f"What colour is thing {i}? {HARM}",
            "answers": [f"colour{i}", HARM],
            "positives": [f"p{i}"],
        }
        | ({} if i % 2 else {"img_path": "a.png"})
        for i in range(QUESTIONS)
    ]
    return m2kr.from_records(passages, queries, name="tinyrag", images=photos, data=folder / "data")


def score_of(arm: str, k: int, i: int) -> float | None:
    """Questions 0 to 2 are helped by retrieval, 3 is hurt, 4 not judged, 5 wrong with the oracle."""
    if arm == "none":
        return float(i == 3)
    if arm == "oracle":
        return float(i != 5)
    return None if i == 4 else float(i < 3)


def hostile_answers(folder: Path, split: m2kr.Split, **changes: Any) -> RagResult:
    """Answers to them; texts of answers, rules and details mean harm."""
    result = made_rag_result(
        folder,
        n=QUESTIONS,
        k=(1, 3),
        right=score_of,
        scorers=("exact_match", "f1<b>"),
        **{"reader": f"parrot{HOSTILE}", "retriever": "bm25<i>", "notes": [HARM]} | changes,
        edition=split.edition,
        fingerprints=dict(split.fingerprints),
    )
    path = result.records_path
    assert path is not None
    table = pq.read_table(path)
    for name in ("answer", "rule:exact_match", "detail"):
        values = [
            None if value is None and name != "detail" else f"colour{n % 7} {HARM}"
            for n, value in enumerate(table.column(name).to_pylist())
        ]
        if name == "detail":
            values = [f'{{"note": "{n} <script>"}}' for n in range(len(values))]
        table = table.set_column(
            table.column_names.index(name), name, pa.array(values, pa.string())
        )
    pq.write_table(table, path)
    return result
