"""Mean reciprocal rank."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("mrr", "MRR@{k}", ks=(10,))
def mrr(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """1 / rank of the first right passage in the top K, 0 if none; undefined without right passages."""
    first = judged.first_hit
    return np.where(judged.defined, np.where(first <= k, 1 / first, 0.0), np.nan)
