import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.evaluation.significance import bootstrap_interval


def plain(values, seed, resamples):
    """The textbook bootstrap: draw n with replacement, average, repeat."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("kind", ["hits", "ranks", "continuous"])
def test_agrees_with_the_textbook_bootstrap(kind):
    rng = np.random.default_rng(7)
    values = {
        "hits": (rng.random(800) < 0.3).astype(float),
        "ranks": 1 / rng.integers(1, 11, 800),
        "continuous": rng.random(800),
    }[kind]
    ours = bootstrap_interval(values, resamples=4000)
    assert np.allclose(ours, plain(values, 1, 4000), atol=0.004)


def test_is_seeded_and_ignores_order_and_undefined_queries():
    values = np.array([0.0, 1.0, 1.0, 0.5] * 50)
    one = bootstrap_interval(values)
    assert one == bootstrap_interval(values[::-1])
    assert one == bootstrap_interval(np.concatenate([values, [np.nan] * 9]))
    assert one != bootstrap_interval(values, seed=1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_lies_within_the_scores_and_around_the_mean_of_equal_ones(values):
    low, high = bootstrap_interval(np.array(values), resamples=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_chunks_cover_all_resamples():
    values = np.random.default_rng(0).random(20_000)  # 4.2 M cells hold 209 resamples of these
    low, high = bootstrap_interval(values, resamples=500)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)


def test_nothing_defined_gives_nan():
    assert np.isnan(bootstrap_interval(np.array([np.nan, np.nan]))).all()
