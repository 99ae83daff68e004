"""Which ranked texts hold an answer: the work behind pseudo recall."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.retrieval.run import Run

# Most queries are settled by their first texts, so those are read first and for all queries.
_WAVES = (0, 1, 5, 20, 100)
_TEXTS = 4096  # texts held at a time, whatever the pool


def first_answer_ranks(
    run: "Run",
    answers: Sequence[Sequence[str]],
    texts: "Callable[[NDArray[np.int64]], list[str]]",
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Per query the ranks (from 1) of the first text that holds an answer, infinity if none does.

    The first array is of answers as substrings, the second of answers as whole words.

    Args:
        run: The rankings.
        answers: Per query, in the run's order, its answers, trimmed and lower-cased.
        texts: Reads texts by place in ``run.vocabulary``.
    """
    first, first_word = np.full(len(run), np.inf), np.full(len(run), np.inf)
    counts = run.counts()
    deepest = int(counts.max(initial=0))
    # Beyond the last wave, as deep at a time as one query's texts may be many.
    waves = (*_WAVES, *range(_WAVES[-1] + _TEXTS, deepest, _TEXTS))
    edges = [*(wave for wave in waves if wave < deepest), deepest]
    open_ = np.array([bool(each) for each in answers], bool)
    for start, stop in pairwise(edges):
        waiting = np.flatnonzero(open_ & np.isinf(first_word) & (counts > start))
        step = max(1, _TEXTS // (stop - start))
        for at in range(0, len(waiting), step):
            part = waiting[at : at + step]
            _search(run, answers, texts, part, (start, stop), first, first_word)
    return first, first_word


def has_word(answer: str, text: str) -> bool:
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


def _search(
    run: "Run",
    answers: Sequence[Sequence[str]],
    texts: "Callable[[NDArray[np.int64]], list[str]]",
    queries: "NDArray[np.int64]",
    ranks: tuple[int, int],
    first: "NDArray[np.float64]",
    first_word: "NDArray[np.float64]",
) -> None:
    """Looks through some ranks of some queries and notes the first hits of each."""
    ends = run.offsets[1:]
    spans = [
        run.codes[run.offsets[q] + ranks[0] : min(run.offsets[q] + ranks[1], ends[q])]
        for q in queries
    ]
    wanted = np.unique(np.concatenate(spans)).astype(np.int64)
    lowered = dict(zip(wanted.tolist(), map(str.lower, texts(wanted)), strict=True))
    for query, span in zip(queries.tolist(), spans, strict=True):
        accepted = answers[query]
        for rank, code in enumerate(span.tolist(), ranks[0] + 1):
            text = lowered[code]
            held = [answer for answer in accepted if answer in text]
            if held:
                first[query] = min(first[query], rank)
                if any(has_word(answer, text) for answer in held):
                    first_word[query] = rank
                    break
