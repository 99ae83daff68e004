"""Paired statistics of systems that were scored on the same queries.

The difference of two systems is a mean of per-query differences, or over several sources the mean of the
sources' means (each source counts the same, however many queries it has). Everything here takes *strata*:
per source an array of (queries x systems) scores.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Strata = Sequence[NDArray[np.float64]]

LEVEL = 0.05  # of the tests; the intervals are 95 % ones
POWER = 0.80
RESAMPLES = 1000
LEAST_DRAWS = 10_000
DRAWS_PER_PAIR = (
    100  # so that the smallest p value that draws can give stays below Holm's first bound
)
MOST_DRAWS = 100_000
EXACT_OUTCOMES = 1 << 16
_CELLS = 1 << 22  # random numbers held at a time
_DIGITS = 12  # scores that agree to so many are equal: the same number by two ways of adding


@dataclass(frozen=True, slots=True)
class PairedTests:
    """What `paired_tests` gives; arrays over pairs, in the order of ``np.triu_indices(systems, 1)``.

    Attributes:
        means: Per system its mean.
        intervals: (2 x systems) ends of the mean's 95 % bootstrap interval.
        differences: Mean of the first system minus that of the second.
        low: Lower end of the difference's 95 % paired bootstrap interval.
        high: Upper end.
        p: P values of the randomisation test, two-sided.
        exact: Whether the p value comes from all assignments, not from a sample of them.
        p_t: P values of the paired t test, two-sided; NaN where a stratum has one query alone.
        smallest_difference: The smallest true difference that this test would have found with 80 % power
            at the level .05 (two-sided, one pair alone). It may be more than a metric can reach: then there
            are too few queries for any. NaN as above, and where no query's difference is another than the
            others', as of systems that are equal: nothing is known of how they vary.
    """

    means: "NDArray[np.float64]"
    intervals: "NDArray[np.float64]"
    differences: "NDArray[np.float64]"
    low: "NDArray[np.float64]"
    high: "NDArray[np.float64]"
    p: "NDArray[np.float64]"
    exact: "NDArray[np.bool_]"
    p_t: "NDArray[np.float64]"
    smallest_difference: "NDArray[np.float64]"


def paired_tests(strata: "Strata", *, seed: int = 0) -> PairedTests:
    """All pairs of systems, compared on the same queries.

    - Interval: percentile bootstrap (Efron and Tibshirani 1993, ch. 13). Queries are resampled with
      replacement within each stratum, and one resample serves all systems, so pairs stay paired.
    - Randomisation test (Fisher 1935; for retrieval: Smucker, Allan and Carterette 2007). If two systems
      are the same, each query's difference is as likely to have the other sign. P is the share of sign
      assignments whose mean difference is at least as far from 0 as the one observed; flips stay within
      the strata's queries. See `randomisation_p`.
    - Paired t test (Student 1908) beside it; over several strata with the degrees of freedom of Welch
      and Satterthwaite.
    - Smallest difference: (z(.975) + z(.80)) standard errors, of the observed differences (Cohen 1988).

    Args:
        strata: Per source (queries x systems) finite scores; the same systems in each.
        seed: Of the resamples and draws.
    """
    first, second = np.triu_indices(strata[0].shape[1], 1)
    means = np.mean([scores.mean(0) for scores in strata], axis=0)
    resampled = _resampled_means(strata, seed)
    tails = [LEVEL / 2, 1 - LEVEL / 2]
    low, high = np.quantile(resampled[:, first] - resampled[:, second], tails, axis=0)
    p, exact = randomisation_p(strata, seed=seed)
    errors, freedom = _standard_errors(strata)
    differences = means[first] - means[second]
    spread = np.where(errors > 10.0**-_DIGITS, errors, np.nan)
    p_t = [
        student_p(difference, error, degrees)
        for difference, error, degrees in zip(differences, errors, freedom, strict=True)
    ]
    normal = NormalDist()
    return PairedTests(
        means,
        np.quantile(resampled, tails, axis=0),
        _plain(differences),
        _plain(low),
        _plain(high),
        p,
        exact,
        np.array(p_t, np.float64),
        (normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)) * spread,
    )


def _plain(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Without the noise of adding, and without a negative 0."""
    rounded: NDArray[np.float64] = np.round(values, _DIGITS) + 0.0
    return rounded


def _resampled_means(strata: "Strata", seed: int) -> "NDArray[np.float64]":
    """(resamples x systems): each system's mean in bootstrap resamples of the queries."""
    rng = np.random.default_rng(seed)
    means = np.zeros((RESAMPLES, strata[0].shape[1]))
    for scores in strata:
        n = len(scores)
        step = max(1, _CELLS // n)
        for start in range(0, RESAMPLES, step):
            rows = min(step, RESAMPLES - start)
            drawn = rng.integers(0, n, (rows, n)) + np.arange(rows)[:, None] * n
            times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
            means[start : start + rows] += times.astype(np.float64) @ scores / n
    return means / len(strata)


def randomisation_p(
    strata: "Strata", *, seed: int = 0
) -> "tuple[NDArray[np.float64], NDArray[np.bool_]]":
    """P values of the two-sided randomisation test for all pairs, and which of them are exact.

    A query without a difference changes nothing, and of differences of one size only the number of
    flipped ones counts. So 2^n assignments have few outcomes: n + 1 for a metric that is 0 or 1, whose
    test is McNemar's exact one. Up to 2^16 outcomes (and so up to 16 queries that differ, whatever the
    metric) all are added up. Else assignments are drawn, 10,000 or 100 a pair (at most 100,000), the same
    ones for all pairs; the one observed counts among them, so that p is (1 + hits) / (1 + draws) and
    never 0 (Phipson and Smyth 2010).

    Args:
        strata: As for `paired_tests`.
        seed: Of the draws.
    """
    # The statistic is a sum of these differences: a mean of means is a weighted sum.
    scaled = np.concatenate([scores / (len(scores) * len(strata)) for scores in strata])
    first, second = np.triu_indices(scaled.shape[1], 1)
    p = np.array(
        [_exact_p(scaled[:, a] - scaled[:, b]) for a, b in zip(first, second, strict=True)],
        np.float64,
    )
    exact = ~np.isnan(p)
    if not exact.all():
        draws = min(MOST_DRAWS, max(LEAST_DRAWS, DRAWS_PER_PAIR * len(first)))
        p[~exact] = _drawn_p(scaled, first[~exact], second[~exact], draws, seed)
    return p, exact


def _exact_p(differences: "NDArray[np.float64]") -> float:
    """The exact p value; NaN if there are too many outcomes."""
    largest = np.abs(differences).max(initial=0)
    if not largest:
        return 1.0
    relative = np.round(differences / largest, _DIGITS)
    sizes, counts = np.unique(np.abs(relative[relative != 0]), return_counts=True)
    if np.log2(counts + 1.0).sum() > math.log2(EXACT_OUTCOMES):
        return math.nan
    sums, shares = np.zeros(1), np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        flipped = np.arange(count + 1)
        sums = np.add.outer(sums, size * (count - 2 * flipped)).ravel()
        shares = np.multiply.outer(shares, _binomial(int(count))).ravel()
    reached = np.abs(sums) >= abs(relative.sum()) - 1e-9
    return float(np.clip(shares[reached].sum(), np.finfo(float).tiny, 1.0))


def _binomial(n: int) -> "NDArray[np.float64]":
    """The chances of 0 to ``n`` heads of ``n`` coins."""
    steps = np.arange(1, n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - steps + 1) / steps))])
    chances: NDArray[np.float64] = np.exp(logs - n * math.log(2))
    return chances


def _drawn_p(
    scaled: "NDArray[np.float64]",
    first: "NDArray[np.int64]",
    second: "NDArray[np.int64]",
    draws: int,
    seed: int,
) -> "NDArray[np.float64]":
    """P values by drawn sign assignments: one matrix product flips them for all systems at once."""
    used, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    a, b = places[: len(first)], places[len(first) :]
    columns = np.ascontiguousarray(scaled[:, used])
    totals = columns.sum(0)
    observed = totals[a] - totals[b]
    noise = 1e-10 * np.abs(columns).sum(0)
    least = np.abs(observed) - noise[a] - noise[b]
    rng = np.random.default_rng(seed)
    n = len(columns)
    step = max(1, _CELLS // n)
    reached = np.zeros(len(first), np.int64)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        packed = rng.integers(0, 256, (rows, -(-n // 8)), np.uint8)
        flipped = np.unpackbits(packed, axis=1, count=n).astype(np.float64) @ columns
        sums = observed - 2 * (flipped[:, a] - flipped[:, b])
        reached += (np.abs(sums) >= least).sum(0)
    return (1 + reached) / (1 + draws)


def _standard_errors(
    strata: "Strata",
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Per pair the standard error of the difference, and its degrees of freedom."""
    first, second = np.triu_indices(strata[0].shape[1], 1)
    if min(map(len, strata)) < 2:
        nothing = np.full(len(first), np.nan)
        return nothing, nothing
    variances, shares = np.zeros(len(first)), np.zeros(len(first))
    for scores in strata:
        part = np.array(
            [
                np.var(scores[:, a] - scores[:, b], ddof=1)
                for a, b in zip(first, second, strict=True)
            ]
        ) / (len(scores) * len(strata) ** 2)
        variances += part
        shares += part**2 / (len(scores) - 1)
    freedom = np.divide(variances**2, shares, out=np.full(len(first), np.inf), where=shares > 0)
    return np.sqrt(variances), freedom


def student_p(difference: float, error: float, freedom: float) -> float:
    """The two-sided p value of a t test.

    Args:
        difference: What is to differ from 0.
        error: Its standard error; where it is 0, a difference of 0 has the p value 1, another 0.
        freedom: Degrees of freedom.
    """
    if math.isnan(error):
        return math.nan
    if error <= 1e-15 * abs(difference) or not error:
        return float(abs(difference) < 10.0**-_DIGITS)
    t = difference / error
    return min(1.0, max(0.0, _incomplete_beta(freedom / 2, 0.5, t * t / (freedom + t * t))))


def _incomplete_beta(a: float, b: float, away: float) -> float:
    """The regularised incomplete beta function I_x(a, b) at x = 1 - ``away``.

    By the continued fraction of DLMF 8.17.22, from the end where it converges fast. What is given is the
    distance from 1, which is small where ``a`` is large.
    """
    x = 1 - away
    if not 0 < away < 1:
        return float(away <= 0)
    front = math.exp(
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log1p(-away)
        + b * math.log(away)
    )
    if x > (a + 1) / (a + b + 2):
        return 1 - front / b * _fraction(b, a, away)
    return front / a * _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction, by Lentz's method (Thompson and Barnett 1986)."""
    value, c, d = 1.0, 1e300, 1.0
    for step in range(1, 100_000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / ((1 + term * d) or 1e-300)
        c = (1 + term / c) or 1e-300
        factor = c * d
        value *= factor
        if abs(factor - 1) < 1e-15:
            break
    return value


def holm(p: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """P values adjusted for their number: the chance of any false one stays below the level (Holm 1979).

    NaN stays, and doesn't count.
    """
    adjusted = p.copy()
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def significance_letters(different: "NDArray[np.bool_]") -> list[list[int]]:
    """Groups of systems that can't be told apart: two share a group if and only if they don't differ.

    The compact letter display by insertion and absorption (Piepho 2004): all systems begin in one group;
    each pair that differs splits the groups that hold both into one without the first and one without
    the second; a group within another is dropped.

    Args:
        different: (systems x systems) symmetric: which pairs differ significantly.

    Returns:
        Per system the numbers of its groups, ascending. Groups are numbered by their first members.
    """
    systems = len(different)
    groups = [frozenset(range(systems))]
    for a, b in zip(*np.nonzero(np.triu(different, 1)), strict=True):
        split = [group for group in groups if a in group and b in group]
        groups = [group for group in groups if group not in split]
        for part in dict.fromkeys(group - {int(one)} for group in split for one in (a, b)):
            if not any(part <= group for group in groups):
                groups = [group for group in groups if not group <= part] + [part]
    groups.sort(key=sorted)
    return [[i for i, group in enumerate(groups) if one in group] for one in range(systems)]
