"""Token F1: how many words an answer shares with an accepted one, as SQuAD's evaluation counts them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from m2kr.rag.scorer import NO_GOLD, GoldAnswer, MeanScorer, Verdict
from m2kr.rag.scorers.plain_answer import is_same_answer, plain_answer


def token_f1(prediction: str, answer: str) -> float:
    """The harmonic mean of the shares of words that two texts have in common, 0 to 1.

    Both are normalised first; a word counts as often as both have it. Where that leaves nothing of one
    of them, only the same answer gets 1.

    Example:
        >>> token_f1("the red kite", "a kite")
        0.6666666666666666
    """
    words, accepted = plain_answer(prediction).split(), plain_answer(answer).split()
    if not words or not accepted:
        return float(is_same_answer(prediction, answer))
    shared = sum((Counter(words) & Counter(accepted)).values())
    return 2 * shared / (len(words) + len(accepted))


class TokenF1Scorer(MeanScorer):
    """The highest F1 over the accepted answers."""

    name = "token_f1"

    def facts(self) -> Mapping[str, Any]:
        """As of `AnswerScorer.facts`."""
        return {"name": self.name, "normalisation": "SQuAD"}

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        """As of `AnswerScorer.score`."""
        if not any(map(str.strip, gold.answers)):
            return Verdict(None, NO_GOLD)
        if not prediction.strip():
            return Verdict(0.0, "no answer")
        scores = {answer: token_f1(prediction, answer) for answer in gold.answers}
        best = max(scores, key=scores.__getitem__, default="")
        score = scores.get(best, 0.0)
        if not score:
            return Verdict(0.0, "no shared word")
        return Verdict(score, "token F1", {"answer": best})
