"""Mean average precision."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("map", "MAP@{k}", default=False, ks=(100,), shown=(100,))
def mean_average_precision(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """The precisions at the ranks of right passages in the top K, summed, by all right passages.

    As trec_eval's ``map_cut``. Undefined without right passages.
    """
    counted = judged.right & (judged.ranks <= k)
    owners = judged.owners[counted]
    nth = np.arange(len(owners)) - np.searchsorted(owners, owners) + 1  # of its query's right ones
    summed = np.bincount(owners, weights=nth / judged.ranks[counted], minlength=len(judged.run))
    return np.where(judged.defined, summed / np.maximum(judged.positives, 1), np.nan)
