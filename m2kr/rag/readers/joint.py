"""One answer from what a model says to each passage apart: the arithmetic, without the model.

Two ways: the paper's code takes the passage and sequence of the highest joint score; the marginal sums an
answer's probability over all passages.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def document_log_probabilities(
    scores: "ArrayLike", temperature: float = 1.0
) -> "NDArray[np.float64]":
    """Log softmax of a retriever's scores.

    Sums of MaxSim lie some 20 to 100 and more apart from 0 and units from each other, so that the first
    passage takes nearly all at a temperature of 1, which is the paper's.

    Args:
        scores: Of the passages, any scale, K of them; none give none.
        temperature: The scores are divided by it.

    Returns:
        K numbers whose exponentials sum to 1.

    Raises:
        InputError: A score is no finite number.
    """
    values = np.asarray(scores, np.float64) / temperature
    if not np.isfinite(values).all():
        raise InputError(
            "a passage's score is no finite number, so it has no probability",
            expected="finite scores in the run",
        )
    if not values.size:
        return values
    values = values - values.max()
    return np.asarray(values - np.log(np.exp(values).sum()))


def paper_scores(
    documents: "NDArray[np.float64]", sequences: Sequence[float]
) -> "NDArray[np.float64]":
    """The joint score of each passage's best sequence: log probability of the passage plus its score.

    Args:
        documents: K log probabilities.
        sequences: K scores of sequences, normalised by their length as transformers' beam search does.
    """
    return documents + np.asarray(sequences, np.float64)


def merged_marginals(
    texts: Sequence[str], documents: "NDArray[np.float64]", log_likelihoods: "ArrayLike"
) -> "tuple[list[str], NDArray[np.float64]]":
    """Log probabilities of answers, summed over the passages and over the ways to write one.

    Args:
        texts: Of C candidates; some may be equal, being the same words in other tokens.
        documents: K log probabilities of passages.
        log_likelihoods: C x K: of each candidate's tokens given each passage.

    Returns:
        The different texts, in the order of their first candidates; and for each its K joint log
        probabilities, whose `log_sum` is its marginal.
    """
    joint = documents[None, :] + np.asarray(log_likelihoods, np.float64).reshape(len(texts), -1)
    different = list(dict.fromkeys(texts))
    places = {text: place for place, text in enumerate(different)}
    rows = np.full((len(different), joint.shape[1]), -np.inf)
    for text, row in zip(texts, joint, strict=True):
        rows[places[text]] = np.logaddexp(rows[places[text]], row)
    return different, rows


def log_sum(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """The logarithm of the sum of exponentials along the last axis."""
    return np.asarray(np.logaddexp.reduce(values, axis=-1))
