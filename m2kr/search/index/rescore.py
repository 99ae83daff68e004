"""Canonical scores of the few passages that a narrowed search ends with.

To the bits of `reference`, as `canonical` is, but tiled for passages of many different lengths.
"""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.search.exact import reference
from m2kr.search.index.ivf import tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.search.exact.canonical import Query
    from m2kr.search.store.reader import Block

# `reference`: below it, float64 dot products of float16 vectors are the same in any order.
_EXACT_BELOW = 32.0
_TILE_TOKENS = 2048


def scores(query: "Query", block: "Block") -> "NDArray[np.float64]":
    """Canonical scores of all passages of a block, given a query with a row at least."""
    import torch

    tokens = torch.from_numpy(block.tokens).float()
    lengths = tokens.norm(dim=1)
    longest = float(lengths.max()) * 1.0001 if len(lengths) else 0.0
    if longest * query.longest >= _EXACT_BELOW or bool((lengths == 0).any()):
        return reference.maxsim_many(query.rows, block.tokens, block.offsets)
    right = torch.from_numpy(query.rows.astype(np.float64)).T.contiguous()
    found = np.full(len(block), reference.EMPTY * len(query.rows))
    for places, positions in tiles(np.arange(len(block)), block.offsets, _TILE_TOKENS):
        part = tokens.index_select(0, torch.from_numpy(positions)).double()
        best = torch.mm(part, right).view(len(places), -1, len(query.rows)).amax(1)
        total = torch.zeros(len(places), dtype=torch.float64)
        for column in best.T.contiguous():  # maxima are added over the rows first to last
            total += column
        found[places] = total.numpy()
    return found + 0.0
