"""NDCG, from ranx."""

from typing import TYPE_CHECKING

from m2kr.evaluation.metrics._base import metric
from m2kr.evaluation.metrics._ranx import per_query

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("ndcg", "nDCG@{k}", default=False, ks=(10, 100))
def ndcg(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """Gains over log2(rank + 1) in the top K, by the best possible; undefined without right passages."""
    return per_query(judged, "ndcg", k)
