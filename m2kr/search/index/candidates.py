"""How a compressed search narrows a pool, before its scorer decides: two steps.

1. `probe_shard`: every query row looks up the passages of its best centroids in the inverted lists. A
   passage's score is the sum over the rows of the best centroid found in it; a row that found none
   counts as the worst centroid looked up. All rows of the query take part, not the first 32.
2. `refine`: the sum over the rows of the best of the passage's rebuilt tokens, in the machine's
   fastest type.

Between them others compare the centroids of all a passage's tokens. Where enough centroids are
looked up, that chooses no better than step 1 did, and it isn't done here.

Scores of the steps only choose who goes on. Products of queries and centroids are rounded to 8
bits once (`centroid_scores`): looking up and comparing bytes is what makes step 1 cheap.
Ties go to the smaller passage number, so that what comes out does not depend on the shards.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from m2kr.search.index.codec import unpack_steps
from m2kr.search.index.ivf import positions_of, span_offsets, tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from m2kr.search.index.codec import ScaledCodec
    from m2kr.search.index.ivf import InvertedLists

_TILE_CENTROIDS = 4096
_TILE_TOKENS = 8192  # calls cost more than the cache gives: twice as fast as 2048
_SEEN = 2048  # centroids that tell how many scores reach a value
_LEVELS = 127
_NOTHING = -128
_WIDTH = 128
_ROWS = 256


@dataclass(frozen=True, slots=True)
class QueryScores:
    """A query and its products with all centroids, scaled so that these fill 8 bits.

    Attributes:
        centroids: (centroids x dim), in the type that products are fast in.
        rows: (dim x width), in that type; columns beyond the query's rows are 0.
        coarse: (centroids x width) int8, the products cut to whole numbers; -128 beyond the query's
            rows.
        highest: (centroids) int8, the largest of each one's products.
        count: Rows of the query. The width is a multiple of 128: maxima over whole vector
            registers are ten times faster.
    """

    centroids: "torch.Tensor"
    rows: "torch.Tensor"
    coarse: "torch.Tensor"
    highest: "torch.Tensor"
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class PackedTokens:
    """Some passages' tokens as an index holds them.

    Attributes:
        codes: int64, centroids.
        packed: (tokens x bytes) uint8, packed steps.
        sizes: float16, step sizes.
        offsets: Passage i owns the tokens ``offsets[i]:offsets[i + 1]``.
    """

    codes: "NDArray[np.int64]"
    packed: "NDArray[np.uint8]"
    sizes: "NDArray[np.float16]"
    offsets: "NDArray[np.int64]"

    def take(self, places: "NDArray[np.int64]") -> "PackedTokens":
        """Some of the passages, in the order given."""
        which = positions_of(self.offsets, places)
        offsets = span_offsets(self.offsets[places + 1] - self.offsets[places])
        return PackedTokens(self.codes[which], self.packed[which], self.sizes[which], offsets)


@dataclass(frozen=True, slots=True)
class ProbedCentroids:
    """The (row, centroid) pairs that are looked up, worst first.

    Attributes:
        rows: Query rows.
        centroids: Their centroids.
        gains: uint8, score above the worst pair's, plus 1.
        row_count: Rows of the query.
    """

    rows: "NDArray[np.int64]"
    centroids: "NDArray[np.int64]"
    gains: "NDArray[np.uint8]"
    row_count: int


def centroid_scores(
    centroids: "torch.Tensor", longest: float, rows: "NDArray[np.float16]"
) -> QueryScores:
    """Multiplies a query with all centroids.

    Args:
        centroids: (centroids x dim), in the type that products are fast in.
        longest: Length of the longest centroid.
        rows: (rows x dim), the query.
    """
    import torch

    count = len(rows)
    right = torch.zeros((centroids.shape[1], -(-count // _WIDTH) * _WIDTH))
    right[:, :count] = torch.from_numpy(rows.astype(np.float32)).T
    largest = longest * float(right.norm(dim=0).max())
    # Scaling the few rows, not the many products, which must not lead beyond int8.
    right = (right * (0.98 * _LEVELS / max(largest, 1e-12))).to(centroids.dtype)
    coarse = torch.empty((len(centroids), right.shape[1]), dtype=torch.int8)
    highest = torch.empty(len(centroids), dtype=torch.int8)
    room = torch.empty((_TILE_CENTROIDS, right.shape[1]), dtype=centroids.dtype)
    for first in range(0, len(centroids), _TILE_CENTROIDS):
        part = centroids[first : first + _TILE_CENTROIDS]
        products = torch.mm(part, right, out=room[: len(part)])
        # Cutting, as a cast does, takes half the time of rounding, and chooses as well.
        into = coarse[first : first + _TILE_CENTROIDS]
        into.copy_(products)[:, count:] = _NOTHING
        torch.amax(into, 1, out=highest[first : first + _TILE_CENTROIDS])
    return QueryScores(centroids, right, coarse, highest, count)


def probed_centroids(query: QueryScores, probes: int) -> ProbedCentroids:
    """The best pairs of row and centroid, about ``probes`` a row on average.

    All rows share one threshold: a row with many good centroids looks up more than one with few.
    """
    flat = query.coarse.numpy()
    seen = flat[:: max(1, len(flat) // _SEEN)]
    values = seen.reshape(-1).view(np.uint8) ^ np.uint8(0x80)  # from -128 as 0 to 127 as 255
    reaching = np.cumsum(np.bincount(values, minlength=256)[::-1])[::-1]
    enough = np.flatnonzero(reaching * (len(flat) / len(seen)) <= probes * query.count)
    # At least the best of those seen, however many share its score.
    threshold = min(int(enough[0]) if len(enough) else 255, int(values.max())) - 128
    threshold = max(threshold, _NOTHING + 1)
    able = np.flatnonzero(query.highest.numpy() >= threshold)
    near = flat[able]
    pairs = np.flatnonzero(near >= threshold)
    gains = (near.reshape(-1)[pairs].astype(np.int16) - (threshold - 1)).astype(np.uint8)
    order = np.argsort(gains, kind="stable")
    places, rows = np.divmod(pairs[order], near.shape[1])
    return ProbedCentroids(rows, able[places], gains[order], query.count)


def probe_shard(
    chosen: ProbedCentroids, lists: "InvertedLists", passages: int
) -> "NDArray[np.int32]":
    """Step 1 for one shard: each passage's score, (passages) int32."""
    places = positions_of(lists.offsets, chosen.centroids)
    lengths = lists.offsets[chosen.centroids + 1] - lists.offsets[chosen.centroids]
    best = np.zeros(chosen.row_count * passages, np.uint8)
    at = np.repeat(chosen.rows * passages, lengths)
    at += lists.documents[places]
    # Of several values for one place numpy keeps the last, and the best come last.
    best[at] = np.repeat(chosen.gains, lengths)
    summed: NDArray[np.int32] = np.add.reduce(best.reshape(-1, passages), axis=0, dtype=np.int32)
    return summed


def refine(query: QueryScores, tokens: PackedTokens, codec: "ScaledCodec") -> "NDArray[np.float32]":
    """Step 2: each passage's score; -inf for one without tokens.

    Tokens are rebuilt in the type that products are fast in, tile by tile.
    """
    import torch

    codes, packed = torch.from_numpy(tokens.codes), torch.from_numpy(tokens.packed)
    sizes = torch.from_numpy(tokens.sizes).to(query.rows.dtype)[:, None]
    # Memory that is used again, tile after tile, stays in the cache and needs no clearing.
    longest, width = int(np.diff(tokens.offsets).max(initial=0)), query.rows.shape[1]
    room = -(-max(_TILE_TOKENS, longest) // _ROWS) * _ROWS
    bytes_ = packed.new_empty((room, packed.shape[1]))
    steps, rebuilt = (query.rows.new_empty((room, codec.dim)) for _ in range(2))
    products = query.rows.new_empty((room, width))
    scores = np.full(len(tokens.offsets) - 1, -np.inf, np.float32)
    for passages, places in tiles(np.arange(len(scores)), tokens.offsets, _TILE_TOKENS):
        # The library prepares, and remembers, code for each shape of product: keep them few.
        rows = -(-len(places) // _ROWS) * _ROWS
        which = torch.from_numpy(np.resize(places, rows))
        taken = torch.index_select(packed, 0, which, out=bytes_[:rows])
        offsets = unpack_steps(taken, codec.nbits, steps[:rows])
        offsets -= codec.middle
        near = codes.index_select(0, which)
        part = torch.index_select(query.centroids, 0, near, out=rebuilt[:rows])
        part.addcmul_(offsets, sizes.index_select(0, which))
        multiplied = torch.mm(part, query.rows, out=products[:rows])
        maxima = _highest(multiplied[: len(places)].view(len(passages), -1, width))
        scores[passages] = maxima.float().sum(1).numpy()
    return scores


def _highest(products: "torch.Tensor") -> "torch.Tensor":
    """Maxima over the tokens (axis 1); bfloat16 as integers, many times faster.

    Where no product of a row is positive, that gives the least of them. It takes 0 instead.
    """
    import torch

    if products.dtype != torch.bfloat16:
        return products.amax(1)
    return products.view(torch.int16).amax(1).clamp_(min=0).view(torch.bfloat16)


def best_places(
    scores: "NDArray[np.integer] | NDArray[np.floating]",
    ranks: "NDArray[np.int64]",
    count: int,
) -> "NDArray[np.int64]":
    """Places of the ``count`` highest scores, best first; of equals those of the smaller ranks."""
    places = np.arange(len(scores))
    if len(scores) > 4 * count:
        # Sorting is for few: drop what is below the count-th score first.
        floor = np.partition(scores, len(scores) - count)[len(scores) - count]
        places = np.flatnonzero(scores >= floor)
    return places[np.lexsort((ranks[places], -scores[places]))[:count]]


def probe_all(
    chosen: ProbedCentroids,
    shards: "Sequence[tuple[InvertedLists, int]]",
    ranks: "NDArray[np.int64]",
    count: int,
) -> "NDArray[np.int64]":
    """Step 1 over all shards: the best ``count`` passages, numbered through.

    Args:
        chosen: From `probed_centroids`.
        shards: Each one's lists, and its number of passages.
        ranks: Per passage the rank of its id, which breaks ties: not its number, so that a cut doesn't
            depend on the order of rows.
        count: How many to keep.
    """
    scores = np.concatenate([probe_shard(chosen, lists, passages) for lists, passages in shards])
    return best_places(scores, ranks, count)
