"""Bootstrap intervals of mean scores."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 1000
_CELLS = 1 << 22  # counts drawn at a time


def bootstrap_interval(
    values: "NDArray[np.float64]",
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of per-query scores.

    Resampling n scores with replacement is drawing, for each distinct score, how often it comes up:
    one multinomial draw. Scores have few distinct values, so this is exact and needs no n x
    resamples table. Equal scores and seed give an equal interval, in any order of the queries.

    Args:
        values: Per-query scores; NaN marks queries where the metric is undefined.
        level: Coverage.
        resamples: Number of resamples.
        seed: Of the draws.

    Returns:
        Lower and upper end; NaN if no score is defined.
    """
    means = bootstrap_means(values, resamples=resamples, seed=seed)
    if means is None:
        return float("nan"), float("nan")
    return percentile_interval(means, level)


def bootstrap_means(
    values: "NDArray[np.float64]", *, resamples: int = RESAMPLES, seed: int = 0
) -> "NDArray[np.float64] | None":
    """The means of resamples as of `bootstrap_interval`; None if no score is defined."""
    distinct, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    total = int(counts.sum())
    if not total:
        return None
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // len(distinct))
    means = [
        (rng.multinomial(total, counts / total, min(step, resamples - at)) * distinct).sum(1)
        / total
        for at in range(0, resamples, step)
    ]
    return np.concatenate(means)


def percentile_interval(means: "NDArray[np.float64]", level: float = 0.95) -> tuple[float, float]:
    """The middle part of resampled figures that holds ``level`` of them: lower and upper end."""
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
