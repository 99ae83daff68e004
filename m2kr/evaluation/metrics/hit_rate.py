"""M2KR's "Recall@K": a hit rate."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("hit_rate", "R@{k}", shown=(1, 5, 10))
def hit_rate(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """1 if any of the top K passages is right, else 0 (a hit rate; M2KR's Recall@K).

    As in the official evaluation, where it is called Recall@K. Undefined without right passages.
    """
    return np.where(judged.defined, judged.hits(k) > 0, np.nan)
