"""A result with its ablations and bands."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from m2kr.evaluation.metrics import heading
from m2kr.robustness.ablations import ablate as run_ablations
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
        result = replace(result, ablations=run_ablations(baseline))
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
