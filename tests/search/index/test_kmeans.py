"""k-means: what it finds, that it repeats, and what looking in groups costs."""

import numpy as np
import pytest
import torch

from m2kr.errors import UsageError
from m2kr.search.index.kmeans import (
    Training,
    centroid_count,
    group_centroids,
    nearest_centroids,
    train_centroids,
)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def clustered(rng: np.random.Generator, clusters: int, each: int, noise: float) -> np.ndarray:
    centres = unit(rng.normal(size=(clusters, 32)))
    tokens = np.repeat(centres, each, 0) + noise * rng.normal(size=(clusters * each, 32))
    return unit(tokens).astype(np.float16)


def mean_distance(tokens: np.ndarray, centroids: np.ndarray) -> float:
    wide = tokens.astype(np.float64)
    squares = (wide**2).sum(1)[:, None] - 2 * wide @ centroids.T + (centroids**2).sum(1)
    return float(squares.min(1).mean())


@pytest.mark.parametrize("spherical", [False, True])
def test_centroids_fit_much_better_than_random_tokens(spherical: bool) -> None:
    tokens = clustered(np.random.default_rng(1), 40, 50, 0.05)
    found = train_centroids(tokens, 80, Training(spherical=spherical))
    chance = tokens[np.random.default_rng(2).permutation(len(tokens))[:80]].astype(np.float64)
    assert found.shape == (80, 32)
    assert found.dtype == np.float32
    assert mean_distance(tokens, found) < 0.8 * mean_distance(tokens, chance)
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_seed_alone_decides() -> None:
    tokens = clustered(np.random.default_rng(1), 40, 40, 0.1)
    first, again = (train_centroids(tokens, 64, Training(seed=3)) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != train_centroids(tokens, 64, Training(seed=4)).tobytes()


def test_every_centroid_is_used_though_first_ones_repeat() -> None:
    """Most tokens are the same one: centroids that get none move to tokens that are badly placed."""
    tokens = np.concatenate([np.repeat(unit(np.ones((1, 32))), 900, 0), unit(np.eye(32))])
    found = train_centroids(tokens.astype(np.float16), 33, Training(iterations=10, tolerance=-1.0))
    assert mean_distance(tokens, found) < 0.01


def test_groups_find_the_nearest_centroid_or_one_nearly_as_near() -> None:
    rng = np.random.default_rng(5)
    centroids = torch.from_numpy(unit(rng.normal(size=(2048, 32))).astype(np.float32))
    tokens = torch.from_numpy(clustered(rng, 500, 8, 0.05))
    tried = Training(groups_tried=12)
    codes, scores = nearest_centroids(tokens, centroids, tried, group_centroids(centroids, tried))
    true, best = nearest_centroids(tokens, centroids, tried, None)
    assert (codes == true).float().mean() > 0.8
    assert float((best - scores).mean()) < 0.01
    assert float((best - scores).min()) > -0.01


def test_nearest_is_nearest_also_where_all_products_are_negative() -> None:
    rng = np.random.default_rng(6)
    centroids = torch.from_numpy((-np.abs(rng.normal(size=(50, 8))) - 0.5).astype(np.float32))
    tokens = torch.from_numpy(np.abs(rng.normal(size=(200, 8))).astype(np.float32))
    codes, _ = nearest_centroids(tokens, centroids, Training(), None)
    distances = torch.cdist(tokens.double(), centroids.double())
    # Products in bfloat16 may take one that is a little farther.
    assert (distances.gather(1, codes[:, None])[:, 0] <= distances.amin(1) * 1.01).all()


def test_a_known_centroid_is_kept_where_none_better_is_found() -> None:
    rng = np.random.default_rng(7)
    centroids = torch.from_numpy(unit(rng.normal(size=(2048, 32))).astype(np.float32))
    tokens = centroids[torch.randperm(2048)[:300]].half()
    few = Training(groups_tried=1)
    true, _ = nearest_centroids(tokens, centroids, few, None)
    codes, _ = nearest_centroids(
        tokens, centroids, few, group_centroids(centroids, few), known=true
    )
    assert (codes == true).all()


def test_counts_and_nonsense() -> None:
    pools = (0, 90_000, 901_875, 9_006_537, 700_000_000)
    assert [centroid_count(tokens) for tokens in pools] == [1, 4096, 16384, 131072, 262144]
    with pytest.raises(UsageError, match="11 centroids can't be had of 10"):
        train_centroids(np.ones((10, 4), np.float16), 11)
    with pytest.raises(UsageError, match="k-means can't run"):
        Training(iterations=0)
