"""Normalised discounted cumulative gain."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.evaluation.metrics._base import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged


@metric("ndcg", "nDCG@{k}", default=False, ks=(10, 100), shown=(10,))
def ndcg(judged: "Judged", k: int) -> "NDArray[np.float64]":
    """Grades over log2(rank + 1) in the top K, by those of the best ranking; undefined without grades.

    As trec_eval's ``ndcg_cut``: the gain is the grade, and the best ranking is that of all passages
    that were judged. The relevance threshold plays no part.
    """
    found = _discounted(judged.owners, judged.ranks, judged.relevance, k, len(judged.run))
    owners, grades = judged.ideal
    first = np.searchsorted(owners, owners)  # owners ascend, so this is where each query's begin
    best = _discounted(owners, np.arange(len(owners)) - first + 1, grades, k, len(judged.run))
    return np.where(judged.graded, found / np.where(best > 0, best, 1.0), np.nan)


def _discounted(
    owners: "NDArray[np.int64]",
    ranks: "NDArray[np.int64]",
    gains: "NDArray[np.float64]",
    k: int,
    queries: int,
) -> "NDArray[np.float64]":
    """Per query the sum of its gains over log2(rank + 1), up to rank ``k``."""
    counted = (ranks <= k) & (gains > 0)
    values = gains[counted] / np.log2(ranks[counted] + 1)
    return np.bincount(owners[counted], weights=values, minlength=queries).astype(np.float64)
