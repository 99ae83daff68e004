"""At which rank a query's first passage with an answer stands: from texts, or from lists of passages."""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from m2kr.evaluation.answer_search import ANCHOR, TEXTS_AT_ONCE, AnswerSearch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.retrieval.run import Run

    Ranks = NDArray[np.float64]
    Lists = Sequence[NDArray[np.integer[Any]]]
    Flags = NDArray[np.bool_]

# Places in the run's vocabulary -> the passages' texts.
Texts = Callable[["NDArray[np.int64]"], list[str]]

_FIRST = 5  # ranks that settle most queries, so those texts are read one by one
_DENSE = 16  # an answer is in many passages if in more than a 16th of the pool


class Answers(Protocol):
    """What scoring needs of a split's answers.

    Attributes:
        given: Per query whether it has an answer, be it blank.
        blank: Per query whether an answer is blank, and so in every text.
        short: Per query whether an answer has one or two characters, and so is in nearly every text.
    """

    given: "Flags"
    blank: "Flags"
    short: "Flags"

    def first_ranks(self, run: "Run") -> "tuple[Ranks, Ranks]":
        """Per query the rank (from 1) of its first text with an answer, and with one as whole words.

        Infinity where there is none. The run's queries are those of the split, in its order.
        """


def normalised(answers: Sequence[Sequence[str]]) -> list[list[str]]:
    """Answers as they are compared with texts in lower case."""
    return [[answer.strip().lower() for answer in of_query] for of_query in answers]


class AnswersInTexts:
    """Answers that are looked for in the passages' texts.

    Args:
        answers: Per query its answers; empty where it has none.
        texts: Reads passage texts by place in ``run.vocabulary``; called for queries with answers alone.
    """

    def __init__(self, answers: Sequence[Sequence[str]], texts: Texts) -> None:
        self._answers = normalised(answers)
        self._texts = texts
        self.given = np.array(list(map(bool, self._answers)), bool)
        self.blank = np.array(["" in accepted for accepted in self._answers], bool)
        lengths = ([len(a) for a in accepted] for accepted in self._answers)
        self.short = np.array([1 in sizes or 2 in sizes for sizes in lengths], bool)

    def first_ranks(self, run: "Run") -> "tuple[Ranks, Ranks]":
        """See `Answers`."""
        counts = run.counts()
        within, words = _settled_by_blanks(self, run)
        # Most queries are settled by their first texts; those that wait share the texts they wait for.
        for start, stop in ((0, 1), (1, _FIRST)):
            waiting = np.flatnonzero(self.given & np.isinf(words) & (counts > start))
            self._look_one_by_one(run, waiting, start, stop, within, words)
        waiting = np.flatnonzero(self.given & np.isinf(words) & (counts > _FIRST))
        if len(waiting):
            self._look_together(run, waiting, within, words)
        return within, words

    def _look_one_by_one(
        self,
        run: "Run",
        queries: "NDArray[np.int64]",
        start: int,
        stop: int,
        within: "Ranks",
        words: "Ranks",
    ) -> None:
        """Looks through some first ranks of some queries, text by text."""
        step = max(1, TEXTS_AT_ONCE // (stop - start))
        for begin in range(0, len(queries), step):
            some = queries[begin : begin + step].tolist()
            ends = run.offsets[1:]
            spans = [
                run.codes[run.offsets[q] + start : min(run.offsets[q] + stop, ends[q])]
                for q in some
            ]
            places = np.unique(np.concatenate(spans)).astype(np.int64)
            lowered = dict(zip(places.tolist(), map(str.lower, self._texts(places)), strict=True))
            for query, span in zip(some, spans, strict=True):
                for rank, code in enumerate(span.tolist(), start + 1):
                    contained = [a for a in self._answers[query] if a in lowered[code]]
                    if contained:
                        within[query] = min(within[query], rank)
                        if any(_has_word(answer, lowered[code]) for answer in contained):
                            words[query] = rank
                            break

    def _look_together(
        self, run: "Run", queries: "NDArray[np.int64]", within: "Ranks", words: "Ranks"
    ) -> None:
        """Looks through all further ranks of some queries, each text once for all of them."""
        accepted = [self._answers[query] for query in queries.tolist()]
        # An answer of few bytes is in so many places that looking for it text by text is quicker.
        few = [[a for a in of_query if _is_short(a)] for of_query in accepted]
        more = [[a for a in of_query if not _is_short(a)] for of_query in accepted]
        number = {answer: i for i, answer in enumerate(dict.fromkeys(chain.from_iterable(more)))}
        search = AnswerSearch(list(number))
        flat = np.array([number[a] for of_query in more for a in of_query], np.int64)
        sizes = np.array(list(map(len, more)), np.int64)
        first = np.cumsum(sizes) - sizes
        has_few = np.array(list(map(bool, few)), bool)
        waits = np.full(len(run), -1, np.int64)
        waits[queries] = np.arange(len(queries))
        owners = run.owners()
        ranks = np.arange(len(owners)) - run.offsets[owners] + 1
        rows = np.flatnonzero((waits[owners] >= 0) & (ranks > _FIRST))
        by_code = np.sort(run.codes[rows].astype(np.int64) << 32 | rows)
        codes, rows = by_code >> 32, by_code & 0xFFFFFFFF
        begins = np.flatnonzero(_is_new(codes))
        bounds = [*begins[:: search.texts_at_once].tolist(), len(rows)]
        for start, stop in pairwise(bounds):
            row, code = rows[start:stop], codes[start:stop]
            waiting = ranks[row] < words[owners[row]]  # fewer and fewer, as hits come in
            row, code = row[waiting], code[waiting]
            if not len(row):
                continue
            new = _is_new(code)
            column = np.cumsum(new) - 1
            lowered = list(map(str.lower, self._texts(code[new])))
            query = waits[owners[row]]
            best = _best(search.matches(lowered), flat, first[query], sizes[query], column)
            for of_kind, least in ((within, 1), (words, 2)):
                hits = row[best >= least]
                np.minimum.at(of_kind, owners[hits], ranks[hits])
            some = np.flatnonzero(has_few[query])
            of_row = (owners[row[some]], query[some], ranks[row[some]], column[some])
            settled = words.tolist()
            for owner, wait, rank, place in zip(*(a.tolist() for a in of_row), strict=True):
                if rank < settled[owner]:
                    text = lowered[place]
                    contained = [answer for answer in few[wait] if answer in text]
                    if contained:
                        within[owner] = min(within[owner], rank)
                        if any(_has_word(answer, text) for answer in contained):
                            words[owner] = settled[owner] = rank


def _is_short(answer: str) -> bool:
    """Whether an answer is shorter than an anchor."""
    return len(answer) < ANCHOR and len(answer.encode()) < ANCHOR


def _is_new(values: "NDArray[np.int64]") -> "Flags":
    """Per value whether it is another than the one before."""
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    return new


def _best(
    found: "NDArray[np.uint8]",
    answers: "NDArray[np.int64]",
    first: "NDArray[np.int64]",
    sizes: "NDArray[np.int64]",
    column: "NDArray[np.int64]",
) -> "NDArray[np.uint8]":
    """Per row the highest of what was found in its column for its answers, which may be none."""
    ends = np.cumsum(sizes)
    entries = np.repeat(first - ends + sizes, sizes) + np.arange(sizes.sum())
    values = found[answers[entries], np.repeat(column, sizes)]
    best = np.zeros(len(sizes), np.uint8)
    some = sizes > 0
    if some.any():
        best[some] = np.maximum.reduceat(values, (ends - sizes)[some])
    return best


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


class AnswerLists:
    """Which passages hold which answers: what a judge file has in place of texts.

    Args:
        of_query: Per query the numbers of its answers, -1 for a blank one.
        short: As in `Answers`.
        passages: Per answer the rows of the pool that hold it.
        words: Per answer those of them that hold it as whole words.
        pool: Rows of the pool.
    """

    def __init__(
        self,
        of_query: Sequence[Sequence[int]],
        short: "Flags",
        passages: "Lists",
        words: "Lists",
        pool: int,
    ) -> None:
        self.given = np.array(list(map(bool, of_query)), bool)
        self.blank = np.array([-1 in numbers for numbers in of_query], bool)
        self.short = short
        self._lists = list(zip(passages, words, strict=True))
        self._marks = np.zeros(pool, np.uint8)
        # Of an answer in many passages a mark per passage is quicker to look up, and costs no more memory.
        self._tables: dict[int, NDArray[np.uint8]] = {}
        for number, (rows, as_words) in enumerate(self._lists):
            if len(rows) * _DENSE > pool:
                self._tables[number] = table = np.zeros(pool, np.uint8)
                table[rows], table[as_words] = 1, 2
        dense = self._tables.keys()
        sparse = {n for n, (rows, _) in enumerate(self._lists) if len(rows) and n not in dense}
        self._of_query = [
            ([n for n in numbers if n in dense], [n for n in numbers if n in sparse])
            for numbers in of_query
        ]

    def marks(self, query: int, rows: "NDArray[np.int64]") -> "NDArray[np.uint8]":
        """Per row of the pool 2 if it holds an answer of the query as whole words, 1 within one, else 0."""
        dense, sparse = self._of_query[query]
        for number in sparse:
            self._marks[self._lists[number][0]] = 1
        for number in sparse:
            self._marks[self._lists[number][1]] = 2
        marks = self._marks[rows]
        for number in sparse:
            self._marks[self._lists[number][0]] = 0
        for number in dense:
            np.maximum(marks, self._tables[number][rows], out=marks)
        return marks


class AnswersInLists:
    """Answers whose passages are known.

    Args:
        lists: Which passages.
        rows: Per place in the run's vocabulary its row of the pool.
    """

    def __init__(self, lists: AnswerLists, rows: "NDArray[np.int64]") -> None:
        self.given, self.blank, self.short = lists.given, lists.blank, lists.short
        self._lists, self._rows = lists, rows

    def first_ranks(self, run: "Run") -> "tuple[Ranks, Ranks]":
        """See `Answers`."""
        within, words = _settled_by_blanks(self, run)
        rows, offsets = self._rows[run.codes], run.offsets.tolist()
        for query in np.flatnonzero(self.given & ~self.blank & (run.counts() > 0)).tolist():
            marks = self._lists.marks(query, rows[offsets[query] : offsets[query + 1]])
            for of_kind, least in ((within, 1), (words, 2)):
                first = int((marks >= least).argmax())
                if marks[first] >= least:
                    of_kind[query] = first + 1
        return within, words


def _settled_by_blanks(answers: Answers, run: "Run") -> "tuple[Ranks, Ranks]":
    """The first ranks so far as they don't depend on texts."""
    first = np.where(answers.blank & (run.counts() > 0), 1, np.inf)
    return first, first.copy()
