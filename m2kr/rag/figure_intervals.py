"""Bootstrap intervals of figures that are no plain mean, such as a harmonic mean of two groups' scores."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.evaluation.significance import RESAMPLES, bootstrap_means, percentile_interval
from m2kr.rag.records import DETAIL, RULE, SCORE
from m2kr.rag.scorer import AnswerScorer, GoldAnswer, PartsScorer, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.rag.records import RagResult

_VISITS = 2_000_000  # verdicts that an arm's resamples look at in all
_LEAST = 200


def figure_intervals(
    scorer: AnswerScorer,
    verdicts: Sequence[Verdict],
    golds: Sequence[GoldAnswer],
) -> dict[str, tuple[float, float, float]]:
    """Value and 95 % percentile bootstrap interval of each of a scorer's figures, over questions.

    Of a `PartsScorer` each part is resampled by itself; of others all questions are, and figures that a
    resample leaves undefined aren't counted. Equal in any order of the questions.

    Args:
        scorer: Whose figures they are.
        verdicts: Of one arm.
        golds: Of the same questions.

    Returns:
        By figure its value, and the interval's ends.
    """
    values = scorer.totals(verdicts, golds)
    if not values:
        return {}
    drawn = (
        _of_parts(scorer, verdicts, golds)
        if isinstance(scorer, PartsScorer)
        else _resampled(scorer, verdicts, golds)
    )
    return {
        name: (float(value), *percentile_interval(np.asarray(drawn.get(name) or [value], float)))
        for name, value in values.items()
    }


def _of_parts(
    scorer: PartsScorer, verdicts: Sequence[Verdict], golds: Sequence[GoldAnswer]
) -> dict[str, list[float]]:
    """The figures of resampled parts, each of its own size; a part's own are those of its mean."""
    scores = {part: np.array(own) for part, own in scorer.scores_of_parts(verdicts, golds).items()}
    drawn: dict[str, list[float]] = defaultdict(list)
    means = {
        part: bootstrap_means(scores[part], seed=seed) for seed, part in enumerate(sorted(scores))
    }
    known = {part: of_part for part, of_part in means.items() if of_part is not None}
    for row in range(RESAMPLES):
        for name, value in scorer.figures({p: float(m[row]) for p, m in known.items()}).items():
            drawn[name].append(value)
    for part, of_part in scores.items():
        own = bootstrap_means(of_part)
        if part in drawn and own is not None:
            drawn[part] = own.tolist()
    return drawn


def _resampled(
    scorer: AnswerScorer, verdicts: Sequence[Verdict], golds: Sequence[GoldAnswer]
) -> dict[str, list[float]]:
    """The figures of resampled questions; of a resample that leaves one undefined it has none."""
    order = sorted(range(len(golds)), key=lambda place: golds[place].question_id)
    rng = np.random.default_rng(0)
    drawn: dict[str, list[float]] = defaultdict(list)
    for _ in range(_resamples_of(len(order))):
        places = [order[i] for i in rng.integers(0, len(order), len(order)).tolist()]
        resampled = scorer.totals([verdicts[i] for i in places], [golds[i] for i in places])
        for name, value in resampled.items():
            drawn[name].append(value)
    return drawn


def _resamples_of(questions: int) -> int:
    """How many resamples are drawn: fewer of many questions, which vary less."""
    return max(_LEAST, min(RESAMPLES, _VISITS // max(1, questions)))


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
