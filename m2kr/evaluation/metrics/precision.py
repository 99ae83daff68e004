"""P, from ranx."""

from typing import TYPE_CHECKING

from m2kr.evaluation.metrics._base import metric
from m2kr.evaluation.metrics._ranx import per_query

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("precision", "P@{k}", default=False, ks=(1, 5, 10))
def precision(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """The share of right passages among the top K; undefined without right passages."""
    return per_query(judged, "precision", k)
