"""Metrics by name: one file in this folder is one metric.

A file ``thing.py`` holds a function under ``@metric("thing", ...)`` and is found, computed, shown and
reported by that alone; files that start with ``_`` are shared helpers. Names carry their cut-off:
``hit_rate@5``. A metric of one's own needs no registration: ``--metrics my_metric.py:fn@5``, where
``fn(judged, k)`` returns a number for each query, NaN where it is undefined (see `Judged`).
"""

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import InputError, UsageError, last_frame, one_line
from m2kr.evaluation.metrics._base import METRICS, Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged

__all__ = ["GRID", "Chosen", "Metric", "Spec", "choose", "heading", "metrics", "own", "parse"]

# The published K grid.
GRID = (1, 5, 10, 20, 50, 100, 500)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A metric with its cut-off (0 for the whole run), and whether it was asked for by name."""

    metric: Metric
    k: int
    named: bool = False

    @property
    def name(self) -> str:
        """As in results and on the command line: ``hit_rate@5``."""
        return f"{self.metric.name}@{self.k}" if self.k else self.metric.name

    @property
    def shown(self) -> bool:
        """Whether tables show it."""
        return self.named or self.k in self.metric.shown


# What was asked for: ``default``, ``full``, names, joined by commas or in a list; also chosen ones.
Spec = str | Chosen | Sequence[str | Chosen]


def heading(name: str) -> str:
    """What tables call a metric: ``R@5`` for ``hit_rate@5``; one that we don't know keeps its name."""
    stem, _, k = name.partition("@")
    return metrics()[stem].label.format(k=k) if stem in metrics() and k else name


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
        expected=f"default, full, {', '.join(f'{m}@K' for m in metrics())}, or my_metric.py:fn@K",
        fix=f"did you mean '{near[0]}@{k}'?" if near else None,
    )


def own(compute: Callable[..., Any], k: int) -> Chosen:
    """A metric of the user's, at a cut-off.

    Args:
        compute: Called with a `Judged` and the cut-off; returns a number for each of its queries.
        k: The cut-off; 0 for the depth of the run.

    Raises:
        UsageError: one of ours has its name.
    """
    name = compute.__name__
    if name in metrics():
        raise UsageError(f"m2kr has a metric '{name}' of its own", fix="give yours another name")

    def checked(judged: "Judged", k: int) -> "NDArray[np.float64]":
        try:
            scores = np.asarray(compute(judged, k), np.float64)
        except Exception as error:
            place = last_frame(error, lambda file: file == Path(inspect.getfile(compute)))
            raise InputError(one_line(error), where=place or f"metric {name}") from error
        if scores.shape != (len(judged.run),):
            raise InputError(
                f"it returned values of shape {scores.shape}",
                where=f"metric {name}",
                expected=f"a number for each of the {len(judged.run):,} queries, NaN if undefined",
            )
        return scores

    doc = (compute.__doc__ or "").strip().partition("\n")[0]
    return Chosen(Metric(name, f"{name}@{{k}}", checked, doc, default=False), k, named=True)


def choose(spec: Spec, depth: int | None = None) -> list[Chosen]:
    """What to compute, without repeats.

    Args:
        spec: ``default``, ``full``, names, or several of them (joined by commas, or a list).
        depth: Where the grids of ``default`` and ``full`` end: how deep the run was asked to go. None
            to check the names alone.

    Raises:
        UsageError: an unknown name, or nothing is left.
    """
    words = [spec] if isinstance(spec, Chosen) else spec
    words = words.split(",") if isinstance(words, str) else words
    chosen: dict[str, Chosen] = {}
    for word in words:
        if isinstance(word, Chosen):
            found = [word]
        elif word.strip() in {"default", "full"}:
            found = [
                Chosen(metric, k)
                for metric in metrics().values()
                if metric.default or word.strip() == "full"
                for k in metric.ks or GRID
                if depth is None or k <= depth
            ]
        else:
            found = [parse(word)]
        # A name says more than a grid that holds it.
        chosen.update((one.name, one) for one in found if one.named or one.name not in chosen)
    return list(chosen.values())
