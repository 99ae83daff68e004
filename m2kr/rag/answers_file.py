"""Answers from a file: predictions in the forms that people have, one for each question."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from m2kr.errors import CheckError, InputError
from m2kr.rag.record_files import (
    PlacedRow,
    RowFile,
    column_of,
    first_ids,
    read_row_file,
    rows_by_id,
)
from m2kr.unicode_halves import mended_text

ANSWER_NAMES = (
    *("prediction", "pred", "predicted_answer", "predicted", "model_answer", "answer"),
    *("pred_answer", "predict", "response", "output", "model_output", "generated_answer"),
    *("generated_text", "generated", "generation", "completion"),
)
# LLaVA's files of answers have it; beside a better name it is the question's.
VAGUE_ANSWER_NAMES = ("text",)
MissingAnswers = Literal["error", "empty"]
_MOST_WHOLE = 1e15  # beyond it a float has no digits after the point


@dataclass(frozen=True, slots=True)
class AnswersFile:
    """Answers by the ids of their questions.

    Attributes:
        path: The file.
        answers: By id, in the file's order; None where the file has a row but no answer (null, NaN).
    """

    path: Path
    answers: Mapping[str, str | None]

    def of_questions(
        self,
        questions: Collection[str],
        others: Collection[str] = (),
        *,
        missing: MissingAnswers = "error",
    ) -> tuple[dict[str, str], int]:
        """An answer for each question that is scored.

        Args:
            questions: Their ids.
            others: Ids of questions without gold answers: answers to them are passed over.
            missing: What questions without an answer lead to: an error, or an empty answer, which is
                wrong.

        Returns:
            The answers in the order of the questions, and how many were missing.

        Raises:
            CheckError: ids are unknown, or answers are missing; with counts and the first ids.
        """
        known = set(questions)
        unknown = [i for i in self.answers if i not in known and i not in others]
        lacking = [i for i in questions if self.answers.get(i) is None]
        if unknown:
            raise CheckError(
                f"{len(unknown):,} of {len(self.answers):,} answers are to questions that are unknown "
                f"here: {first_ids(unknown)}",
                where=str(self.path),
                expected=f"ids as of {first_ids(list(questions), 2)}",
                fix="check that source, split and edition are those that were asked",
            )
        if lacking and (missing == "error" or len(lacking) == len(known)):
            null = sum(i in self.answers for i in lacking)
            raise CheckError(
                f"{len(lacking):,} of {len(known):,} questions have no answer: {first_ids(lacking)}"
                + (f"; {null:,} of them are null" if null else ""),
                where=str(self.path),
                expected="an answer to each question, which may be empty",
                fix="--missing-queries empty counts them as wrong" if missing == "error" else None,
            )
        return {i: self.answers.get(i) or "" for i in questions}, len(lacking)


def read_answers(
    path: Path,
    *,
    id_column: str | None = None,
    answer_column: str | None = None,
    only: Mapping[str, str] | None = None,
) -> AnswersFile:
    """The answers in a file; see `m2kr.rag.record_files.read_row_file` for its forms.

    Args:
        path: The file.
        id_column: The column of the questions' ids; by its name if absent.
        answer_column: The column of the answers; by its name if absent.
        only: Values of columns; other rows are passed over: of records of m2kr rag an ``arm`` and a ``k``.

    Raises:
        MissingError: there is no such file.
        InputError: it can't be read, or can be read in two ways; a question is answered twice.
    """
    file = read_row_file(path)
    for name, value in (only or {}).items():
        file = _rows_with(file, name, value)
    column = column_of(file, "answer", ANSWER_NAMES, answer_column) or column_of(
        file, "answer", VAGUE_ANSWER_NAMES, None
    )
    if column is None:
        raise InputError(
            "no column is known to hold the answers, of "
            + ", ".join(map(repr, file.columns))[:300],
            where=str(path),
            expected="one called " + ", ".join(ANSWER_NAMES),
            fix="--set answer=COLUMN",
        )
    answers: dict[str, str | None] = {}
    twice: Counter[str] = Counter()
    for question, placed in rows_by_id(file, id_column):
        if question in answers:
            twice[question] += 1
            continue
        answers[question] = _answer(file, column, placed)
    if twice:
        raise InputError(
            f"{len(twice):,} questions are answered more than once: {first_ids(list(twice))}",
            where=str(path),
            expected="one answer to each question",
            fix=_one_arm(file) if {"arm", "k"} <= set(file.columns) else None,
        )
    return AnswersFile(path, answers)


def _rows_with(file: RowFile, name: str, value: str) -> RowFile:
    column_of(file, name, (), name)
    rows = [placed for placed in file.rows if str(placed.row.get(name)) == value]
    if not rows:
        values = dict.fromkeys(str(placed.row.get(name)) for placed in file.rows)
        raise InputError(
            f"no row has {value!r} as its {name!r}",
            where=str(file.path),
            expected="one of " + ", ".join(values)[:300],
        )
    return replace(file, rows=rows)


def _one_arm(file: RowFile) -> str:
    """How to choose one of the experiments in records of m2kr rag."""
    pairs = dict.fromkeys((str(p.row.get("arm")), str(p.row.get("k"))) for p in file.rows)
    (arm, k), *_ = reversed(pairs)
    there = ", ".join(f"{arm} {k}" for arm, k in pairs)[:300]
    return f"--set arm={arm} --set k={k}   (there are {there})"


def _answer(file: RowFile, column: str, placed: PlacedRow) -> str | None:
    if column not in placed.row:
        raise InputError(
            f"field {column!r} is missing",
            where=placed.where,
            expected="a field of that name in every row; null where there is no answer",
        )
    value = placed.row[column]
    if value is None and file.flat:
        return ""  # an empty cell; such files have no null
    return answer_text(value, placed.where, column)


def answer_text(value: Any, where: str, name: str) -> str | None:
    """An answer as text: a number as its digits (``1990`` for 1990.0), None for null and NaN.

    Raises:
        InputError: it is something else, such as ``true``, or a list of several.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return mended_text(value)
    if isinstance(value, bool):
        raise InputError(
            f"field {name!r} is {str(value).lower()}: as an answer '{'yes' if value else 'no'}', or the "
            f"word '{str(value).lower()}'",
            where=where,
            expected="a text",
        )
    if isinstance(value, float) and value.is_integer() and abs(value) < _MOST_WHOLE:
        return str(int(value))
    if isinstance(value, int | float) and math.isfinite(value):
        return str(value)
    several = isinstance(value, list | tuple) and value
    raise InputError(
        f"field {name!r} is {value!r:.60}"
        + (": one of several answers, or all of them?" if several else ""),
        where=where,
        expected="a text" + (", such as the first of them" if several else ""),
    )
