"""A result with its ablations, queries without one of their parts or with another's, and its bands."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import M2KRError
from m2kr.evaluation.metrics import heading
from m2kr.evaluation.paired_tests import holm
from m2kr.progress import task
from m2kr.robustness.bands import Recipe, measure_bands, moved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from m2kr.evaluation.result import Result
    from m2kr.robustness.baseline import Baseline


def with_robustness(baseline: "Baseline", recipe: Recipe, *, ablate: bool, bands: bool) -> "Result":
    """The baseline's result with what was asked for; its name then says so, too.

    Bands come last: they leave the retriever with rows in another order indexed.
    """
    result, done = baseline.result, {}
    if ablate:
        done["ablate"] = True
        result = replace(result, ablations=_ablations(baseline))
    if bands:
        done["bands"] = True
        measured = measure_bands(baseline, recipe)
        notes = [*result.notes, *band_notes(result, measured)]
        result = replace(result, bands=measured, notes=notes)
    return replace(result, experiment={**result.experiment, **done})


def band_notes(result: "Result", bands: "Mapping[str, Any]") -> list[str]:
    """How far the scores move by what should not matter; and loudly, if by what never may."""
    done = {name: kind for name, kind in bands["kinds"].items() if "metrics" in kind}
    parts = []
    for metric in result.shown:
        by_kind = {n: abs(k["metrics"].get(metric, {"delta": 0})["delta"]) for n, k in done.items()}
        most = max(by_kind, key=by_kind.__getitem__, default="")
        if most and by_kind[most]:
            size = f"{by_kind[most]:.3f}".removeprefix("0")
            parts.append(f"{heading(metric)} ± {size} ({most})")
    notes = [f"what should not matter moves {', '.join(parts) or 'no score that is shown'}"]
    if wrong := moved(bands):
        notes.append(
            f"NOT ZERO: {', '.join(wrong)} must move nothing, and move scores of this retriever "
            "(m2kr check-retriever looks for the cause)"
        )
    return notes


def _ablations(baseline: "Baseline") -> dict[str, Any]:
    """What each ablation does to the scores, as `Result.ablations` has it.

    Each difference has a 95 % interval and a p value, adjusted over the ablations (Holm) in ``p_holm``.
    What the retriever doesn't read, the split doesn't have, or the retriever fails on, is ``skipped``,
    which says why.
    """
    changes = baseline.changes(matters=True)
    rows: dict[str, dict[str, Any]] = {}
    with task(baseline.progress, "ablate", len(changes), "searches"):
        for change in changes:
            why = baseline.unread(change)
            try:
                found = {} if why else baseline.compare(baseline.ask(change), test=True)
            except M2KRError as error:
                why = error.what
            rows[change.name] = {"skipped": why} if why else found
            baseline.progress.advance("ablate", 1)
    for name in baseline.tested:
        metrics = [row["metrics"][name] for row in rows.values() if name in row.get("metrics", {})]
        tested = [metric for metric in metrics if "p" in metric]
        for metric, p in zip(tested, holm(np.array([m["p"] for m in tested])), strict=True):
            metric["p_holm"] = float(p)
    return rows
