"""Metrics by name: one file in this folder is one metric.

A file ``thing.py`` holds a function under ``@metric("thing", ...)`` and is found by that alone; files
that start with ``_`` are shared helpers. Names carry their cut-off: ``hit_rate@5``.
"""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from m2kr.errors import UsageError
from m2kr.evaluation.metrics._base import METRICS, Metric

__all__ = ["GRID", "Chosen", "Metric", "choose", "metrics", "parse"]

# The published K grid.
GRID = (1, 5, 10, 20, 50, 100, 500)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A metric with its cut-off, and whether it was asked for by name."""

    metric: Metric
    k: int
    named: bool = False

    @property
    def name(self) -> str:
        """As in results and on the command line: ``hit_rate@5``."""
        return f"{self.metric.name}@{self.k}"

    @property
    def label(self) -> str:
        """As in tables: ``R@5 (hit rate)``."""
        return self.metric.label.format(k=self.k)


@cache
def metrics() -> dict[str, Metric]:
    """Every metric by name, sorted."""
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            importlib.import_module(f"{__name__}.{info.name}")
    return dict(sorted(METRICS.items()))


def parse(name: str) -> Chosen:
    """The metric and cut-off that a name such as ``ndcg@10`` means; case doesn't matter.

    Raises:
        UsageError: there is none; a bare ``recall@5`` gets both of its meanings offered.
    """
    match = re.fullmatch(r"([a-z_]+)@([1-9][0-9]{0,5})", name.strip().lower())
    stem, k = (match[1], int(match[2])) if match else (name.strip().lower().partition("@")[0], 5)
    if stem in {"recall", "r"}:
        raise UsageError(
            f"'{name}' can mean two things",
            expected=f"hit_rate@{k} (M2KR's Recall@{k}: any right passage in the top {k}), or "
            f"set_recall@{k} (the share of the right passages in the top {k})",
            fix=f"--metrics hit_rate@{k}",
        )
    if match and stem in metrics():
        return Chosen(metrics()[stem], k, named=True)
    near = difflib.get_close_matches(stem, metrics(), n=1)
    raise UsageError(
        f"there is no metric '{name}'",
        expected="one of " + ", ".join(f"{m}@K" for m in metrics()),
        fix=f"did you mean '{near[0]}@{k}'?" if near else None,
    )


def choose(spec: str | Sequence[str], depth: int) -> list[Chosen]:
    """What to compute, without repeats.

    Args:
        spec: ``default``, ``full``, names, or several of them (joined by commas, or a list).
        depth: How deep the run was asked to go: the grids end there.

    Raises:
        UsageError: an unknown name, or a cut-off that was named and is below the run's depth.
    """
    words = spec.split(",") if isinstance(spec, str) else spec
    chosen: dict[str, Chosen] = {}
    for word in words:
        if word.strip() in {"default", "full"}:
            found = [
                Chosen(metric, k)
                for metric in metrics().values()
                if metric.default or word.strip() == "full"
                for k in metric.ks or GRID
                if k <= depth
            ]
        else:
            found = [parse(word)]
            if found[0].k > depth:
                raise UsageError(
                    f"'{found[0].name}' needs {found[0].k} results a query and the run has {depth}",
                    fix=f"--k {found[0].k}",
                )
        chosen.update((one.name, one) for one in found)
    return list(chosen.values())
