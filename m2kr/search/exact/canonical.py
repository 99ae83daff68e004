"""The canonical scores of chosen passages of a block, faster than `reference` and to the same bits.

`reference` defines the score. Where |q| |d| < 32 for every row q of the query and token d, its dot
products are the same in every order of summation (its text says why), so float64 BLAS gives them;
maxima round nothing; the sum over rows is done in its order. What doesn't meet the condition, or
contains a masked (all-zero) token, goes to `reference` itself.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import InputError
from m2kr.search.exact import reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from m2kr.search.store.reader import Block

_TOKENS = 4096  # multiplied at a time: 4 MB in float64 at 128 dimensions


@dataclass(frozen=True, slots=True)
class RoundedQuery:
    """A query as the canonical scorer sees it.

    Attributes:
        rows: (rows x dim) float16, no zero rows.
        longest: Euclidean length of its longest row, or slightly more.
    """

    rows: "NDArray[np.float16]"
    longest: float


def rounded_queries(queries: "Sequence[NDArray[np.floating]]", dim: int) -> list[RoundedQuery]:
    """Queries rounded to float16, without their zero rows.

    Raises:
        InputError: one isn't (rows x ``dim``), or has a value that is NaN or too big for float16.
    """
    found = []
    for number, query in enumerate(queries):
        if query.ndim != 2 or query.shape[1] != dim:
            raise InputError(
                f"a query has shape {query.shape}",
                where=f"query {number}",
                expected=f"(rows, {dim}), as the passages",
            )
        with np.errstate(over="ignore"):
            rows = query.astype(np.float16)
        if not np.isfinite(rows).all():
            raise InputError(
                "a value is NaN, infinite or too big for float16", where=f"query {number}"
            )
        rows = np.ascontiguousarray(rows[rows.any(axis=1)])
        squares = (rows.astype(np.float64) ** 2).sum(1)
        found.append(RoundedQuery(rows, float(np.sqrt(squares.max(initial=0.0))) * (1 + 1e-9)))
    return found


def order_free(
    query: RoundedQuery,
    lengths: "NDArray[np.int64]",
    longest: "NDArray[np.float32]",
    shortest: "NDArray[np.float32]",
) -> "NDArray[np.bool_]":
    """Of which passages any order of summation gives the canonical score.

    Args:
        query: With one row at least.
        lengths: Tokens of each passage.
        longest: The length of its longest token, or slightly more.
        shortest: And of its shortest one, 0 if and only if one is all zeros.
    """
    fast = (shortest > 0) & (lengths > 0)
    fast &= longest.astype(np.float64) * query.longest < reference.EXACT_BELOW
    return fast


def canonical_scores(
    query: RoundedQuery,
    block: "Block",
    numbers: "NDArray[np.int64]",
    longest: "NDArray[np.float32]",
    shortest: "NDArray[np.float32]",
) -> "NDArray[np.float64]":
    """Canonical scores of some passages of a block.

    Args:
        query: With one row at least.
        block: The passages' tokens.
        numbers: Which passages, counted from the block's first.
        longest: Per passage of the block the length of its longest token, or slightly more.
        shortest: Likewise of its shortest token, 0 if and only if one is all zeros.
    """
    lengths = np.diff(block.offsets)[numbers]
    fast = order_free(query, lengths, longest[numbers], shortest[numbers])
    found = np.empty(len(numbers))
    found[fast] = _scores_by_blas(query, block, numbers[fast])
    for place in np.flatnonzero(~fast):
        start, end = block.offsets[numbers[place] : numbers[place] + 2]
        found[place] = reference.maxsim(query.rows, block.tokens[start:end])
    return found + 0.0


def _scores_by_blas(
    query: RoundedQuery, block: "Block", numbers: "NDArray[np.int64]"
) -> "NDArray[np.float64]":
    """By BLAS, which may sum as it likes."""
    import torch

    lengths = np.diff(block.offsets)[numbers]
    flat = torch.from_numpy(block.tokens)
    right = torch.from_numpy(query.rows.astype(np.float64).T.copy())
    best = np.empty((len(query.rows), len(numbers)))
    for part, longest in by_length(lengths, _TOKENS):
        starts = block.offsets[numbers[part]]
        tokens = gather_rows(flat, starts, lengths[part], longest).float().double()
        products = torch.mm(tokens, right)
        best[:, part] = products.view(len(part), longest, -1).amax(1).numpy().T
    total = np.zeros(len(numbers))
    for row in best:
        total += row
    return total


def by_length(
    lengths: "NDArray[np.int64]", tokens: int
) -> "Iterator[tuple[NDArray[np.int64], int]]":
    """Groups passages of similar length: (their places, the longest length), shortest first.

    A group has at most ``tokens`` when each passage counts as the longest (or is one passage), and
    none that is more than a quarter longer than another. Passages without tokens are left out.
    """
    order = np.argsort(lengths, kind="stable")
    order = order[np.searchsorted(lengths[order], 1) :]
    ordered = lengths[order]
    start = 0
    while start < len(order):
        similar = ordered[start : np.searchsorted(ordered, ordered[start] * 5 // 4, side="right")]
        sizes = similar * np.arange(1, len(similar) + 1)
        count = max(1, int(np.searchsorted(sizes, tokens, side="right")))
        yield order[start : start + count], int(similar[count - 1])
        start += count


def gather_rows(
    flat: "torch.Tensor",
    starts: "NDArray[np.int64]",
    lengths: "NDArray[np.int64]",
    longest: int,
    step: int = 1,
) -> "torch.Tensor":
    """Copies runs of rows of a matrix, (runs * longest x dim), and on to a multiple of ``step`` rows.

    A shorter run's last row is repeated, which changes no maximum.
    """
    import torch

    steps = np.minimum(np.arange(longest), lengths[:, None] - 1)
    rows = (starts[:, None] + steps).reshape(-1)
    rows = np.pad(rows, (0, -len(rows) % step), mode="edge")
    return flat.index_select(0, torch.from_numpy(rows).to(flat.device))
