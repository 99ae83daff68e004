"""PR@K by whole words."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("pseudo_recall_words", "PR@{k}, words")
def pseudo_recall_words(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """`pseudo_recall` where no letter or digit may go on before or after the answer.

    Infoseek accepts answers such as ``in`` and ``us``, which are within some word of nearly every text.
    A language without blanks between words has no edges for this.
    """
    return np.where(judged.has_answers, judged.first_answer_word <= k, np.nan)
