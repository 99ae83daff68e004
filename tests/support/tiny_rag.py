"""A tiny source whose questions have answers, a run on it, a reader's file, and records made by hand."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import m2kr
from m2kr import atomic
from m2kr.evaluation.result import versions
from m2kr.rag.reader import Answer
from m2kr.rag.records import (
    NONE,
    ORACLE,
    RETRIEVED,
    RagResult,
    Record,
    RecordsWriter,
    rag_name,
)
from m2kr.rag.scorer import GoldAnswer, Verdict

COLOURS = ("red", "green", "blue", "black", "white", "grey")
THINGS = ("cat", "dog", "cup", "car", "hat", "map", "pen", "box")
NO_ANSWER = "q-none"  # a question without an accepted answer

# A reader that says the last word of the first passage, and writes a line for each call.
READER = """
from pathlib import Path


class Counting:
    name = "counting"
    sees_images = {sees_images}
    batch = {batch}

    def __init__(self, log: str, temperature: float = 0.0) -> None:
        self.log, self.temperature = Path(log), temperature

    def facts(self):
        return {{"name": self.name, "temperature": self.temperature, "version": 1}}

    def answer(self, image, question, passages):
        with self.log.open("a", encoding="utf-8") as file:
            file.write(question + "|" + ",".join(p.passage_id for p in passages) + "\\n")
        return passages[0].text.split()[-1].strip(".") if passages else "unknown"
"""


def tiny_rag_source(
    root: Path, n: int = 8, *, text: str = "The {} is {}.", images: bool = True
) -> m2kr.Split:
    """``n`` questions with a colour as the answer, one more without; a passage and an image of each."""
    photos = root / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    passages, queries = [], []
    for i in range(n):
        thing = THINGS[i % len(THINGS)] + str(i)
        colour = COLOURS[i % len(COLOURS)]
        passages.append({"id": f"p{i}", "text": text.format(thing, colour)})
        Image.new("RGB", (8, 8), (i * 20 % 256, 9, 9)).save(photos / f"{i}.png")
        query = {
            "id": f"q{i}",
            "question": f"What colour is the {thing}?",
            "answers": [colour],
            "positives": [f"p{i}"],
        }
        queries.append(query | ({"img_path": f"{i}.png"} if images else {}))
    queries.append({"id": NO_ANSWER, "question": "Why?", "positives": ["p0"]})
    return m2kr.from_records(
        passages, queries, name="tinyrag", images=photos if images else (), data=root
    )


def tiny_run(path: Path, n: int = 8, depth: int = 3, *, shift: int = 1, scale: float = 1.0) -> Path:
    """A run of ``depth`` passages a query; the right one is first for every other, else after ``shift``."""
    ranking = {}
    for i in range(n):
        order = [(i + (0 if i % 2 else shift) + step) % n for step in range(depth)]
        ranking[f"q{i}"] = {f"p{p}": scale * (depth - place) for place, p in enumerate(order)}
    ranking[NO_ANSWER] = {"p0": 1.0}
    return m2kr.Run.from_dict(ranking, name="tiny").save(path)


def reader_file(folder: Path, *, sees_images: bool = False, batch: int = 1) -> Path:
    """A file with the reader ``Counting``, whose setting ``log`` names the file with a line a call."""
    path = folder / "counting_reader.py"
    path.write_text(READER.format(sees_images=sees_images, batch=batch), encoding="utf-8")
    return path


def made_rag_result(
    folder: Path,
    *,
    reader: str = "parrot",
    retriever: str = "bm25",
    n: int = 40,
    k: Sequence[int] = (1, 5),
    right: Callable[[str, int, int], float | None] | None = None,
    scorers: Sequence[str] = ("exact_match",),
    **changes: Any,
) -> RagResult:
    """A saved result with records made by hand, of a reader that was never asked.

    Args:
        folder: Where it goes.
        reader: The reader's name.
        retriever: The name of the retriever whose run it read.
        n: Questions.
        k: Passages.
        right: The score of an arm, k and question number; None for one that can't be judged.
        scorers: Names of the scorers; all give the same.
        changes: Other attributes of the result.
    """
    score = right or (lambda arm, at, i: float(i % 4 < {NONE: 1, RETRIEVED: 2, ORACLE: 4}[arm]))
    arms = [(NONE, 0), *((RETRIEVED, at) for at in sorted(k)), (ORACLE, max(k))]
    experiment = {"reader": {"name": reader}, "run": retriever, "k": list(k)}
    name = rag_name("tinyrag", "test", reader, experiment)
    records: list[Record] = []
    for arm, at in arms:
        for i in range(n):
            value = score(arm, at, i)
            gold = GoldAnswer(
                f"q{i}",
                f"What colour is the {THINGS[i % 8]}{i}?",
                (COLOURS[i % 6],),
                "String" if i % 3 else "Numerical",
                f"group{i % 2}",
            )
            said = Answer(
                gold.answers[0] if value else "unknown",
                score=-1.0 / (i + 1),
                passage_id=f"p{i}" if at else None,
                input_tokens=10 * at + 5,
                output_tokens=2,
                dollars=0.001,
            )
            verdict = Verdict(value, "exact match" if value else "no rule")
            ids = tuple(f"p{(i + place) % n}" for place in range(at))
            records.append(
                Record(
                    gold.question_id, arm, at, ids, said, 0.01, dict.fromkeys(scorers, verdict), gold,
                    task="IQ2T" if i % 2 else "Q2T",
                )
            )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"{name}.records.parquet"
    with (
        atomic.writing(table) as aside,
        atomic.create(aside) as file,
        RecordsWriter(file, scorers) as writer,
    ):
        for record in records:
            writer.write(record)
    facts: dict[str, Any] = {
        "source": "tinyrag",
        "split": "test",
        "edition": "tinyrag",
        "reader": {"name": reader, "spec": reader, "facts": {"name": reader}},
        "retriever": {"name": retriever, "file": f"{retriever}.trec", "sha256": retriever},
        "k": sorted(k),
        "arms": [_arm_facts(arm, at, records) for arm, at in arms],
        "scorers": {scorer: {"name": scorer} for scorer in scorers},
        "totals": {
            scorer: [_total(arm, at, scorer, records) for arm, at in arms] for scorer in scorers
        },
        "counts": {"questions": n, "asked": n, "no_gold": 0, "no_right_passage": 0},
        "images": None,
        "fingerprints": {part: f"fp1:{part}" for part in ("queries", "judgements", "pool", "eval")},
        "partial": False,
        "comparable": "own data",
        "versions": versions(),
        "experiment": experiment,
        "files": {"records": table.name},
    }
    return RagResult(**facts | changes).save(folder / f"{name}.json")


def _arm_facts(arm: str, k: int, records: Sequence[Record]) -> dict[str, Any]:
    mine = [record for record in records if (record.arm, record.k) == (arm, k)]
    return {
        "arm": arm,
        "k": k,
        "questions": len(mine),
        "empty": sum(not record.answer.text for record in mine),
        "input_tokens": sum(record.answer.input_tokens for record in mine),
        "output_tokens": sum(record.answer.output_tokens for record in mine),
        "seconds": sum(record.seconds for record in mine),
        "dollars": sum(record.answer.dollars for record in mine),
    }


def _total(arm: str, k: int, scorer: str, records: Sequence[Record]) -> Mapping[str, Any]:
    verdicts = [r.verdicts[scorer] for r in records if (r.arm, r.k) == (arm, k)]
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    return {
        "arm": arm,
        "k": k,
        "judged": len(scores),
        "not_judged": len(verdicts) - len(scores),
        "mean": sum(scores) / len(scores) if len(scores) == len(verdicts) else None,
        "least": sum(scores) / len(verdicts),
        "most": (sum(scores) + len(verdicts) - len(scores)) / len(verdicts),
        "figures": {},
    }
