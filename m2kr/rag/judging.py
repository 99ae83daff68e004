"""Judging what a reader answered, arm by arm."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from m2kr.errors import CheckError, InputError
from m2kr.rag.answer_notes import AnswerNotes, VerdictCosts
from m2kr.rag.answering import Answering, in_batches
from m2kr.rag.kept_answers import KeptAnswer
from m2kr.rag.own_reader import checked_facts
from m2kr.rag.records import Record
from m2kr.rag.scorer import UNDEFINED, AnswerScorer, GoldAnswer, SlowScorer, Verdict

_AT_ONCE = 1024  # answers in memory
_REMEMBERED = 200_000  # verdicts


class Judging:
    """Verdicts on kept answers, and what they add up to.

    Args:
        answering: A reader that answered all.
        scorers: What judges.

    Attributes:
        arms: As `RagResult.arms`, of the arms judged so far.
        totals: As `RagResult.totals`.
    """

    def __init__(self, answering: Answering, scorers: Sequence[AnswerScorer]) -> None:
        self._answering, self._scorers = answering, scorers
        self._known: dict[tuple[str, str, str], Verdict] = {}
        self._notes, self._costs = AnswerNotes(), VerdictCosts()
        self.arms: list[dict[str, Any]] = []
        self.totals: dict[str, list[dict[str, Any]]] = {one.name: [] for one in scorers}

    @property
    def notes(self) -> list[str]:
        """What must be said of answers and verdicts beside the scores; see `AnswerNotes`."""
        return [*self._notes.sentences(), *self._costs.sentences()]

    def judge(self, number: int, write: Callable[[Record], None]) -> None:
        """Judges one arm.

        Args:
            number: Its place among the arms; they come in their order.
            write: Is given each record.
        """
        answering = self._answering
        questions, arm = answering.questions, answering.arms[number]
        sums = _Sums()
        golds: list[GoldAnswer] = []
        verdicts: dict[str, list[Verdict]] = {one.name: [] for one in self._scorers}
        places = [n for n, keys in enumerate(answering.keys) if keys[number] is not None]
        for some in in_batches(places, _AT_ONCE):
            keys = [key for place in some if (key := answering.keys[place][number])]
            kept = answering.store.get(keys)
            for scorer in self._scorers:
                if isinstance(scorer, SlowScorer):
                    scorer.prepare(
                        [
                            (kept[key].answer.text, questions.golds[questions.ids[place]])
                            for place, key in zip(some, keys, strict=True)
                            if key in kept
                        ],
                        answering.store,
                    )
            for place, key in zip(some, keys, strict=True):
                if key not in kept:
                    raise CheckError(
                        "kept answers went missing while they were judged",
                        where=str(answering.store.path),
                        fix="run the same command again",
                    )
                gold = questions.golds[questions.ids[place]]
                by_scorer = self._verdicts(kept[key].answer.text, gold)
                sums.add(kept[key])
                self._notes.add(key, kept[key].answer)
                golds.append(gold)
                for name, verdict in by_scorer.items():
                    verdicts[name].append(verdict)
                write(
                    Record(
                        gold.question_id,
                        arm.name,
                        arm.k,
                        answering.passage_ids(place, arm),
                        kept[key].answer,
                        kept[key].seconds,
                        by_scorer,
                        gold,
                        questions.tasks[place],
                    )
                )
        self.arms.append({"arm": arm.name, "k": arm.k, **sums.as_dict()})
        for scorer in self._scorers:
            figures = dict(scorer.totals(verdicts[scorer.name], golds)) if golds else {}
            self.totals[scorer.name].append(
                {"arm": arm.name, "k": arm.k, **_total(verdicts[scorer.name]), "figures": figures}
            )

    def _verdicts(self, text: str, gold: GoldAnswer) -> dict[str, Verdict]:
        """Each scorer's verdict; what it judged before it isn't asked again."""
        found = {}
        for scorer in self._scorers:
            key = (scorer.name, gold.question_id, text)
            if key not in self._known:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[key] = _checked(scorer.score(text, gold), scorer.name, gold)
                self._costs.add(scorer.name, self._known[key].detail)
            found[scorer.name] = self._known[key]
        return found


def _checked(verdict: object, scorer: str, gold: GoldAnswer) -> Verdict:
    """Refuses a verdict that is none: a scorer may be the user's own."""
    if isinstance(verdict, Verdict) and isinstance(verdict.rule, str):
        score = verdict.score
        if score is None or (
            isinstance(score, int | float) and math.isfinite(score) and 0 <= score <= 1
        ):
            if not verdict.detail:
                return verdict
            where = f"scorer {scorer}, question '{gold.question_id}'"
            return replace(verdict, detail=checked_facts(verdict.detail, f"{where}: detail"))
    raise InputError(
        f"the verdict is {verdict!r:.200}",
        where=f"scorer {scorer}, question '{gold.question_id}'",
        expected="a Verdict whose score is from 0 to 1, or None if it can't judge",
    )


def _total(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    scores = [v.score for v in verdicts if v.score is not None or v.rule not in UNDEFINED]
    judged = [score for score in scores if score is not None]
    missing = len(scores) - len(judged)
    if not scores:
        return {"judged": 0, "not_judged": 0, "mean": None, "least": None, "most": None}
    least = math.fsum(judged) / len(scores)
    return {
        "judged": len(judged),
        "not_judged": missing,
        "mean": None if missing else least,
        "least": least,
        "most": math.fsum([*judged, missing]) / len(scores),
    }


class _Sums:
    """What an arm's answers took. A sum of which a part isn't known isn't either."""

    def __init__(self) -> None:
        self._questions = self._empty = 0
        self._sums: dict[str, float | None] = {
            "input_tokens": 0, "output_tokens": 0, "seconds": 0.0, "dollars": 0.0,
        }  # fmt: skip

    def add(self, kept: KeptAnswer) -> None:
        """Counts one answer."""
        self._questions += 1
        self._empty += not kept.answer.text
        for name, sum_ in self._sums.items():
            value = kept.seconds if name == "seconds" else getattr(kept.answer, name)
            self._sums[name] = None if value is None or sum_ is None else sum_ + value

    def as_dict(self) -> dict[str, Any]:
        """As in `RagResult.arms`."""
        return {"questions": self._questions, "empty": self._empty, **self._sums}
