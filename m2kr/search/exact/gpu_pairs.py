"""Canonical scores of many (query, passage) pairs at once, on the device that holds their vectors.

`reference` says why float64 products of float16 vectors round nothing while |q| |d| < 32, whatever adds
them up and in whatever order; maxima round nothing either. The sum over a query's rows does, and is
taken first row to last. Rows of zeros behind them add 0, which changes no bit.

That holds of float64 products, and libraries may have something else for them one day; so `works` tries
a device's before they are used.
"""

import logging
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from m2kr.search.exact import gpu_fused

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray

logger = logging.getLogger("m2kr.search")

_EXACT_BELOW = 32.0
_BYTES = {"cpu": 8 << 20, "cuda": 64 << 20}  # for vectors and products in float64


@cache
def works(device: str) -> bool:
    """Whether float64 products of float16 vectors there are exact; tried once a process."""
    import torch

    random = np.random.default_rng(5)
    # The products of a pair reach from 2**-48 to 16, and cancel.
    left, right = (
        (random.normal(size=shape) * 0.35 * 2.0 ** -random.integers(0, 20, shape)).astype(
            np.float16
        )
        for shape in ((2, 40, 128), (2, 128, 24))
    )
    left[0, :, ::2], left[0, :, 1::2] = 0.35, -0.35
    right[0, :, 3] = right[1, :, 3] = 0.3501
    left[:, 0, 0] = right[:, 0, 0] = 4.0
    whole = [
        (one.astype(np.float64) * 2**24).astype(np.int64).astype(object) for one in (left, right)
    ]
    exact = np.matmul(*whole).astype(np.float64) * 2.0**-48
    on_device = [torch.from_numpy(one).to(device).double() for one in (left, right)]
    found = np.array_equal(torch.bmm(*on_device).cpu().numpy(), exact)
    if not found:
        logger.warning(
            "float64 products on %s aren't exact; canonical scores come from the CPU", device
        )
    return found


def fit(longest: "NDArray[np.float32]", of_query: "NDArray[np.float64]") -> "NDArray[np.bool_]":
    """Whether the products of pairs round nothing, by the lengths of their longest vectors."""
    return longest.astype(np.float64) * of_query < _EXACT_BELOW


def scores(
    rows: "torch.Tensor",
    tokens: "torch.Tensor",
    starts: "torch.Tensor",
    lengths: "torch.Tensor",
    sizes: "NDArray[np.int64]",
    queries: "NDArray[np.int64]",
    passages: "NDArray[np.int64]",
) -> "NDArray[np.float64]":
    """Canonical scores, in the order of the pairs.

    Args:
        rows: (queries x rows x dim) float16, a shorter query filled up with zero rows.
        tokens: (tokens x dim) float16.
        starts: (passages) int64, where each one's tokens begin.
        lengths: (passages) int32, how many there are, 1 or more.
        sizes: The same on the host.
        queries: Of each pair the query; it and the passage `fit`, and no token is all zeros.
        passages: And the passage.
    """
    # Maxima wait to be added together, for all pairs that a quarter of the memory holds.
    most = max(1, _BYTES[tokens.device.type] // (4 * 8 * rows.shape[1]))
    cuts = range(0, len(queries), most)
    found = [
        _scores(
            rows, tokens, starts, lengths, sizes, queries[at : at + most], passages[at : at + most]
        )
        for at in cuts
    ]
    return np.concatenate([np.zeros(0), *found]) + 0.0


def _scores(
    rows: "torch.Tensor",
    tokens: "torch.Tensor",
    starts: "torch.Tensor",
    lengths: "torch.Tensor",
    sizes: "NDArray[np.int64]",
    queries: "NDArray[np.int64]",
    passages: "NDArray[np.int64]",
) -> "NDArray[np.float64]":
    import torch

    device, (_, width, dim) = tokens.device, rows.shape
    order = np.argsort(sizes[passages], kind="stable")
    query = torch.from_numpy(queries[order]).to(device)
    passage = torch.from_numpy(passages[order]).to(device)
    best = torch.empty((width, len(order)), dtype=torch.float64, device=device)
    for first, last, longest in _chunks(sizes[passages[order]], width, dim, device.type):
        some = passage[first:last]
        left = tokens[token_rows(starts[some], lengths[some], longest)].double()
        right = rows[query[first:last]].double()
        best[:, first:last] = torch.bmm(left, right.transpose(1, 2)).amax(1).T
    found = np.empty(len(order))
    found[order] = in_order(best).cpu().numpy()
    return found


def token_rows(starts: "torch.Tensor", lengths: "torch.Tensor", longest: int) -> "torch.Tensor":
    """Where passages' tokens lie, (passages x longest) int64; a shorter one's last token repeats."""
    import torch

    steps = torch.arange(longest, device=starts.device)
    return starts[:, None] + torch.minimum(steps, lengths[:, None].long() - 1)


def in_order(values: "torch.Tensor") -> "torch.Tensor":
    """Sums of a float64 matrix over its rows, first to last."""
    if values.is_cuda and gpu_fused.works(str(values.device)):
        return gpu_fused.add_in_order(values)
    total = values.new_zeros(values.shape[1])
    for row in values:
        total += row
    return total


def _chunks(
    sizes: "NDArray[np.int64]", rows: int, dim: int, kind: str
) -> "Iterator[tuple[int, int, int]]":
    """Spans of ascending sizes, and the last size of each, that fit the memory in float64."""
    # A pair's own vectors, and what they are multiplied to.
    costs = 8 * (sizes * (dim + rows) + rows * dim)
    first = 0
    while first < len(sizes):
        fitting = costs[first:] * np.arange(1, len(sizes) - first + 1) <= _BYTES[kind]
        count = max(1, int(np.searchsorted(~fitting, True)))
        yield first, first + count, int(sizes[first + count - 1])
        first += count
