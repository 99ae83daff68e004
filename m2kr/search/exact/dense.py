"""Exact dense search: the answer depends on the vectors alone, not on blocks, threads or BLAS.

Block products run in float32 and only discard: whatever could still be among the best ``k`` is
scored again by `pair_scores`, in float64 and in one fixed order, and that score decides.

The margin: in any order of summation, a float32 product of two vectors of dimension d is off by at
most g·|q|·|p|, where g = d·u / (1 - d·u) and u = 2**-24 (Higham, Accuracy and Stability of Numerical
Algorithms, section 3.1). Rounding the inputs to float32 (and normalising them, for cosine) costs less than
8 u more, the float64 score next to nothing, and underflow (some BLAS flush what is below 2**-126 to
zero) at most 2**-125 a step, times an input's size.
"""

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from m2kr.errors import InputError, UsageError
from m2kr.ranking import TopK
from m2kr.search.store.dense import CHUNK
from m2kr.search.store.mapped import read_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.search.store.dense import Embeddings

_UNIT = 2.0**-24
_TINY = 2.0**-125
_PAIRS = 512  # pairs scored at a time: what stays in the processor's cache
_LONGEST = 1e18  # squared, still below float32's 3.4e38: no partial sum overflows


def _fold_sum(terms: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Sums the last axis by adding its second half onto its first until one is left.

    Every step is elementwise, so a row's sum depends on nothing but the row: not on its position,
    its neighbours or the machine. ``terms`` is overwritten.
    """
    width = terms.shape[-1]
    if not width:
        return np.zeros(terms.shape[:-1])
    while width > 1:
        half = (width + 1) // 2
        terms[..., : width - half] += terms[..., half:width]
        width = half
    return terms[..., 0]


def pair_scores(
    queries: "NDArray[np.floating]", passages: "NDArray[np.floating]"
) -> "NDArray[np.float64]":
    """The canonical inner product of each row of ``queries`` with the same row of ``passages``."""
    scores = np.empty(len(queries))
    for start in range(0, len(queries), _PAIRS):
        part = slice(start, start + _PAIRS)
        scores[part] = _fold_sum(np.multiply(queries[part], passages[part], dtype=np.float64))
    return scores + 0.0  # -0.0 becomes 0.0


def similarity_scores(
    queries: "NDArray[np.floating]",
    passages: "NDArray[np.floating]",
    similarity: Literal["dot", "cosine"],
) -> "NDArray[np.float64]":
    """`pair_scores`, or the cosine by them; a zero vector scores 0."""
    scores = pair_scores(queries, passages)
    if similarity == "cosine":
        sizes = lengths(queries), lengths(passages)
        scores /= np.where(sizes[0] > 0, sizes[0], 1.0) * np.where(sizes[1] > 0, sizes[1], 1.0)
    return scores


def lengths(vectors: "NDArray[np.floating]") -> "NDArray[np.float64]":
    """The canonical Euclidean length of each row; cosine is the inner product over two of these."""
    return np.sqrt(pair_scores(vectors, vectors))


def search_dense(
    queries: "NDArray[np.floating]",
    passages: "NDArray[np.floating] | Embeddings",
    k: int,
    ranks: "NDArray[np.int64]",
    *,
    similarity: Literal["dot", "cosine"] = "dot",
    memory: int = 512 << 20,
) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
    """The exact best ``k`` passages of every query, with canonical scores.

    Args:
        queries: (queries x dim) float16 or float32, possibly memory-mapped.
        passages: (rows x dim) float16 or float32, possibly memory-mapped; read once, in order. Or
            embeddings on disk, checked as they are read.
        k: Passages per query.
        ranks: Per passage the rank of its id (`ranking.id_ranks`), which breaks ties.
        similarity: Inner product (``dot``) or ``cosine``.
        memory: Bytes for the blocks in work; results come on top (at most 32 bytes x queries x k).

    Returns:
        Rows of ``passages`` and float64 scores, both (queries x min(k, distinct ids)), best first.

    Raises:
        InputError: a vector is NaN, infinite or longer than 1e18 (float32 products would overflow), or
            the dims differ.
        CheckError: bytes of embeddings differ from their checksum.
    """
    if similarity not in ("dot", "cosine"):
        raise UsageError(f"there is no similarity '{similarity}'", expected="dot or cosine")
    if len(queries) and len(passages) and queries.shape[1:] != passages.shape[1:]:
        raise InputError(
            f"query vectors have {queries.shape[1]} dimensions, passage vectors {passages.shape[1]}",
            expected="the same on both sides",
        )
    sizes = _checked_lengths(queries, "a query vector")
    live = np.flatnonzero(sizes > 0)
    best = TopK(len(live), ranks, k)
    dim = passages.shape[1] if len(passages.shape) == 2 else 0
    read = partial(read_rows, passages) if isinstance(passages, np.ndarray) else passages.read
    block, step = _blocks(dim, memory)
    chunk = max(1, memory // 8 // (16 * max(1, dim)))
    for first_row in range(0, len(passages), block):
        rows = read(first_row, min(first_row + block, len(passages)))
        spans = _checked_lengths(rows, f"a passage vector from row {first_row} on")
        right = _prepare(rows, spans, similarity)
        for first_query in range(0, len(live), step):
            places = live[first_query : first_query + step]
            left = _prepare(queries[places], sizes[places], similarity)
            margin = _margin(dim, sizes[places], float(spans.max(initial=0.0)), similarity)
            at, columns = _survivors(left @ right.T, margin, best, first_row, first_query)
            for start in range(0, len(at), chunk):
                q, c = at[start : start + chunk], columns[start : start + chunk]
                scores = pair_scores(queries[places[q]], rows[c])
                if similarity == "cosine":
                    # A zero passage scores 0: its products are all zero.
                    scores /= sizes[places[q]] * np.where(spans[c] > 0, spans[c], 1.0)
                best.push(q + first_query, c + first_row, scores)
    found, scores = best.result()
    # A zero vector scores 0 with everything: the tie rule alone ranks the pool.
    _, first = np.unique(ranks, return_index=True)
    all_rows = np.tile(first[: found.shape[1]], (len(queries), 1))
    all_scores = np.zeros(all_rows.shape)
    all_rows[live], all_scores[live] = found, scores
    return all_rows, all_scores


def _blocks(dim: int, memory: int) -> tuple[int, int]:
    """Passages and queries per block: vectors take a quarter of the memory, their scores a half."""
    block = min(max(1, memory // 4 // (8 * dim + 32)), 32768)
    # Whole units of what is checked as it is read.
    block -= block % CHUNK if block > CHUNK else 0
    return block, max(1, memory // 2 // (26 * block))


def _checked_lengths(vectors: "NDArray[np.floating]", what: str) -> "NDArray[np.float64]":
    with np.errstate(over="ignore", invalid="ignore"):
        found = lengths(vectors)
    if not (found < _LONGEST).all():
        raise InputError(
            f"{what} is NaN, infinite or longer than {_LONGEST:g}", expected="finite, sane vectors"
        )
    return found


def _prepare(
    vectors: "NDArray[np.floating]", spans: "NDArray[np.float64]", similarity: str
) -> "NDArray[np.float32]":
    """Float32 copies for the rough products; of unit length for cosine (zeros stay zeros)."""
    rough = np.array(vectors, np.float32, order="C")
    if similarity == "cosine":
        scale = np.where(spans > 0, spans, 1.0)
        rough /= scale[:, None].astype(np.float32)
    return rough


def _margin(
    dim: int, sizes: "NDArray[np.float64]", longest: float, similarity: str
) -> "NDArray[np.float64]":
    """Per query how far a rough score can be from the canonical one (see the module's text)."""
    if similarity == "cosine":
        sizes, longest = np.ones(len(sizes)), 1.0
    steps = dim + 8
    relative = 1.01 * steps * _UNIT / (1 - steps * _UNIT)
    return relative * longest * sizes + steps * _TINY * (1 + longest + sizes)


def _survivors(
    rough: "NDArray[np.float32]",
    margin: "NDArray[np.float64]",
    best: TopK,
    first_row: int,
    first_query: int,
) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Pairs of a block (query, column) that the rough scores can't rule out.

    A pair's canonical score is within one margin of its rough one. So what can still get in is at
    most one margin below the known floor, and at most two below the block's own rough floor.
    """
    floor = best.floor[first_query : first_query + len(rough)] - margin
    crowded = np.isneginf(floor)
    if not crowded.all():
        # In later blocks the known floor lets little through; only where it doesn't, sort the block.
        crowded |= (rough >= _below(floor)[:, None]).sum(1) > 4 * best.k
    if crowded.any():
        own = best.block_floor(rough[crowded], first_row).astype(np.float64)
        floor[crowded] = np.maximum(floor[crowded], own - 2 * margin[crowded])
    at, columns = np.nonzero(rough >= _below(floor)[:, None])
    return at, columns


def _below(floor: "NDArray[np.float64]") -> "NDArray[np.float32]":
    """Float32 values not above the given ones, so that comparing needs no float64 copy."""
    rounded = floor.astype(np.float32)
    high = rounded.astype(np.float64) > floor
    rounded[high] = np.nextafter(rounded[high], np.float32(-np.inf))
    return rounded
