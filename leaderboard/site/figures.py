"""Scores as pages show them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from m2kr.evaluation.metrics import heading, metrics


@dataclass(frozen=True, slots=True)
class ScoreCell:
    """A score in a cell.

    Attributes:
        value: To sort by.
        shown: In three places, without the leading 0, as reports show it.
        interval: Ends of its 95 % interval, empty if there is none.
        best: Whether it is the best of its column.
    """

    value: float
    shown: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class MetricHead:
    """The head of a column.

    Attributes:
        name: Of the metric, such as ``hit_rate@5``.
        heading: What tables call it, such as ``R@5``.
        doc: What it measures.
    """

    name: str
    heading: str
    doc: str

    @classmethod
    @cache
    def of(cls, name: str) -> "MetricHead":
        """Of a metric by its name."""
        known = metrics().get(name.partition("@")[0])
        return cls(name, heading(name), known.doc if known else name)


def score_cell(
    scores: Mapping[str, Mapping[str, Any]], metric: str, best: float | None = None
) -> ScoreCell | None:
    """A metric's cell; None where it is absent or undefined.

    Args:
        scores: ``value``, ``low`` and ``high`` by metric.
        metric: Its name.
        best: The best value of the column.
    """
    score = scores.get(metric)
    if score is None or score.get("value") is None:
        return None
    value = float(score["value"])
    low, high = score.get("low"), score.get("high")
    interval = "" if low is None or high is None else f"[{three_places(low)} {three_places(high)}]"
    return ScoreCell(value, three_places(value), interval, best is not None and value == best)


def three_places(value: float) -> str:
    """Such as ``.374``, and ``1.000``."""
    text = f"{value:.3f}"
    return (text[1:] if text.startswith("0.") else text).replace("-", "\N{MINUS SIGN}")


def ranks_in_words(ranks: tuple[int, int] | None) -> str:
    """Such as ``2`` or ``2–4``; a dash where nothing is ranked."""
    if ranks is None:
        return "–"
    best, worst = ranks
    return str(best) if best >= worst else f"{best}–{worst}"


def parameters_in_words(count: int | None) -> str:
    """A number of weights as people say it."""
    if count is None:
        return "number of parameters not stated"
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g}{unit} parameters"
    return f"{count} parameters" if count else "no parameters"


def parameters_cell(count: int | None) -> str:
    """The same in a table: ``543M``, ``none``; a dash where it isn't stated."""
    if not count:
        return "–" if count is None else "none"
    return parameters_in_words(count).removesuffix(" parameters")


def milliseconds(seconds: float) -> str:
    """Two digits of a time, without powers of ten: ``0.085``, ``33``, ``4,100``."""
    return f"{float(f'{1000 * seconds:.2g}'):,.10g}"
