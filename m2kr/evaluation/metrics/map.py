"""MAP, from ranx."""

from typing import TYPE_CHECKING

from m2kr.evaluation.metrics._base import metric
from m2kr.evaluation.metrics._ranx import per_query

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("map", "MAP@{k}", default=False, ks=(100,))
def map(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """Average precision at K; undefined without right passages."""
    return per_query(judged, "average_precision", k)
