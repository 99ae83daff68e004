"""What a score is made of: queries without one of their parts, or with another's."""

from typing import Any

from m2kr.errors import M2KRError
from m2kr.progress import task
from m2kr.robustness.baseline import Baseline

_TASK = "ablate"


def ablate(baseline: Baseline) -> dict[str, Any]:
    """What each ablation does to the scores, as `Result.ablations` has it.

    What the retriever doesn't read, the split doesn't have, or the retriever fails on, is ``skipped``,
    which says why.
    """
    changes, rows = baseline.changes(matters=True), {}
    with task(baseline.progress, _TASK, len(changes), "searches"):
        for change in changes:
            why = baseline.unread(change)
            try:
                found = {} if why else baseline.compare(baseline.ask(change))
            except M2KRError as error:
                why = error.what
            rows[change.name] = {"skipped": why} if why else found
            baseline.progress.advance(_TASK, 1)
    for row in rows.values():
        row.pop("scores", None)
    return rows
