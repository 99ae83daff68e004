"""Questions and annotations in the format of the VQA challenge."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from m2kr.building.spec import BuildContext
from m2kr.errors import InputError
from m2kr.unicode_halves import loads

from ._images import coco_path
from ._rows import most_frequent, only_member, told

Subset = Literal["train2014", "val2014"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its image and its annotators' answers.

    Attributes:
        id: Upstream's number.
        text: The question.
        image_id: COCO's number.
        img_path: Path below the COCO folder.
        answers: Every annotator's answer, blank ones left out.
    """

    id: str
    text: str
    image_id: int
    img_path: str
    answers: tuple[str, ...]

    @property
    def gold(self) -> str | None:
        """The most frequent answer."""
        return most_frequent(self.answers)


def questions(ctx: BuildContext, subset: str, *, quiet: bool = False) -> Iterator[Question]:
    """The questions of a COCO subset that have annotations, in upstream's order.

    Args:
        ctx: The build.
        subset: ``train2014`` or ``val2014``.
        quiet: Leave the ledger alone: another table tells of these rows.
    """
    ledger = None if quiet else ctx.ledger
    asked_path = ctx.files[f"okvqa/OpenEnded_mscoco_{subset}_questions.json.zip"]
    answers_path = ctx.files[f"okvqa/mscoco_{subset}_annotations.json.zip"]
    asked, answered = asked_path.name, answers_path.name
    annotations: dict[int, tuple[int, tuple[str, ...]]] = {}
    for row, record in _records(answers_path, "annotations"):
        if ledger:
            ledger.read(answered)
        problem, found = "", _annotation(record)
        if found is None:
            problem = "no annotation"
        elif found[0] in annotations:
            problem = "a question annotated twice"
        if found is not None and not problem:
            annotations[found[0]] = (row, found[1])
        elif ledger:
            ledger.drop(problem, file=answered, row=row, detail=told(record))
    seen: set[int] = set()
    for row, record in _records(asked_path, "questions"):
        if ledger:
            ledger.read(asked)
        problem, question = "", _question(record, subset, annotations)
        if question is None:
            problem = "no question"
        elif int(question.id) in seen:
            problem = "a question number used twice"
        elif int(question.id) not in annotations:
            problem = "a question without annotation"
        if question is None or problem:
            if ledger:
                ledger.drop(problem, file=asked, row=row, detail=told(record))
            continue
        seen.add(int(question.id))
        if ledger:
            ledger.use(asked, row)
            ledger.use(answered, annotations[int(question.id)][0], out=0)
        yield question
    if ledger:
        for number, (row, _) in annotations.items():
            if number not in seen:
                ledger.drop("annotates no question", file=answered, row=row, detail=str(number))


def _question(
    record: Any, subset: str, annotations: dict[int, tuple[int, tuple[str, ...]]]
) -> Question | None:
    try:
        number, image, text = record["question_id"], record["image_id"], record["question"]
    except (TypeError, KeyError):
        return None
    if not (_whole(number) and _whole(image) and isinstance(text, str)):
        return None
    _, answers = annotations.get(number, (0, ()))
    path = coco_path("train2014" if subset == "train2014" else "val2014", image)
    return Question(str(number), text, image, path, answers)


def _annotation(record: Any) -> tuple[int, tuple[str, ...]] | None:
    try:
        number, answers = record["question_id"], [a["answer"] for a in record["answers"]]
    except (TypeError, KeyError):
        return None
    if not _whole(number) or not all(isinstance(answer, str) for answer in answers):
        return None
    return number, tuple(answer for answer in answers if answer.strip())


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _records(path: Path, key: str) -> Iterator[tuple[int, Any]]:
    """The records under a key of the file's one object, numbered from 1."""
    expected = f'{{…, "{key}": [{{…}}, …]}}, as of OK-VQA v1.1'
    try:
        document = loads(only_member(path))
        records = document[key]
    except orjson.JSONDecodeError as error:
        raise InputError(f"no JSON: {error}", where=str(path), expected=expected) from error
    except (TypeError, KeyError) as error:
        raise InputError(f"no list {key!r}", where=str(path), expected=expected) from error
    if not isinstance(records, list):
        raise InputError(f"{key!r} is no list", where=str(path), expected=expected)
    yield from enumerate(records, 1)
