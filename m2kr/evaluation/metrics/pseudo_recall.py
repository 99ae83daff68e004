"""PR@K: pseudo recall, as the official evaluation computes it."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("pseudo_recall", "PR@{k}", shown=(5,))
def pseudo_recall(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """1 if any of the top K texts contains any answer string, else 0 (pseudo recall).

    As the official evaluation computes it. Contains means ``answer.strip().lower() in text.lower()``:
    plain substrings, no word boundaries (`pseudo_recall_words` has them). An answer that is empty is
    therefore found in every text; such queries are counted in the result, and
    `pseudo_recall_nonempty` leaves them out. Undefined without answers.
    """
    return np.where(judged.has_answers, judged.first_answer <= k, np.nan)
