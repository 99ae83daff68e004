"""A run against relevance judgements and answers: what metrics are computed from."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.evaluation.answer_ranks import Answers, AnswersInTexts, Texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.retrieval.run import Run


class JudgedRun:
    """A run with the relevance of every row, and the answers, all in the run's query order.

    Args:
        run: Every query of the split, cut at the deepest cut-off that is asked for.
        qrels: ``question_id, passage_id, relevance`` columns; of repeated judgements the highest
            counts; grades of 0 and below and other queries' judgements are ignored.
        answers: Per query its answers, empty where it has none, with ``texts``; or what stands for them.
        texts: Reads passage texts by place in ``run.vocabulary``; only called for pseudo recall.
        same: Passages that count as another one: places in ``run.vocabulary`` and the ids they count
            as. The first of a query's rows that count as one passage is it; further ones are nothing.
        missed_without_positives: A query without a right passage counts as missed, in place of being
            undefined.
        threshold: The lowest grade of a right passage. Gains don't depend on it.

    Attributes:
        run: The run.
        codes: Per row of the run the passage that it counts as; a number for comparing alone.
        owners: Per row of the run the number of its query.
        ranks: Per row of the run its rank from 1.
        relevance: Per row of the run its grade (float64), 0 if it has none.
        right: Per row of the run whether its grade reaches the threshold.
        positives: Per query the number of its right passages, retrieved or not.
        defined: Per query whether metrics on right passages are defined.
        graded: Per query whether metrics on grades are defined: a passage has a grade above 0.
        ideal: Query numbers and grades of all judgements above 0, best grade first.
        has_answers: Per query whether it has an answer, be it blank.
        has_empty_answer: Per query whether an answer is blank, and so in every text.
        has_short_answer: Per query whether an answer has one or two characters, and so is in nearly
            every text.
    """

    def __init__(
        self,
        run: "Run",
        qrels: "pa.Table",
        answers: Sequence[Sequence[str]] | Answers,
        texts: Texts | None = None,
        *,
        same: "tuple[NDArray[np.int64], pa.Array] | None" = None,
        missed_without_positives: bool = False,
        threshold: float = 1,
    ) -> None:
        self.run = run
        if isinstance(answers, Sequence):
            answers = AnswersInTexts(answers, texts or _no_texts)
        self._answers: Answers = answers
        names = qrels.column("passage_id").cast(pa.large_string()).unique()
        self._owner, self._code, self._grade = _judgements(run, qrels, names)
        counts = run.counts()
        self.owners = np.repeat(np.arange(len(run)), counts)
        self.ranks = np.arange(len(run.codes)) - np.repeat(run.offsets[:-1], counts) + 1
        self._width = len(run.vocabulary) + len(names) + 1
        self.codes = run.codes.astype(np.int64)
        if same is not None and len(same[0]):
            self.codes = self._counted_as(names, *same)
        right = self._grade >= threshold
        self.positives = np.bincount(self._owner[right], minlength=len(run))
        self.defined = (self.positives > 0) | missed_without_positives
        self.graded = (np.bincount(self._owner, minlength=len(run)) > 0) | missed_without_positives
        self.relevance = self._row_relevance()
        self.right = self.relevance >= threshold
        self.has_answers = answers.given
        self.has_empty_answer = answers.blank
        self.has_short_answer = answers.short
        self._hits_before = np.concatenate([[0], np.cumsum(self.right)])

    def _row_relevance(self) -> "NDArray[np.float64]":
        relevance = np.zeros(len(self.codes))
        judged = np.zeros(self._width, bool)
        judged[self._code] = True
        some = np.flatnonzero(judged[self.codes])  # of passages that are judged for any query
        keys = self._owner * self._width + self._code  # ascending and distinct
        rows = self.owners[some] * self._width + self.codes[some]
        if len(some):
            nearest = np.minimum(np.searchsorted(keys, rows), len(keys) - 1)
            relevance[some] = np.where(keys[nearest] == rows, self._grade[nearest], 0)
        return relevance

    def _counted_as(
        self, names: pa.Array, places: "NDArray[np.int64]", ids: pa.Array
    ) -> "NDArray[np.int64]":
        vocabulary = self.run.vocabulary
        ids = ids.cast(pa.large_string())
        code = pc.coalesce(
            pc.index_in(ids, vocabulary.cast(pa.large_string())),
            pc.add(pc.index_in(ids, names), len(vocabulary)),
            pa.array(places, pa.int32()),
        )
        of_place = np.arange(len(vocabulary), dtype=np.int64)
        of_place[places] = code.to_numpy(zero_copy_only=False)
        codes = of_place[self.run.codes]
        _, first = np.unique(self.owners * self._width + codes, return_index=True)
        again = np.ones(len(codes), bool)
        again[first] = False
        codes[again] = self._width - 1
        return codes

    def hits(self, k: int) -> "NDArray[np.int64]":
        """Per query the number of right passages among the first ``k``."""
        starts = self.run.offsets[:-1]
        ends = starts + np.minimum(self.run.counts(), k)
        counts: NDArray[np.int64] = self._hits_before[ends] - self._hits_before[starts]
        return counts

    @cached_property
    def first_hit(self) -> "NDArray[np.float64]":
        """Per query the rank (from 1) of its first right passage, infinity if there is none."""
        first = np.full(len(self.run), np.inf)
        right = np.flatnonzero(self.right)[::-1]  # backwards, so that the first stays
        first[self.owners[right]] = self.ranks[right]
        return first

    @property
    def first_answer(self) -> "NDArray[np.float64]":
        """Per query the rank (from 1) of the first text with an answer in it, infinity if none."""
        return self._first_answers[0]

    @property
    def first_answer_word(self) -> "NDArray[np.float64]":
        """The same of answers as whole words."""
        return self._first_answers[1]

    @cached_property
    def _first_answers(self) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        return self._answers.first_ranks(self.run)

    @cached_property
    def ideal(self) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
        """Query numbers, ascending, and grades of all judgements above 0, a query's best first."""
        order = np.lexsort((-self._grade, self._owner))
        return self._owner[order], self._grade[order]


def _judgements(
    run: "Run", qrels: "pa.Table", distinct: pa.Array
) -> "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]":
    """Query number, passage code and grade of each judgement above 0, ascending and distinct."""
    names = qrels.column("passage_id").cast(pa.large_string())
    owner = pc.index_in(
        qrels.column("question_id").cast(pa.large_string()),
        pa.array(run.query_ids, pa.large_string()),
    )
    known = pc.index_in(names, run.vocabulary)
    # Passages that no query retrieved get codes after the vocabulary's.
    others = pc.add(pc.index_in(names, distinct), len(run.vocabulary))
    code = pc.coalesce(known, others)
    grade = qrels.column("relevance").to_numpy().astype(np.float64)
    use = pc.is_valid(owner).to_numpy() & (grade > 0)
    owners = pc.fill_null(owner, 0).to_numpy().astype(np.int64)[use]
    codes, grade = code.to_numpy().astype(np.int64)[use], grade[use]
    order = np.lexsort((-grade, codes, owners))
    owners, codes, grade = owners[order], codes[order], grade[order]
    new = np.ones(len(owners), bool)
    new[1:] = (np.diff(owners) != 0) | (np.diff(codes) != 0)
    return owners[new], codes[new], grade[new]


def _no_texts(places: "NDArray[np.int64]") -> list[str]:
    raise TypeError(f"{len(places)} texts are needed")
