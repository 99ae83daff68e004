"""Ablations and bands of a result, as tables of text."""

from collections.abc import Iterator, Mapping
from typing import Any

from m2kr.evaluation.metrics import heading
from m2kr.evaluation.result import Result

Table = tuple[list[str], list[list[str]]]
ABLATIONS = (
    "What a change adds to the score or takes from it; reranked: queries whose ranking is another.\n"
    "p, and * for p < .05: paired randomisation test, adjusted over the changes (Holm)."
)
BANDS = (
    "What should not matter, and how far it moves the score (0: not at all); in brackets: queries whose "
    "score is another."
)


def ablation_table(result: Result) -> Table:
    """A row for each change of the queries: what it does to the metrics shown."""
    shown = _shown(result)
    primary = result.headline if result.headline in shown else shown[0]
    heads = ["queries", *map(heading, shown), f"p ({heading(primary)})", "reranked"]
    body = [["as they are", *(_value(result.value(name)) for name in shown), "", ""]]
    for change, row in _done(result.ablations):
        cells = [_delta(row["metrics"].get(name)) for name in shown]
        p = row["metrics"].get(primary, {}).get("p_holm")
        body.append([change, *cells, _p(p), f"{row['reranked']:,}"])
    return heads, body


def _shown(result: Result) -> list[str]:
    """The metrics that tables show, and the primary one."""
    names = dict.fromkeys((*result.shown, result.headline))
    return [name for name in names if name in result.metrics]


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "<.001" if p < 0.0005 else f"{p:.3f}".removeprefix("0")


def band_table(result: Result) -> Table:
    """A row for each thing that should not matter: how far it moves the metrics shown."""
    shown = _shown(result)
    heads = ["changed", *map(heading, shown), "reranked"]
    body = []
    for kind, row in _done((result.bands or {}).get("kinds")):
        cells = [_band(row, name) for name in shown]
        body.append([kind, *cells, f"{row['reranked']:,}"])
    return heads, body


def skipped(rows: Mapping[str, Any] | None) -> list[str]:
    """What was not tried, with the reason, reasons that are the same put together."""
    names: dict[str, list[str]] = {}
    for name, row in (rows or {}).items():
        if "skipped" in row:
            names.setdefault(row["skipped"], []).append(name)
    return [f"not tried: {', '.join(which)}: {why}" for why, which in names.items()]


def _done(rows: Mapping[str, Any] | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, row) for name, row in (rows or {}).items() if "skipped" not in row)


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".removeprefix("0")


def _band(row: Mapping[str, Any], name: str) -> str:
    flips = row["flips"].get(name, 0)
    return _delta(row["metrics"].get(name)) + (f" ({flips:,})" if flips else "")


def _delta(metric: Mapping[str, Any] | None) -> str:
    """``-.358``, with a star where that is no chance."""
    if metric is None:
        return "–"
    text = f"{metric['delta']:+.3f}".replace("+0.", "+.").replace("-0.", "-.")
    if metric["delta"] == 0:
        return "0"
    star = metric.get("p_holm") is not None and metric["p_holm"] < 0.05
    return text + ("*" if star else "")
