"""M2KR's "Recall@K": a hit rate."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("hit_rate", "R@{k} (hit rate)")
def hit_rate(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """1 if any of the top K passages is a right one, else 0; undefined without right passages.

    As in the official evaluation, where it is called Recall@K.
    """
    return np.where(judged.defined, judged.hits(k) > 0, np.nan)
