"""Which ranked texts hold an answer: the work behind pseudo recall."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.run import Run

# Most queries are settled by their first texts, so those are read first and for all queries.
_WAVES = (0, 1, 5, 20, 100)
_TEXTS = 4096  # texts held at a time, whatever the pool


def first_answer_ranks(
    run: "Run",
    answers: Sequence[Sequence[str]],
    texts: "Callable[[NDArray[np.int64]], list[str]]",
) -> "NDArray[np.float64]":
    """Per query the rank (from 1) of the first text that holds an answer, infinity if none does.

    Args:
        run: The rankings.
        answers: Per query, in the run's order, its answers, trimmed and lower-cased.
        texts: Reads texts by place in ``run.vocabulary``.
    """
    first = np.full(len(run), np.inf)
    counts = run.counts()
    deepest = int(counts.max(initial=0))
    # Beyond the last wave, as deep at a time as one query's texts may be many.
    waves = (*_WAVES, *range(_WAVES[-1] + _TEXTS, deepest, _TEXTS))
    edges = [*(wave for wave in waves if wave < deepest), deepest]
    open_ = np.array([bool(each) for each in answers], bool)
    for start, stop in pairwise(edges):
        waiting = np.flatnonzero(open_ & np.isinf(first) & (counts > start))
        step = max(1, _TEXTS // (stop - start))
        for at in range(0, len(waiting), step):
            _search(run, answers, texts, waiting[at : at + step], (start, stop), first)
    return first


def _search(
    run: "Run",
    answers: Sequence[Sequence[str]],
    texts: "Callable[[NDArray[np.int64]], list[str]]",
    queries: "NDArray[np.int64]",
    ranks: tuple[int, int],
    first: "NDArray[np.float64]",
) -> None:
    """Looks through some ranks of some queries and notes the first hit of each."""
    ends = run.offsets[1:]
    spans = [
        run.codes[run.offsets[q] + ranks[0] : min(run.offsets[q] + ranks[1], ends[q])]
        for q in queries
    ]
    wanted = np.unique(np.concatenate(spans)).astype(np.int64)
    lowered = dict(zip(wanted.tolist(), map(str.lower, texts(wanted)), strict=True))
    for query, span in zip(queries.tolist(), spans, strict=True):
        for rank, code in enumerate(span.tolist(), ranks[0] + 1):
            text = lowered[code]
            if any(answer in text for answer in answers[query]):
                first[query] = rank
                break
