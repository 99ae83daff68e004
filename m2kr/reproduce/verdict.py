"""What was published beside what was computed: the difference, the verdict, and what may explain it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from m2kr.evaluation.result import Result
from m2kr.reproduce.targets import Figure, Target
from m2kr.sources import RELEASED, UNKNOWN, verdict

TOLERANCE = 0.3  # points, for figures that are given to 0.1
REPRODUCED, DIFFERS, NOT_RUN = "reproduced", "differs", "not run"
_ROUNDING = 1e-9
# Settings that change what a run costs and, but for rounding, not what comes of it.
_COSTS = {"device", "token_budget", "workers", "compile", "batch_size"}


@dataclass(frozen=True)
class ComparedFigure:
    """One published figure and ours.

    Attributes:
        figure: The published one.
        ours: Points by search mode; the first is the one that is compared.
        verdict: ``reproduced``, ``differs`` or ``not run``.
        difference: Ours less the published, in points.
        deviations: What was done otherwise than it was published, in sentences.
        protocol: What else of the source's data and search may explain a difference.
        notes: The same of this figure; or why there is none.
    """

    figure: Figure
    ours: Mapping[str, float] = field(default_factory=dict)
    verdict: str = NOT_RUN
    difference: float | None = None
    deviations: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "source": self.figure.source,
            "metric": self.figure.metric,
            "published": self.figure.value,
            "where": self.figure.where,
            "others": dict(self.figure.others),
            "ours": dict(self.ours),
            "difference": self.difference,
            "verdict": self.verdict,
            "deviations": list(self.deviations),
            "protocol": list(self.protocol),
            "notes": list(self.notes),
        }


def compare_figure(
    figure: Figure,
    target: Target,
    results: Mapping[str, Result],
    manifest: Mapping[str, Any],
    overrides: Mapping[str, str],
) -> ComparedFigure:
    """One figure beside the results of its source.

    Args:
        figure: What was published.
        target: Whose.
        results: By search mode; at least that of the target's first.
        manifest: Of the source's data.
        overrides: Settings of the retriever that the user gave in place of the target's.
    """
    ours: dict[str, float] = {}
    for mode in target.search:
        value = results[mode].value(figure.metric) if mode in results else None
        if value is not None:
            ours[mode] = round(100 * value, 2)
    judged = results[target.search[0]]
    value = judged.value(figure.metric)
    deviations = tuple(_deviations(target, judged, overrides))
    if value is None:
        why = f"{figure.metric} is defined for no query here"
        return ComparedFigure(figure, ours, deviations=deviations, notes=(why,))
    difference = 100 * value - figure.value
    return ComparedFigure(
        figure,
        ours,
        REPRODUCED if abs(difference) <= TOLERANCE + _ROUNDING else DIFFERS,
        round(difference, 2),
        deviations,
        tuple(_protocol(judged, manifest)),
        tuple(_notes(figure, judged)),
    )


def _deviations(target: Target, result: Result, overrides: Mapping[str, str]) -> Iterator[str]:
    """How the result was made otherwise than the published ones were."""
    if result.partial:
        yield "the data were built with --limit"
    if result.source in RELEASED:
        if result.comparable == UNKNOWN:
            yield verdict(UNKNOWN)
        elif result.comparable:
            yield result.comparable
    elif result.images and result.images["found"] < result.images["total"]:
        yield result.comparable
    for key, value in overrides.items():
        if key not in _COSTS:
            own = target.settings.get(key)
            yield f"{key}={value}" + ("" if own is None else f", not {own}")
    if result.search_mode != target.search[0]:
        yield f"searched by {result.search_mode} search, not {target.search[0]}"


def _protocol(result: Result, manifest: Mapping[str, Any]) -> Iterator[str]:
    if result.search_mode == "official":
        yield (
            "the published index drew its training sample without a seed, so scores move by some "
            "tenths between builds (m2kr eval --search official --seeds 3 tells by how much)"
        )
    if repaired := _repaired(manifest, result.split):
        yield f"rows that were repaired: {repaired}"


def _notes(figure: Figure, result: Result) -> Iterator[str]:
    facts = result.metrics[figure.metric]
    if facts["low"] is not None and facts["high"] is not None:
        low, high = 100 * facts["low"], 100 * facts["high"]
        inside = "inside" if low <= figure.value <= high else "outside"
        yield (
            f"the published figure lies {inside} our 95 % interval over queries, {low:.1f} to {high:.1f}"
        )
    n = facts["n"]
    if n is not None and n < result.counts["queries"]:
        yield f"it is over {n:,} of {result.counts['queries']:,} queries; undefined for the others"
    for where, value in figure.others.items():
        yield f"{value:g} stands in another table ({where})"


def _repaired(manifest: Mapping[str, Any], split: str) -> str:
    """Rules of the ledger by which rows of the split and its pool were changed or dropped."""
    pool = manifest["splits"][split]["pool"]
    counts: dict[str, int] = {}
    for name, facts in manifest.get("tables", {}).items():
        if name.rpartition("/")[2] in (split, pool):
            for action in ("repaired", "dropped"):
                for rule, rows in facts.get("ledger", {}).get(action, {}).items():
                    if rule.startswith("column "):
                        continue  # said of a file once, whatever its rows
                    counts[rule] = counts.get(rule, 0) + rows
    return ", ".join(f"{rows:,} {rule}" for rule, rows in counts.items())
