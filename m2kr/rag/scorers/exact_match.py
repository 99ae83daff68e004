"""Exact match: an answer is right if it is one of the accepted ones after SQuAD's normalisation."""

from collections.abc import Mapping
from typing import Any

from m2kr.rag.scorer import NO_GOLD, GoldAnswer, MeanScorer, Verdict
from m2kr.rag.scorers.plain_answer import first_same


class ExactMatchScorer(MeanScorer):
    """1 for any of the accepted answers, else 0.

    See `m2kr.rag.scorers.plain_answer.plain_answer` for what is the same. The prediction is taken as a
    whole, however many lines it has.
    """

    name = "exact_match"

    def facts(self) -> Mapping[str, Any]:
        """As of `AnswerScorer.facts`."""
        return {"name": self.name, "normalisation": "SQuAD"}

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        """As of `AnswerScorer.score`."""
        if not any(map(str.strip, gold.answers)):
            return Verdict(None, NO_GOLD)
        accepted = first_same(prediction, gold.answers)
        if accepted is None:
            return Verdict(0.0, "no match" if prediction.strip() else "no answer")
        return Verdict(1.0, "exact match", {"answer": accepted})
