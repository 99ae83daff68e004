"""Ranks by tests, against the slow and careful ones of `m2kr compare`."""

import numpy as np
import pytest

from m2kr.evaluation.paired_tests import holm, paired_tests
from m2kr_leaderboard.groups import significance_ranks


@pytest.mark.parametrize("queries", [30, 400])
def test_they_are_those_of_one_t_test_a_pair(queries: int) -> None:
    draw = np.random.default_rng(0)
    hard = draw.normal(size=(queries, 1))
    scores = (hard + draw.normal(size=(queries, 8)) + np.linspace(0, 1.5, 8) > 0.3).astype(float)
    scores[:, 3] = scores[:, 2]  # equal systems
    tests = paired_tests([scores])
    ranks, smallest = significance_ranks(scores)
    first, second = np.triu_indices(8, 1)
    different = np.zeros((8, 8), bool)
    significant = holm(np.nan_to_num(tests.p_t, nan=1.0)) <= 0.05
    different[first, second] = different[second, first] = significant
    means = scores.mean(0)
    expected = [
        (
            1 + sum(bool(different[i, j]) and means[j] > means[i] for j in range(8)),
            8 - sum(bool(different[i, j]) and means[j] < means[i] for j in range(8)),
        )
        for i in range(8)
    ]
    assert ranks == expected
    assert significant.any() and not significant.all()
    assert smallest == pytest.approx(np.nanmedian(tests.smallest_difference), rel=0.05)


def test_one_system_and_undefined_queries() -> None:
    assert significance_ranks(np.ones((5, 1)))[0] == [(1, 1)]
    scores = np.array([[1.0, 0.0]] * 50 + [[np.nan, 1.0]] * 500)
    assert significance_ranks(scores)[0] == [(1, 1), (2, 2)]
