"""Recall in the usual, set-based sense."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("set_recall", "Recall@{k} (set)")
def set_recall(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """The share of a query's right passages among the top K; undefined without right passages."""
    return np.where(judged.defined, judged.hits(k) / np.maximum(judged.positives, 1), np.nan)
