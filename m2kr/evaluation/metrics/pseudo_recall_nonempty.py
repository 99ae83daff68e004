"""PR@K without the queries that have an empty answer."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("pseudo_recall_nonempty", "PR@{k}, no blanks")
def pseudo_recall_nonempty(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """`pseudo_recall` over the queries none of whose answers is blank; undefined where no query has one.

    Where no query has a blank answer it would repeat `pseudo_recall`, so it is undefined there.
    """
    if not judged.has_empty_answer.any():
        return np.full(len(judged.positives), np.nan)
    defined = judged.has_answers & ~judged.has_empty_answer
    return np.where(defined, judged.first_answer <= k, np.nan)
