"""Answers that were scored: verdicts by question, and figures with intervals."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import atomic
from m2kr.errors import UsageError
from m2kr.evaluation.significance import bootstrap_interval
from m2kr.rag.agreement import JUDGE, agreement_table
from m2kr.rag.figure_intervals import figure_intervals
from m2kr.rag.scorer import (
    UNDEFINED,
    AnswerScorer,
    GoldAnswer,
    PartsScorer,
    SlowScorer,
    Verdict,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Figure = dict[str, float | int | None]
_MOST_GROUPS = 40
_ENDINGS = (".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """Answers to the same questions, judged by one scorer.

    Attributes:
        scorer: Its name.
        facts: What decides its scores.
        golds: What was scored against.
        answers: Per question its answer.
        verdicts: Per question its verdict.
        totals: The scorer's figures of the whole: ``value``, ``low`` and ``high`` of its 95 % interval, and
            ``n`` answers.
    """

    scorer: str
    facts: Mapping[str, Any]
    golds: Sequence[GoldAnswer]
    answers: Sequence[str]
    verdicts: Sequence[Verdict]
    totals: Mapping[str, Figure]

    @property
    def scores(self) -> "NDArray[np.float64]":
        """Per question its score; NaN where the scorer could not judge."""
        return np.array([np.nan if v.score is None else v.score for v in self.verdicts], float)

    @property
    def defined(self) -> "NDArray[np.bool_]":
        """Per question whether it can have a score: it has an accepted answer that the scorer can use."""
        return np.array(
            [v.score is not None or v.rule not in UNDEFINED for v in self.verdicts], bool
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: the mean, the totals, the groups, what was not judged, and by which rules."""
        scores, defined = self.scores, self.defined
        rules: dict[str, int] = {}
        for verdict in self.verdicts:
            rules[verdict.rule] = rules.get(verdict.rule, 0) + 1
        return {
            "facts": dict(self.facts),
            "score": figure(scores[defined]),
            "bounds": self.bounds(),
            "undefined": int((~defined).sum()),
            "totals": {name: dict(total) for name, total in self.totals.items()},
            "groups": {
                column: {
                    value: figure(scores[rows][defined[rows]]) for value, rows in values.items()
                }
                for column, values in self._groups().items()
            },
            "rules": dict(sorted(rules.items())),
        }

    def bounds(self) -> dict[str, float | int] | None:
        """The means if all that was not judged is wrong, and if it is right; None where all is judged."""
        scores = self.scores[self.defined]
        unjudged = int(np.isnan(scores).sum())
        if not unjudged:
            return None
        return {
            "unjudged": unjudged,
            "all_wrong": _mean(np.nan_to_num(scores, nan=0.0)),
            "all_right": _mean(np.nan_to_num(scores, nan=1.0)),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a question, plain JSON."""
        for gold, answer, verdict in zip(self.golds, self.answers, self.verdicts, strict=True):
            yield {
                "question_id": gold.question_id,
                "answer": answer,
                "score": verdict.score,
                "rule": verdict.rule,
                "detail": dict(verdict.detail),
                "answers": list(gold.answers),
                "value": gold.value,
                "value_range": list(gold.value_range) if gold.value_range else None,
                "question_type": gold.question_type,
                "group": gold.group,
                "question": gold.question,
                "scorer": self.scorer,
            }

    def _groups(self) -> "dict[str, dict[str, NDArray[np.int64]]]":
        """By column the places of the questions of each value, of few."""
        columns = {
            "group": [gold.group for gold in self.golds],
            "question_type": [gold.question_type for gold in self.golds],
        }
        groups = {}
        for column, values in columns.items():
            places: dict[str, list[int]] = {}
            for place, value in enumerate(values):
                places.setdefault("(none)" if value is None else value, []).append(place)
            if 1 < len(places) <= _MOST_GROUPS or (len(places) == 1 and "(none)" not in places):
                groups[column] = {
                    value: np.array(rows, np.int64) for value, rows in sorted(places.items())
                }
        return groups


def score_answers(
    answers: Mapping[str, str], golds: Mapping[str, GoldAnswer], scorer: AnswerScorer
) -> ScoredAnswers:
    """Judges an answer for each gold answer.

    Args:
        answers: By question; those without a gold answer are passed over.
        golds: By question, in the order that the verdicts will have.
        scorer: Who judges.

    Raises:
        UsageError: a question has no answer; see `m2kr.rag.answers_file.AnswersFile.of_questions`.
    """
    lacking = [question for question in golds if question not in answers]
    if lacking:
        raise UsageError(
            f"{len(lacking):,} questions have no answer, such as {lacking[0]!r}",
            expected="an answer for each, which may be empty",
        )
    said = [answers[question] for question in golds]
    of = list(golds.values())
    if isinstance(scorer, SlowScorer):
        scorer.prepare(list(zip(said, of, strict=True)))
    verdicts = [scorer.score(answer, gold) for answer, gold in zip(said, of, strict=True)]
    return ScoredAnswers(
        scorer.name, scorer.facts(), of, said, verdicts, _totals(scorer, verdicts, of)
    )


def _totals(
    scorer: AnswerScorer, verdicts: Sequence[Verdict], golds: Sequence[GoldAnswer]
) -> dict[str, Figure]:
    judged = sum(verdict.score is not None for verdict in verdicts)
    parts = scorer.scores_of_parts(verdicts, golds) if isinstance(scorer, PartsScorer) else {}
    return {
        name: {
            "value": value,
            "low": low,
            "high": high,
            "n": len(parts[name]) if name in parts else judged,
        }
        for name, (value, low, high) in figure_intervals(scorer, verdicts, golds).items()
    }


def judges_agreement(scored: Sequence[ScoredAnswers]) -> list[dict[str, Any]]:
    """How far a model's verdicts agree with each other scorer's, as of `agreement_table`; often none."""
    names = [one.scorer for one in scored]
    others = [name for name in names if name != JUDGE]
    if JUDGE not in names or not others:
        return []
    columns: dict[str, list[Any]] = {
        "question_id": [gold.question_id for gold in scored[0].golds],
        "answer": list(scored[0].answers),
    }
    columns |= {f"score:{one.scorer}": [v.score for v in one.verdicts] for one in scored}
    return agreement_table(columns, JUDGE, others)


def figure(scores: "NDArray[np.float64]") -> Figure:
    """The mean, its 95 % interval, and how many were judged.

    Where some were not, there is no mean but its bounds, ``least`` and ``most``: what a scorer can judge is
    no sample of the rest (exact matches are all right, BEM's share is what is left).
    """
    n = int((~np.isnan(scores)).sum())
    if n < len(scores):
        least, most = (_mean(np.nan_to_num(scores, nan=end)) for end in (0.0, 1.0))
        return {"value": None, "low": None, "high": None, "n": n, "least": least, "most": most}
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = bootstrap_interval(scores)
    return {"value": _mean(scores), "low": low, "high": high, "n": n}


def _mean(scores: "NDArray[np.float64]") -> float:
    return math.fsum(scores) / len(scores)  # the same in any order


def require_verdicts_file(path: Path, *read: Path) -> None:
    """Refuses a name that verdicts can't be written to, before anything is scored.

    Raises:
        UsageError: it doesn't end in ``.jsonl`` or ``.parquet``, or is a file that is read.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(
            "not the name of a file of verdicts",
            where=str(path),
            expected=" or ".join(_ENDINGS),
        )
    if path.resolve() in [file.resolve() for file in read]:
        raise UsageError("it is a file that is read", where=str(path), expected="another name")
    atomic.require_parent(path)


def save_verdicts(scored: Sequence[ScoredAnswers], path: Path) -> Path:
    """Writes a row for each question and scorer: JSON lines, or Parquet by the name's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (row for one in scored for row in one.rows())
    with atomic.writing(path) as aside, atomic.create(aside) as file:
        if path.suffix.lower() == ".jsonl":
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            listed = [row | {"detail": json.dumps(row["detail"])} for row in rows]
            pq.write_table(pa.Table.from_pylist(listed, _schema()), file, compression="zstd")
    return path


def _schema() -> Any:
    import pyarrow as pa

    numbers, texts = ("score", "value"), pa.list_(pa.string())
    names = (
        *("question_id", "answer", "score", "rule", "detail", "answers", "value", "value_range"),
        *("question_type", "group", "question", "scorer"),
    )
    kinds = {"answers": texts, "value_range": pa.list_(pa.float64())}
    kinds |= dict.fromkeys(numbers, pa.float64())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in names])
