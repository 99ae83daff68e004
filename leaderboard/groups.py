"""Which systems of a board can be told apart: a paired test of every two, adjusted for their number."""

import math
from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.paired_tests import LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REACH = 1.959964 + 0.841621  # standard errors that a test at .05 finds with 80 % power
_SAME = 1e-12  # variances of rounding errors


def significance_ranks(
    scores: "NDArray[np.float64]",
) -> tuple[list[tuple[int, int]], float]:
    """Ranks that mean something, by paired t tests with Holm's adjustment over all pairs.

    Args:
        scores: (queries x systems) scores; a query that is undefined (NaN) is so for all systems, and is
            left out.

    Returns:
        Per system (best, worst): 1 + the systems that are significantly better, and the number of systems
        that are not significantly worse, itself included; and the median over pairs of the smallest
        difference that one such test shows with 80 % power, NaN if it is unknown.
    """
    whole = scores[~np.isnan(scores).any(1)]
    queries, systems = whole.shape
    if queries < 2 or systems < 2:
        return [(1, systems)] * systems, math.nan
    means = whole.mean(0)
    covariance = np.cov(whole, rowvar=False)
    own = covariance.diagonal()
    variance = np.maximum(own[:, None] + own[None, :] - 2 * covariance, 0)
    variance[variance < _SAME] = 0
    errors = np.sqrt(variance / queries)
    first, second = np.triu_indices(systems, 1)
    difference, error = (means[first] - means[second]), errors[first, second]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(difference) / error
    t[np.abs(difference) < _SAME] = 0
    different = np.zeros((systems, systems), bool)
    significant = _by_holm(_p_of_t(t, queries - 1))
    different[first, second] = different[second, first] = significant
    better = means[None, :] > means[:, None]  # [i, j]: j has more than i
    above = (different & better).sum(1)
    below = (different & ~better).sum(1)
    ranks = [(int(a) + 1, systems - int(b)) for a, b in zip(above, below, strict=True)]
    varying = error[error > 0]
    return ranks, float(_REACH * np.median(varying)) if len(varying) else math.nan


def _p_of_t(t: "NDArray[np.float64]", freedom: int) -> "NDArray[np.float64]":
    """Two-sided p values of t, by the normal deviate that is as far out (Wallace 1959)."""
    finite = np.minimum(t, 1e6)
    z = np.sqrt(freedom * np.log1p(finite * finite / freedom)) * (
        (8 * freedom + 1) / (8 * freedom + 3)
    )
    return np.array([math.erfc(value / math.sqrt(2)) for value in z.tolist()])


def _by_holm(p: "NDArray[np.float64]") -> "NDArray[np.bool_]":
    order = np.argsort(p, kind="stable")
    bounds = LEVEL / np.arange(len(p), 0, -1)
    holds = np.logical_and.accumulate(p[order] <= bounds)
    significant = np.zeros(len(p), bool)
    significant[order] = holds
    return significant
