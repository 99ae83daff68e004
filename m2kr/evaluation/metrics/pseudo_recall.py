"""PR@K: pseudo recall, as the official evaluation computes it."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("pseudo_recall", "PR@{k}")
def pseudo_recall(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """1 if any of the top K texts contains any answer, else 0; undefined without answers.

    Contains means ``answer.strip().lower() in text.lower()``: plain substrings, no word boundaries.
    An answer that is empty is therefore found in every text; such queries are counted in the result,
    and `pseudo_recall_nonempty` leaves them out.
    """
    return np.where(judged.has_answers, judged.first_answer <= k, np.nan)
