"""Precision."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("precision", "P@{k}", default=False, ks=(1, 5, 10), shown=(5,))
def precision(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """The right passages among the top K, by K; undefined without right passages."""
    return np.where(judged.defined, judged.hits(k) / k, np.nan)
