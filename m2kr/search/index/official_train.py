"""An index trained the official way; `official` searches it.

The official indexer draws its sample unseeded, so its scores move a little between builds; here a
seed decides, and a reproduction reports mean and range over three.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.progress import Progress
from m2kr.search.index import kmeans
from m2kr.search.index.codec import OfficialCodec
from m2kr.search.index.format import CENTROIDS, CUTOFFS, WEIGHTS
from m2kr.search.index.settings import (
    MOST_SAMPLED,
    BuildSettings,
    Pool,
    drawing_order,
    read_passages,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


ITERATIONS = 20
NBITS = 8
_HELD_OUT, _MOST_HELD_OUT = 0.05, 50_000  # share of the sample, tokens


def official_build_settings(
    seed: int = 0, nbits: int = NBITS, centroids: int | None = None
) -> BuildSettings:
    """How the published protocol builds its index: 8 bits, 20 iterations of k-means."""
    # Official k-means always runs to its last iteration.
    training = kmeans.Training(seed=seed, iterations=ITERATIONS, tolerance=-1.0)
    return BuildSettings("official", nbits, centroids, training)


def official_centroid_count(tokens: int) -> int:
    """Centroids for a pool: the power of two at or below 16 times the root of its tokens."""
    return 1 << max(0, int(np.floor(np.log2(16 * np.sqrt(max(1, tokens))))))


def train_official(
    pool: Pool, settings: BuildSettings, progress: Progress
) -> "tuple[dict[str, NDArray[Any]], dict[str, Any]]":
    """The codec's arrays by file name, and what is to be recorded of the training.

    As in the official code: 16 √(120 n) of n passages are sampled (here at most
    `settings.MOST_SAMPLED` tokens); a twentieth of their tokens is held out; centroids come from
    k-means of the rest, are scaled to length 1 and rounded to float16; bucket cutoffs and weights
    are quantiles of the held-out residuals.
    """
    source, seed = pool.source, settings.training.seed
    random = np.random.default_rng(seed)
    passages = len(pool)
    drawn = drawing_order(pool.ids, seed)[: 1 + int(16 * np.sqrt(120 * passages))]
    sums = np.cumsum(source.offsets[drawn + 1] - source.offsets[drawn])
    drawn = drawn[: int(np.searchsorted(sums, MOST_SAMPLED)) + 1]
    tokens = read_passages(source, drawn)
    tokens = tokens[random.permutation(len(tokens))]
    held = min(_MOST_HELD_OUT, int(_HELD_OUT * len(tokens)))
    count = settings.centroids or official_centroid_count(int(source.offsets[-1]))
    kept = tokens[held:]
    found = kmeans.train_centroids(kept, min(count, len(kept)), settings.training, progress)
    norms = np.sqrt((found * found).sum(1))
    stored = (found / np.maximum(norms, np.float32(1e-12))[:, None]).astype("<f2")
    cutoffs, weights, average = _buckets(tokens[:held] if held else tokens, stored, settings.nbits)
    arrays = {CENTROIDS: stored, CUTOFFS: cutoffs, WEIGHTS: weights}
    return arrays, {"sample_tokens": len(tokens), "held_out": held, "avg_residual": average}


def _buckets(
    held_out: "NDArray[np.float16]", centroids: "NDArray[np.float16]", nbits: int
) -> "tuple[NDArray[np.float32], NDArray[np.float32], float]":
    count = 1 << nbits
    plain = OfficialCodec(
        centroids.astype(np.float32), np.zeros(1, np.float32), np.zeros(2, np.float32)
    )
    residuals = held_out.astype(np.float32) - plain.centroids[plain.nearest(held_out)]
    cutoffs = np.quantile(residuals, np.arange(1, count) / count)
    weights = np.quantile(residuals, (np.arange(count) + 0.5) / count)
    return cutoffs.astype("<f4"), weights.astype("<f4"), float(np.abs(residuals).mean())
