"""Infoseek: names by their aliases, dates by their forms, numbers within a range."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from m2kr.rag.question_kinds import UNSEEN, unseen_part
from m2kr.rag.scorer import NO_GOLD, GoldAnswer, PartsScorer, Verdict
from m2kr.rag.scorers.answer_numbers import Range, answer_range
from m2kr.rag.scorers.plain_answer import first_same

TOLERANCE = 0.1
_OVERLAP = 0.5
_ROUNDING = 1e-9  # relative: 0.9 x 7 and 6.3 are one bound


class InfoseekScorer(PartsScorer):
    """1 or 0 by the type of the question.

    - ``String``: any alias, and ``Time``: any accepted form of the date, exactly, after the official
      cleaning (`m2kr.rag.scorers.plain_answer.plain_answer`). ``1990-12-20`` is not ``1990 12 20``.
    - ``Numerical``: a number is right within the accepted range, bounds included; a range (the first two
      numbers of an answer, if they ascend) if it lies within it, or if the two have an intersection over
      union of 0.5 or more. The accepted range is the source's, which need not lie around its value;
      without one, the value ± 10 %; without that, those of the gold answers in words, any of them
      (``5.5 metres`` ± 10 %, ``6.5-7.0`` as it is).
      How numbers are read: `m2kr.rag.scorers.answer_numbers.answer_numbers`.

    A question without a type is numerical if it has a value or a range. An answer without a number is
    wrong, not 0 as for the official scorer; a range whose bounds are the wrong way round, as 10 % around a
    number below 0 may come, is turned.
    """

    name = "infoseek"

    def facts(self) -> Mapping[str, Any]:
        """As of `AnswerScorer.facts`."""
        return {"name": self.name, "tolerance": TOLERANCE, "overlap": _OVERLAP}

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        """As of `AnswerScorer.score`."""
        accepted = accepted_ranges(gold)
        if not accepted and not any(map(str.strip, gold.answers)):
            return Verdict(None, NO_GOLD)
        if not prediction.strip():
            return Verdict(0.0, "no answer")
        if accepted:
            return _numerical(prediction, accepted)
        same = first_same(prediction, gold.answers)
        what = "date" if _kind(gold) == "time" else "alias"
        if same is None:
            return Verdict(0.0, f"no accepted {what}")
        return Verdict(1.0, what, {"answer": same})

    def parts(self, gold: GoldAnswer) -> Sequence[str]:
        """As of `PartsScorer.parts`: ``accuracy`` has all, the unseen parts their own."""
        part = unseen_part(gold.group)
        return ("accuracy", part) if part else ("accuracy",)

    def figures(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Accuracy over all questions, over each part, and the harmonic mean of the two parts.

        ``accuracy`` is what the PreFLMR paper reports on M2KR's split; ``harmonic_mean`` of
        ``unseen_question`` and ``unseen_entity`` is the official overall score, 0 if one of them is 0.
        What a split has no questions of is left out.
        """
        told = {part: means[part] for part in ("accuracy", *UNSEEN) if part in means}
        if all(part in means for part in UNSEEN):
            told["harmonic_mean"] = harmonic_mean(*(means[part] for part in UNSEEN))
        return told


def harmonic_mean(first: float, second: float) -> float:
    """Of two shares; 0 if one of them is 0."""
    return 2 * first * second / (first + second) if first and second else 0.0


@lru_cache
def accepted_ranges(gold: GoldAnswer) -> tuple[Range, ...]:
    """The numbers that are right, bounds included; none if the question asks for no number.

    There are several only where gold answers in words name different ones.
    """
    kind = _kind(gold)
    if kind in ("string", "time") and gold.answers:
        return ()
    if gold.value_range is not None:
        return ((min(gold.value_range), max(gold.value_range)),)
    if gold.value is not None:
        return (_around(gold.value, gold.value),)
    if kind != "numerical":
        return ()
    named = {numbers for answer in gold.answers if (numbers := answer_range(answer)) is not None}
    return tuple(
        sorted(numbers if numbers[0] < numbers[1] else _around(*numbers) for numbers in named)
    )


def _around(low: float, high: float) -> Range:
    ends = [number * factor for number in (low, high) for factor in (1 - TOLERANCE, 1 + TOLERANCE)]
    return min(ends), max(ends)


def _kind(gold: GoldAnswer) -> str:
    kind = (gold.question_type or "").strip().casefold()
    return "numerical" if kind.startswith("num") else kind


def _numerical(prediction: str, ranges: Sequence[Range]) -> Verdict:
    said = answer_range(prediction)
    if said is None:
        return Verdict(0.0, "no number", {"accepted": list(ranges[0])})
    return max((_in_range(said, accepted) for accepted in ranges), key=lambda v: v.score or 0.0)


def _in_range(said: Range, accepted: Range) -> Verdict:
    detail: dict[str, Any] = {"accepted": list(accepted)}
    if said[0] == said[1]:
        detail["number"] = said[0]
        return Verdict(float(_within(said, accepted)), "number", detail)
    overlap = range_overlap(said, accepted)
    detail |= {"range": list(said), "overlap": overlap}
    if _within(said, accepted):
        return Verdict(1.0, "range within", detail)
    return Verdict(float(overlap >= _OVERLAP - _ROUNDING), "range overlap", detail)


def _within(said: Range, accepted: Range) -> bool:
    slack = _ROUNDING * max(map(abs, accepted))
    return accepted[0] - slack <= said[0] and said[1] <= accepted[1] + slack


def range_overlap(first: Range, second: Range) -> float:
    """Intersection over union of two ranges (their lengths); 0 where both are points.

    Example:
        >>> range_overlap((0, 3), (1, 4))
        0.5
    """
    shared = min(first[1], second[1]) - max(first[0], second[0])
    union = (first[1] - first[0]) + (second[1] - second[0]) - max(shared, 0)
    return max(shared, 0) / union if union > 0 else 0.0
