"""What a score is made of: queries without one of their parts, or with another's."""

from typing import Any

import numpy as np

from m2kr.errors import M2KRError
from m2kr.evaluation.paired_tests import holm
from m2kr.progress import task
from m2kr.robustness.baseline import Baseline

_TASK = "ablate"


def ablate(baseline: Baseline) -> dict[str, Any]:
    """What each ablation does to the scores, as `Result.ablations` has it.

    Each difference has a 95 % interval and a p value, adjusted over the ablations (Holm) in ``p_holm``.
    What the retriever doesn't read, the split doesn't have, or the retriever fails on, is ``skipped``,
    which says why.
    """
    changes = baseline.changes(matters=True)
    rows: dict[str, dict[str, Any]] = {}
    with task(baseline.progress, _TASK, len(changes), "searches"):
        for change in changes:
            why = baseline.unread(change)
            try:
                found = {} if why else baseline.compare(baseline.ask(change), test=True)
            except M2KRError as error:
                why = error.what
            rows[change.name] = {"skipped": why} if why else found
            baseline.progress.advance(_TASK, 1)
    for name in baseline.tested:
        metrics = [row["metrics"][name] for row in rows.values() if name in row.get("metrics", {})]
        tested = [metric for metric in metrics if "p" in metric]
        for metric, p in zip(tested, holm(np.array([m["p"] for m in tested])), strict=True):
            metric["p_holm"] = float(p)
    return rows
