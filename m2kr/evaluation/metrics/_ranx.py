"""Metrics that ranx computes, from rankings that we have put in order ourselves.

ranx is given numbers and ranks instead of ids and scores: it can't re-order ties, and queries
without results or without right passages never reach it.
"""

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import missing_dependency

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged

logger = logging.getLogger("m2kr.evaluation")


@cache
def _ranx() -> tuple[Any, Any]:
    try:
        from numba.typed import List
        from ranx import metrics
    except ImportError as error:
        raise missing_dependency("ranx", "metrics", "nDCG, MAP and precision") from error
    logger.info("ranx compiles its metrics on first use, which takes 15 to 60 seconds")
    return metrics, List


def per_query(judged: "Judged", name: str, k: int) -> "NDArray[np.float64]":
    """Per query what ``ranx.metrics.name`` gives at ``k``; NaN where no passage is right."""
    metrics, typed_list = _ranx()
    scores = np.where(judged.defined, 0.0, np.nan)
    used = np.flatnonzero((judged.positives > 0) & (judged.run.counts() > 0))
    if not len(used):
        return scores
    qrels, run = typed_list(), typed_list()
    for query in used.tolist():
        codes, grades = judged.judgements(query)
        best = np.argsort(-grades, kind="stable")  # ranx takes the ideal ranking from their order
        qrels.append(np.stack([codes[best], grades[best]], 1).astype(np.float64))
        start, stop = judged.run.offsets[query], judged.run.offsets[query + 1]
        ranked = judged.codes[start : min(stop, start + k)].astype(np.float64)
        run.append(np.stack([ranked, -np.arange(len(ranked))], 1))
    # Not through ranx.evaluate: it fails on one metric of lists without averaging (0.3.21).
    scores[used] = getattr(metrics, name)(qrels, run, k)
    return scores
