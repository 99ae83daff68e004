"""Bootstrap intervals of figures that are no plain mean, such as a harmonic mean of two groups' scores."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.evaluation.significance import RESAMPLES
from m2kr.rag.records import DETAIL, RULE, SCORE
from m2kr.rag.scorer import AnswerScorer, GoldAnswer, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.rag.records import RagResult

_VISITS = 2_000_000  # verdicts that an arm's resamples look at in all
_LEAST = 200


def resamples_of(questions: int) -> int:
    """How many resamples are drawn: fewer of many questions, which vary less."""
    return max(_LEAST, min(RESAMPLES, _VISITS // max(1, questions)))


def figure_intervals(
    scorer: AnswerScorer,
    verdicts: Sequence[Verdict],
    golds: Sequence[GoldAnswer],
    *,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """Value and 95 % percentile bootstrap interval of each of a scorer's figures, over questions.

    Args:
        scorer: Whose figures they are.
        verdicts: Of one arm.
        golds: Of the same questions.
        seed: Of the draws: arms of the same questions are resampled alike.

    Returns:
        By figure its value, and the interval's ends; of resamples that leave a figure undefined, such as
        one without a question of some group, nothing is counted.
    """
    values = scorer.totals(verdicts, golds)
    if not values:
        return {}
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = defaultdict(list)
    for _ in range(resamples_of(len(verdicts))):
        places = rng.integers(0, len(verdicts), len(verdicts)).tolist()
        resampled = scorer.totals([verdicts[i] for i in places], [golds[i] for i in places])
        for name, value in resampled.items():
            drawn[name].append(value)
    intervals = {}
    for name, value in values.items():
        low, high = np.quantile(drawn[name] or [value], [0.025, 0.975])
        intervals[name] = (float(value), float(low), float(high))
    return intervals


def recorded_verdicts(
    result: "RagResult", scorer: str, rows: "NDArray[np.int64]"
) -> tuple[list[Verdict], list[GoldAnswer]]:
    """What records tell of some answers: their verdicts, and the questions' types and groups.

    Args:
        result: Whose records are read.
        scorer: Whose verdicts.
        rows: Of the records.
    """
    columns = ["question_id", "question_type", "group"]
    columns += [prefix + scorer for prefix in (SCORE, RULE, DETAIL)]
    table = result.records(columns).take(rows)
    ids, types, groups, scores, rules, details = (c.to_pylist() for c in table.columns)
    verdicts = [
        Verdict(score, rule or "", _object(detail))
        for score, rule, detail in zip(scores, rules, details, strict=True)
    ]
    golds = [
        GoldAnswer(question_id, "", (), question_type=kind, group=group)
        for question_id, kind, group in zip(ids, types, groups, strict=True)
    ]
    return verdicts, golds


def _object(text: str | None) -> Mapping[str, Any]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}
