"""Charts as SVG in the page: score against a cost, and a system's scores as shares of the best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 22, 46
_NONE = 46  # width of the place for costs of 0
_GLYPH = 6.3  # of a label, in the units of the drawing
_LONGEST = 26  # characters of a label
_LINE = 15


@dataclass(frozen=True, slots=True)
class PlottedSystem:
    """A system to be drawn.

    Attributes:
        title: What it is called.
        href: Its page.
        cost: 0 or more; what the horizontal axis has.
        score: 0 to 1.
        said: Score and cost in words.
    """

    title: str
    href: str
    cost: float
    score: float
    said: str


@dataclass(frozen=True, slots=True)
class PlottedPoint:
    """A system's place in the drawing.

    Attributes:
        system: It.
        x: From the left.
        y: From the top.
        front: Whether nothing that costs no more scores higher.
        label: Its title, cut, where there is room beside the point; else empty.
        label_x: Place of the label.
        label_y: The same.
        anchor: Which end of the label is there, ``start`` or ``end``.
    """

    system: PlottedSystem
    x: float
    y: float
    front: bool
    label: str = ""
    label_x: float = 0.0
    label_y: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True, slots=True)
class ScoreChart:
    """Score against a cost, whose axis is logarithmic.

    Attributes:
        points: The systems, those of the front last, so that they lie on top.
        steps: The front as a line: what score is to be had for each cost.
        x_ticks: Places and words.
        y_ticks: The same.
    """

    points: Sequence[PlottedPoint]
    steps: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


def score_chart(systems: Sequence[PlottedSystem]) -> ScoreChart | None:
    """The chart; None where fewer than two costs differ, and it would show nothing."""
    if len({system.cost for system in systems}) < 2:
        return None
    positive = [system.cost for system in systems if system.cost > 0]
    none = _NONE if len(positive) < len(systems) else 0
    low, high = _decades(positive)
    begin = _LEFT + none

    def across(cost: float) -> float:
        if not cost:
            return _LEFT + none / 2
        share = (math.log10(cost) - low) / (high - low)
        return round(begin + share * (WIDTH - _RIGHT - begin), 1)

    marks = _score_marks([system.score for system in systems])

    def down(score: float) -> float:
        share = (score - marks[0]) / (marks[-1] - marks[0])
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)

    front = _front(systems)
    points = [
        PlottedPoint(system, across(system.cost), down(system.score), place in front)
        for place, system in enumerate(systems)
    ]
    x_ticks = [(across(cost), words) for cost, words in _cost_marks(low, high)]
    if none:
        x_ticks = [(across(0), "none"), *x_ticks]
    labelled = _labelled(sorted(points, key=lambda point: (point.front, point.x, -point.y)))
    return ScoreChart(
        labelled,
        _steps([point for point in labelled if point.front]),
        x_ticks,
        [(down(mark), f"{mark:.2f}"[1:] if mark < 1 else "1") for mark in marks],
    )


def _decades(costs: Sequence[float]) -> tuple[float, float]:
    """Exponents that the axis begins and ends with, a little beyond the costs."""
    low, high = math.log10(min(costs)), math.log10(max(costs))
    room = max(0.08 * (high - low), 0.15)
    return low - room, high + room


def _cost_marks(low: float, high: float) -> list[tuple[float, str]]:
    """Round costs between two exponents, five or so."""
    factors = (1, 2, 5) if high - low < 2.2 else (1,)
    step = max(1, math.ceil((high - low) / 7))
    marks = [
        factor * 10.0**exponent
        for exponent in range(math.floor(low), math.ceil(high) + 1, step)
        for factor in factors
    ]
    return [(mark, cost_in_words(mark)) for mark in marks if low <= math.log10(mark) <= high]


def cost_in_words(cost: float) -> str:
    """A number of an axis: ``0.02``, ``5``, ``20 M``."""
    for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " K")):
        if cost >= size:
            return f"{cost / size:.3g}{unit}"
    return f"{cost:.3g}"


def _score_marks(scores: Sequence[float]) -> list[float]:
    """Round scores below, between and above those that are to be shown."""
    low, high = min(scores), max(scores)
    step = next(
        size for size in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if high - low <= 5 * size or size == 0.5
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(number * step, 2) for number in range(first, last + 1)]


def _front(systems: Sequence[PlottedSystem]) -> set[int]:
    """Which systems none beats that costs no more; of equal ones the first."""
    order = sorted(range(len(systems)), key=lambda i: (systems[i].cost, -systems[i].score, i))
    front, best = set(), -math.inf
    for place in order:
        if systems[place].score > best:
            front.add(place)
            best = systems[place].score
    return front


def _steps(front: Sequence[PlottedPoint]) -> str:
    path = ""
    for point in front:
        path += f"H{point.x:g}V{point.y:g}" if path else f"M{point.x:g} {point.y:g}"
    return path and path + f"H{WIDTH - _RIGHT}"


def _labelled(points: Sequence[PlottedPoint]) -> list[PlottedPoint]:
    """Labels for the front, where one covers neither another nor a point of the front."""
    taken = [(p.x - 7, p.y - 7, p.x + 7, p.y + 7) for p in points if p.front]
    made = []
    for point in points:
        if not point.front:
            made.append(point)
            continue
        title = point.system.title
        label = title if len(title) <= _LONGEST else title[: _LONGEST - 1] + "…"
        made.append(_with_label(point, label, taken))
    return made


def _with_label(
    point: PlottedPoint, label: str, taken: list[tuple[float, float, float, float]]
) -> PlottedPoint:
    width = _GLYPH * len(label)
    for anchor, dx, dy in (
        *(("end", -9, -6), ("start", 9, 16), ("start", 9, -6), ("end", -9, 16)),
        *(("end", -9, -20), ("start", 9, 30)),
    ):
        x, y = point.x + dx, point.y + dy
        left = x - width if anchor == "end" else x
        box = (left, y - _LINE + 3, left + width, y + 3)
        inside = left >= _LEFT and left + width <= WIDTH - 2 and _TOP - 14 <= y <= HEIGHT - _BOTTOM
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return PlottedPoint(
                point.system, point.x, point.y, True, label, round(x, 1), round(y, 1), anchor
            )
    return point


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@dataclass(frozen=True, slots=True)
class RadarAxis:
    """One board of a radar.

    Attributes:
        title: Of the board.
        share: The system's score as a share of the best recomputed one.
        x: End of the axis.
        y: The same.
        label_x: Place of the title.
        label_y: The same.
        anchor: ``start``, ``middle`` or ``end``.
    """

    title: str
    share: float
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True, slots=True)
class RadarChart:
    """A system's scores on three boards or more, as shares of the best ones.

    Attributes:
        axes: The boards.
        shape: Corners of the system's figure.
        rings: Corners at a quarter, half, three quarters and the whole, with words.
    """

    axes: Sequence[RadarAxis]
    shape: str
    rings: Sequence[tuple[str, float, str]]


RADAR_WIDTH, RADAR_HEIGHT = 520, 380
_CENTRE, _RADIUS = (260.0, 190.0), 140.0


def radar_chart(shares: Sequence[tuple[str, float]]) -> RadarChart | None:
    """The radar; None below three boards, where a table says it better.

    Args:
        shares: Per board its title and the system's share of the best score, 0 to 1.
    """
    if len(shares) < 3:
        return None
    count = len(shares)

    def at(place: int, share: float) -> tuple[float, float]:
        turn = 2 * math.pi * place / count
        return (
            round(_CENTRE[0] + share * _RADIUS * math.sin(turn), 1),
            round(_CENTRE[1] - share * _RADIUS * math.cos(turn), 1),
        )

    axes = []
    for place, (title, share) in enumerate(shares):
        x, y = at(place, 1)
        label_x, label_y = at(place, 1.12)
        side = label_x - _CENTRE[0]
        anchor = "middle" if abs(side) < 20 else "start" if side > 0 else "end"
        axes.append(RadarAxis(title, share, x, y, label_x, label_y + 4, anchor))
    shape = " ".join(
        f"{x:g},{y:g}" for x, y in (at(i, share) for i, (_, share) in enumerate(shares))
    )
    rings = [
        (
            " ".join(f"{x:g},{y:g}" for x, y in (at(i, part) for i in range(count))),
            at(0, part)[1],
            f"{part:.0%}",
        )
        for part in (0.25, 0.5, 0.75, 1.0)
    ]
    return RadarChart(axes, shape, rings)
