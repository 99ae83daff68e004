"""A run against relevance judgements and answers: what metrics are computed from."""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.retrieval.run import Run

# Most queries are settled by their first texts, so those are read first and for all queries.
_WAVES = (0, 1, 5, 20, 100)
TEXTS_AT_ONCE = 4096  # texts in memory, whatever the pool

# Places in the run's vocabulary -> the passages' texts.
Texts = Callable[["NDArray[np.int64]"], list[str]]


class JudgedRun:
    """A run with the relevance of every row, and the answers, all in the run's query order.

    Args:
        run: Every query of the split, cut at the deepest cut-off that is asked for.
        qrels: ``question_id, passage_id, relevance`` columns; of repeated judgements the highest
            counts; grades of 0 and below and other queries' judgements are ignored.
        answers: Per query its answers; empty where it has none.
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
    """

    def __init__(
        self,
        run: "Run",
        qrels: "pa.Table",
        answers: Sequence[Sequence[str]],
        texts: Texts,
        *,
        same: "tuple[NDArray[np.int64], pa.Array] | None" = None,
        missed_without_positives: bool = False,
        threshold: float = 1,
    ) -> None:
        self.run = run
        self._answers = [[answer.strip().lower() for answer in of_query] for of_query in answers]
        self._texts = texts
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
        self.has_answers = np.array(list(map(bool, self._answers)), bool)
        self.has_empty_answer = np.array(["" in accepted for accepted in self._answers], bool)
        self._hits_before = np.concatenate([[0], np.cumsum(self.right)])

    def _row_relevance(self) -> "NDArray[np.float64]":
        rows = self.owners * self._width + self.codes
        keys = self._owner * self._width + self._code  # ascending and distinct
        if not len(keys):
            return np.zeros(len(rows))
        nearest = np.minimum(np.searchsorted(keys, rows), len(keys) - 1)
        return np.where(keys[nearest] == rows, self._grade[nearest], 0)

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
        counts = self.run.counts()
        first, first_word = np.full(len(counts), np.inf), np.full(len(counts), np.inf)
        deepest = int(counts.max(initial=0))
        # Beyond the last wave, as deep at a time as one query's texts may be many.
        waves = (*_WAVES, *range(_WAVES[-1] + TEXTS_AT_ONCE, deepest, TEXTS_AT_ONCE))
        edges = [*(wave for wave in waves if wave < deepest), deepest]
        for start, stop in pairwise(edges):
            waiting = np.flatnonzero(self.has_answers & np.isinf(first_word) & (counts > start))
            step = max(1, TEXTS_AT_ONCE // (stop - start))
            for begin in range(0, len(waiting), step):
                queries = waiting[begin : begin + step]
                self._look_for_answers(queries, start, stop, first, first_word)
        return first, first_word

    def _look_for_answers(
        self,
        queries: "NDArray[np.int64]",
        start: int,
        stop: int,
        first: "NDArray[np.float64]",
        first_word: "NDArray[np.float64]",
    ) -> None:
        """Looks through some ranks of some queries and notes the first hits of each."""
        offsets = self.run.offsets
        ends = np.minimum(offsets[queries] + stop, offsets[queries + 1])
        spans = [
            self.run.codes[begin:end]
            for begin, end in zip(offsets[queries] + start, ends, strict=True)
        ]
        places = np.unique(np.concatenate(spans)).astype(np.int64)
        lowered = dict(zip(places.tolist(), map(str.lower, self._texts(places)), strict=True))
        for query, span in zip(queries.tolist(), spans, strict=True):
            for rank, code in enumerate(span.tolist(), start + 1):
                text = lowered[code]
                contained = [answer for answer in self._answers[query] if answer in text]
                if contained:
                    first[query] = min(first[query], rank)
                    if any(_has_word(answer, text) for answer in contained):
                        first_word[query] = rank
                        break

    @cached_property
    def has_short_answer(self) -> "NDArray[np.bool_]":
        """Per query whether an answer has one or two characters, and so is in nearly every text."""
        short = [any(0 < len(a) <= 2 for a in accepted) for accepted in self._answers]
        return np.array(short, bool)

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


def _has_word(answer: str, text: str) -> bool:
    r"""Whether a text holds an answer that no letter or digit goes on before or after.

    As at a word's edge in ``\b``, but for an answer's own edge that is neither: ``c++`` is in ``c++11``.
    """
    if not answer:
        return True
    start = text.find(answer)
    while start >= 0:
        end = start + len(answer)
        begun = start > 0 and answer[0].isalnum() and text[start - 1].isalnum()
        goes_on = end < len(text) and answer[-1].isalnum() and text[end].isalnum()
        if not begun and not goes_on:
            return True
        start = text.find(answer, start + 1)
    return False
