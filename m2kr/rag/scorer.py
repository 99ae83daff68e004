"""What a scorer of answers is, and what it scores against."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from m2kr.rag.kept_answers import AnswerStore

# Rules of verdicts without a score on questions that have none, whatever is answered.
NO_GOLD = "no accepted answer"
ONE_ANNOTATOR = "one annotator leaves no others to agree with"
UNDEFINED = frozenset((NO_GOLD, ONE_ANNOTATOR))


@dataclass(frozen=True, slots=True)
class GoldAnswer:
    """What is accepted as the answer to a question.

    Attributes:
        question_id: The query's id.
        question: Its text; BEM and judges read it.
        answers: The accepted ones as the source has them: every annotator's for OK-VQA, repeated
            where they agree, and blank where an annotator gave none.
        question_type: Such as ``String``, ``Numerical``, ``Time`` or ``multi_answer``; None if the source
            doesn't say.
        group: The part of the split that it belongs to, such as ``val_unseen_entity``; None if none.
        value: The number that is right, if it is a number.
        value_range: The least and the greatest number that count as right.
    """

    question_id: str
    question: str
    answers: tuple[str, ...]
    question_type: str | None = None
    group: str | None = None
    value: float | None = None
    value_range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one answer was judged.

    Attributes:
        score: From 0 to 1; None if the scorer can't judge it (BEM without its checkpoint).
        rule: The rule that decided, in a few words, such as ``exact match`` or ``BEM``.
        detail: More for the record; plain JSON.
    """

    score: float | None
    rule: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class AnswerScorer(Protocol):
    """A set of rules.

    Attributes:
        name: As ``--scorer`` takes it and tables show it.
    """

    name: str

    def facts(self) -> Mapping[str, Any]:
        """What decides its scores, as plain JSON; a checkpoint by its digest."""
        ...

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        """The verdict on one answer; depends on these two alone."""
        ...

    def totals(
        self, verdicts: Sequence[Verdict], golds: Sequence[GoldAnswer]
    ) -> Mapping[str, float]:
        """Figures of a whole split that are no plain mean, by name; from 0 to 1. Often none."""
        ...


class MeanScorer:
    """A scorer whose figures are means alone; the subclass sets ``name`` and writes `score`."""

    name = ""

    def facts(self) -> Mapping[str, Any]:
        """As of `AnswerScorer.facts`: the name."""
        return {"name": self.name}

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        """As of `AnswerScorer.score`."""
        raise NotImplementedError

    def totals(
        self,
        verdicts: Sequence[Verdict],  # noqa: ARG002
        golds: Sequence[GoldAnswer],  # noqa: ARG002
    ) -> Mapping[str, float]:
        """As of `AnswerScorer.totals`: none."""
        return {}


class PartsScorer(MeanScorer):
    """A scorer whose figures come from means over parts of the questions.

    The subclass says which parts; that also gives its figures' intervals in little time.
    """

    def parts(self, gold: GoldAnswer) -> Sequence[str]:
        """The parts that a question belongs to; they may overlap."""
        raise NotImplementedError

    def figures(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """The figures, from the means of the parts that have a score."""
        return means

    def totals(
        self, verdicts: Sequence[Verdict], golds: Sequence[GoldAnswer]
    ) -> Mapping[str, float]:
        """As of `AnswerScorer.totals`: the figures of all that was judged."""
        scores = self.scores_of_parts(verdicts, golds)
        return self.figures({part: math.fsum(own) / len(own) for part, own in scores.items()})

    def scores_of_parts(
        self, verdicts: Sequence[Verdict], golds: Sequence[GoldAnswer]
    ) -> dict[str, list[float]]:
        """By part the scores of its questions, of those that were judged."""
        parts: dict[str, list[float]] = {}
        for verdict, gold in zip(verdicts, golds, strict=True):
            if verdict.score is not None:
                for part in self.parts(gold):
                    parts.setdefault(part, []).append(verdict.score)
        return parts


@runtime_checkable
class SlowScorer(Protocol):
    """A scorer that gains where it is told of several answers before it is asked about each."""

    def prepare(
        self, answers: Sequence[tuple[str, GoldAnswer]], store: "AnswerStore | None" = None
    ) -> None:
        """Gets the verdicts that ``score`` will be asked for.

        Args:
            answers: Answers and what they are judged by.
            store: Where verdicts that cost something are kept; the scorer's own place if None.
        """
        ...
