"""A report's plots as PNG and SVG files, for papers and slides."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr.display import fit_for_html as fit
from m2kr.errors import UsageError, missing_dependency
from m2kr.evaluation.metrics import heading
from m2kr.evaluation.result import file_word
from m2kr.report.summary import PRIMARY, Column, Summary, costs, curve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from os import PathLike

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from m2kr.evaluation.result import Result

# Colours that common kinds of colour vision tell apart; from the fifth system on markers differ, too.
_COLOURS = (
    *("#1d5fbf", "#b84a00", "#0f7a55", "#a02c86", "#7a6200", "#00748f"),
    *("#b3263e", "#5b4bd0", "#555b66", "#7b4a22", "#3f7d1e", "#8f4a6b"),
)
_MARKERS, _DASHES = "osD^v", ("-", "--", ":")
_INK, _SOFT, _LINE, _BAR = "#1b1d21", "#5d636d", "#dcdcd8", "#a9bfdc"
_STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.hashsalt": "m2kr",  # the same plot makes the same file
    "text.parse_math": False,  # a name with two $ in it is no formula
}
_DPI = 200
_LONGEST = 34  # characters of a name


def write_plots(results: "Sequence[Result]", folder: "str | PathLike[str]") -> list[Path]:
    """Writes every plot of a report that its results have the numbers for.

    These are ``scores`` (bars with 95 % intervals), ``radar`` (from three splits on) and for each split
    ``<split>.curve`` (score by K) and ``<split>.cost`` (score by seconds a query).

    Args:
        results: Of any systems and splits.
        folder: Made if need be; files of these names are replaced.

    Returns:
        Paths of the files, a PNG and an SVG of each.

    Raises:
        MissingError: matplotlib is not installed.
        UsageError: There are no results with scores.
    """
    summary = Summary.of(results)
    if not summary.metrics():
        raise UsageError("there are no scores to draw")
    return save_figures(lambda: _figures(summary), folder)


def save_figures(
    figures: "Callable[[], Iterable[tuple[str, Figure]]]", folder: "str | PathLike[str]"
) -> list[Path]:
    """Draws figures in the style of reports, and writes a PNG and an SVG of each.

    Args:
        figures: Draws them, and gives the stems of their files.
        folder: Made if need be; files of these names are replaced.

    Returns:
        Paths of the files.

    Raises:
        MissingError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib as mpl

    target, written = Path(folder), []
    target.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        for name, figure in figures():
            for form, options in (("png", {"dpi": _DPI}), ("svg", {"metadata": {"Date": None}})):
                data = io.BytesIO()
                figure.savefig(data, format=form, bbox_inches="tight", **options)
                path = target / f"{name}.{form}"
                atomic.write_bytes(path, data.getvalue())
                written.append(path)
    return written


def require_matplotlib() -> None:
    """Says at once what would be missed at the end.

    Raises:
        MissingError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing_dependency("matplotlib", "report", "drawing plots") from error


def _figures(summary: Summary) -> "Iterator[tuple[str, Figure]]":
    yield "scores", bars(summary)
    if (figure := radar(summary)) is not None:
        yield "radar", figure
    for column in summary.columns:
        for name, draw in (("curve", curves), ("cost", cost)):
            if (figure := draw(summary, column)) is not None:
                yield f"{file_word(column.key)}.{name}", figure


def bars(summary: Summary) -> "Figure":
    """Scores by system with 95 % intervals, a panel a split."""
    from matplotlib.figure import Figure

    columns = [column for column in summary.columns if column.metric(PRIMARY)]
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    most = max(len(column.results) for column in columns)
    figure = Figure(figsize=(4.2 * across, (0.8 + 0.26 * most) * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel, column in zip(panels, columns, strict=False):
        scored = [
            (system, value)
            for system in summary.systems
            if (value := summary.value(system, column, PRIMARY)) is not None
        ]
        scored.sort(key=lambda pair: pair[1]["value"])
        places = range(len(scored))
        values = [value["value"] for _, value in scored]
        ends = [
            [value["value"] - value["low"] for _, value in scored],
            [value["high"] - value["value"] for _, value in scored],
        ]
        panel.barh(places, values, color=_BAR, height=0.62)
        panel.errorbar(values, places, xerr=ends, fmt="none", ecolor=_INK, elinewidth=1, capsize=0)
        panel.set_yticks(places, [_short(system) for system, _ in scored], color=_INK)
        highest = [value["high"] for _, value in scored]
        for place, value, end in zip(places, values, highest, strict=True):
            panel.annotate(
                _score(value), (end, place), (5, 0), textcoords="offset points", va="center"
            )
        panel.set_xlim(0, 1.18 * max([*highest, 0.05]))
        panel.grid(visible=False, axis="y")
        panel.spines["left"].set_visible(False)
        panel.set_title(f"{fit(column.label)}, {heading(column.metric(PRIMARY))}")
    for panel in panels[len(columns) :]:
        panel.set_axis_off()
    return figure


def radar(summary: Summary) -> "Figure | None":
    """An axis a split, each with a scale of its own; None for fewer than three splits."""
    from matplotlib.figure import Figure

    columns = [
        column
        for column in summary.columns
        if any(summary.value(system, column, PRIMARY) for system in summary.systems)
    ]
    if len(columns) < 3:
        return None
    angles = [2 * math.pi * place / len(columns) for place in range(len(columns))]
    best = []
    for column in columns:
        values = [summary.value(system, column, PRIMARY) for system in summary.systems]
        best.append(max((value["value"] for value in values if value), default=0) or 1)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    panel = figure.add_subplot(projection="polar")
    panel.set_theta_offset(math.pi / 2)  # type: ignore[attr-defined]
    panel.set_theta_direction(-1)  # type: ignore[attr-defined]
    for number, system in enumerate(summary.systems):
        values = [summary.value(system, column, PRIMARY) for column in columns]
        shares = [
            value["value"] / top if value else math.nan
            for value, top in zip(values, best, strict=True)
        ]
        if sum(map(math.isfinite, shares)) > 2:
            panel.plot([*angles, angles[0]], [*shares, shares[0]], **line_style(number, system))
    names = [
        f"{_short(column.label)}\n{_score(top)}" for column, top in zip(columns, best, strict=True)
    ]
    panel.set_xticks(angles, names, color=_INK)
    panel.tick_params(pad=12)
    panel.set_yticks([0.25, 0.5, 0.75, 1], [])
    panel.set_ylim(0, 1.02)
    panel.spines["polar"].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    figure.supxlabel("The rim is the best score of each split, the centre 0", size=8, color=_SOFT)
    return figure


def curves(summary: Summary, column: Column) -> "Figure | None":
    """Hit rate by its cut-off; None where no system has it at two."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    panel = figure.subplots()
    ks: set[int] = set()
    for number, system in enumerate(summary.systems):
        points = curve(column.results[system]) if system in column.results else []
        if len(points) > 1:
            panel.plot(*zip(*points, strict=True), **line_style(number, system))
            ks |= {k for k, _ in points}
    if not ks:
        return None
    panel.set_xscale("log")
    panel.set_xticks(sorted(ks), [str(k) for k in sorted(ks)])
    panel.minorticks_off()
    panel.set_ylim(0)
    panel.set_xlabel("K")
    panel.set_title(f"{fit(column.label)}, R@K")
    _legend(figure, panel)
    return figure


def cost(summary: Summary, column: Column) -> "Figure | None":
    """Primary metric by seconds of search a query; None where no result tells them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    panel = figure.subplots()
    drawn = 0
    for number, system in enumerate(summary.systems):
        value = summary.value(system, column, PRIMARY)
        seconds = costs(column.results[system]).get("seconds") if value else None
        if value and seconds:
            style = line_style(number, system) | {
                "linestyle": "none",
                "markersize": 7,
                "clip_on": False,
            }
            panel.plot([seconds], [value["value"]], **style)
            drawn += 1
    if not drawn:
        return None
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(lambda value, _: _time(value))
    panel.minorticks_off()
    panel.margins(x=0.15)
    panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
    panel.set_xlabel("search of a query, on the machine that each ran on")
    panel.set_title(f"{fit(column.label)}, {heading(column.metric(PRIMARY))}")
    _legend(figure, panel)
    return figure


def _legend(figure: "Figure", panel: "Axes") -> None:
    panel.spines["left"].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)


def line_style(number: int, system: str) -> dict[str, Any]:
    """How the line of a system is drawn, the ``number``-th in its plot."""
    return {
        "label": _short(system),
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number // 4 % len(_MARKERS)],
        "linestyle": _DASHES[number // 4 % len(_DASHES)],
        "markersize": 5,
        "linewidth": 1.6,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
    }


def _short(name: str) -> str:
    name = fit(name).lstrip("_")  # matplotlib leaves what begins so out of legends
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:g} s"


def _score(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
