"""The arms of an experiment: without passages, with the first k of a run, and with the right ones."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2kr.errors import UsageError
from m2kr.evaluation.answers import answer_spans
from m2kr.rag.reader import RetrievedPassage
from m2kr.rag.records import NONE, ORACLE, RETRIEVED

DEFAULT_K = (1, 3, 5, 10)


@dataclass(frozen=True, slots=True)
class PassageArm:
    """One way to give a reader passages.

    Attributes:
        name: ``none``, ``retrieved`` or ``oracle``.
        k: How many, at most.
    """

    name: str
    k: int


def arms_for(k: Sequence[int], *, retrieved: bool) -> tuple[PassageArm, ...]:
    """No passages, then the run's for each k if there is one, then the right ones, at most the last k."""
    run = [PassageArm(RETRIEVED, one) for one in k] if retrieved else []
    return (PassageArm(NONE, 0), *run, PassageArm(ORACLE, k[-1]))


def parsed_k(given: str | int | Iterable[int]) -> tuple[int, ...]:
    """Numbers of passages, ascending and each once: ``1,3,5``, a number or several.

    Raises:
        UsageError: one is no whole number above 0, or there is none.
    """
    words: list[Any] = (
        given.split(",")
        if isinstance(given, str)
        else [*given]
        if isinstance(given, Iterable)
        else [given]
    )
    numbers = set()
    for word in words:
        text = str(word).strip()
        if isinstance(word, bool) or not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
            raise UsageError(
                f"k is {word!r:.40}", expected="whole numbers above 0, such as 1,3,5,10"
            )
        numbers.add(int(text))
    if not numbers:
        raise UsageError("there is no k", expected="whole numbers above 0, such as 1,3,5,10")
    return tuple(sorted(numbers))


def oracle_passages(
    row: Mapping[str, Any], answers: Iterable[str], k: int, threshold: float
) -> tuple[RetrievedPassage, ...]:
    """The right passages of a query, at most k.

    Those in which an accepted answer stands come first, then the others, each in the order of
    ``pos_item_ids``; of graded ones those below the threshold are left out. Their scores are 0.

    Args:
        row: The query, with ``pos_item_ids``, ``pos_item_contents`` and, where there are any,
            ``pos_item_grades``.
        answers: Its accepted answers.
        k: How many, at most.
        threshold: The grade from which a passage is right.
    """
    ids, texts = row["pos_item_ids"], row["pos_item_contents"]
    grades = row.get("pos_item_grades") or [1.0] * len(ids)
    right = [
        RetrievedPassage(passage_id, text, 0.0)
        for passage_id, text, grade in zip(ids, texts, grades, strict=True)
        if grade >= threshold
    ]
    wanted = list(answers)
    bearing = [passage for passage in right if answer_spans(passage.text, wanted)]
    held = {passage.passage_id for passage in bearing}
    return (*bearing, *(p for p in right if p.passage_id not in held))[:k]
