"""THE late-interaction score, and search by it: slow, and what every faster engine must equal.

MaxSim: s(q, d) = sum over query tokens i of max over document tokens j of q_i · d_j.

Canonical means that a pair's score is one float64 number, whatever surrounds the pair:

* tokens are rounded to the stored type (float16) on both sides, then widened to float64;
* q_i · d_j adds the products over the dimensions first to last, starting from 0;
* the maxima are added over the query's rows first to last, starting from 0;
* each step is elementwise, so position and batch don't enter and equal passages get equal bits;
* all-zero rows, on either side, are masked tokens: they are left out (a zero query row adds 0
  anyway, a zero document row would lift a negative maximum to 0);
* a document without tokens scores `EMPTY` for each query row: last, as in the official code, which
  gives masked tokens -9999 before taking the maximum. Minus infinity would not fit a run.

Where all products of float16 tokens are multiples of 2**-48 and stay below 32, every partial sum
fits 53 bits: no order rounds anything, and BLAS gives the canonical bits, proven, not hoped.
`similarities` uses it then, and loops otherwise.
"""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.ranking import TopK
from m2kr.search.store.reader import block_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

EMPTY = -9999.0
# float16's smallest step is 2**-24, so products are multiples of 2**-48; 2**53 of them make 32.
EXACT_BELOW = 32.0
_BLOCK_TOKENS = 4096


def similarities(
    query: "NDArray[np.floating]", tokens: "NDArray[np.floating]", dtype: "np.typing.DTypeLike"
) -> "NDArray[np.float64]":
    """Dot products of every query row with every token, (rows x tokens) in float64.

    Args:
        query: (rows x dim), rounded to ``dtype`` already.
        tokens: (tokens x dim), rounded to ``dtype`` already.
        dtype: The stored type; for float16 products may be exact in any order.
    """
    left, right = query.astype(np.float64), tokens.astype(np.float64)
    if np.dtype(dtype) == np.float16 and _longest(left) * _longest(right) < EXACT_BELOW:
        return left @ right.T
    total = np.zeros((len(left), len(right)))
    term = np.empty_like(total)
    for a, b in zip(left.T, right.T, strict=True):
        np.multiply(a[:, None], b[None, :], out=term)
        total += term
    return total


def _longest(rows: "NDArray[np.float64]") -> float:
    # Cauchy-Schwarz bounds the sum of the products' sizes, hence every partial sum.
    return float(np.sqrt((rows * rows).sum(1).max(initial=0.0))) * (1 + 1e-9)


def maxsim(
    query: "NDArray[np.floating]",
    document: "NDArray[np.floating]",
    dtype: "np.typing.DTypeLike" = np.float16,
) -> float:
    """The canonical score of one query with one document, both (tokens x dim)."""
    offsets = np.array([0, len(document)])
    return float(maxsim_many(query, document, offsets, dtype)[0])


def maxsim_many(
    query: "NDArray[np.floating]",
    tokens: "NDArray[np.floating]",
    offsets: "NDArray[np.int64]",
    dtype: "np.typing.DTypeLike" = np.float16,
) -> "NDArray[np.float64]":
    """The canonical scores of one query with many documents.

    Args:
        query: (tokens x dim).
        tokens: (all tokens x dim), document after document.
        offsets: Document i owns ``tokens[offsets[i]:offsets[i + 1]]``; one entry more than documents.
        dtype: The stored type that both sides are rounded to.

    Returns:
        Float64 scores, one a document.
    """
    rows = _real(query.astype(dtype))
    base = int(offsets[0])
    stored = np.asarray(tokens[base : int(offsets[-1])]).astype(dtype)
    real = stored.any(axis=1)
    kept = np.concatenate([[0], np.cumsum(real)])
    starts = kept[np.asarray(offsets) - base]
    filled = np.diff(starts) > 0
    scores = np.full(len(offsets) - 1, EMPTY * len(rows))
    if filled.any() and len(rows):
        # Documents without tokens drop out of reduceat, which gives nonsense for empty spans.
        table = similarities(rows, stored[real], dtype)
        best = np.maximum.reduceat(table, starts[:-1][filled], axis=1)
        total = np.zeros(best.shape[1])
        for row in best:
            total += row
        scores[filled] = total
    return scores + 0.0


def _real(rows: "NDArray[np.floating]") -> "NDArray[np.floating]":
    return rows[rows.any(axis=1)]


def search_by_reference(
    queries: "Sequence[NDArray[np.floating]]",
    tokens: "NDArray[np.floating]",
    offsets: "NDArray[np.int64]",
    k: int,
    ranks: "NDArray[np.int64]",
) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
    """The exact best ``k`` documents of every query, with canonical scores.

    Args:
        queries: One (tokens x dim) matrix a query; lengths may differ.
        tokens: (all tokens x dim), possibly memory-mapped; read block by block, once.
        offsets: Where each document's tokens begin, and one end more.
        k: Documents per query.
        ranks: Per document the rank of its id (`ranking.id_ranks`), which breaks ties.

    Returns:
        Document numbers and float64 scores, both (queries x min(k, distinct ids)), best first.
    """
    best = TopK(len(queries), ranks, k)
    for first, last in block_spans(offsets, _BLOCK_TOKENS):
        span = offsets[first : last + 1]
        part = np.asarray(tokens[int(span[0]) : int(span[-1])])
        for number, query in enumerate(queries):
            scores = maxsim_many(query, part, span - span[0])
            best.push_block(scores[None, :], first, number)
    return best.result()
