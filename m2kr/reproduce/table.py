"""A reproduction as a table for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from m2kr.evaluation.metrics import heading, metrics
from m2kr.reproduce.verdict import DIFFERS, REPRODUCED, TOLERANCE

if TYPE_CHECKING:
    from m2kr.reproduce.run import Reproduction

EXACT = (
    "exact is another protocol: all rows of a query meet all passages; the published search looks at "
    "32 rows first."
)
STAR = "* under another protocol than the published figure's: see below."


def rows(done: "Reproduction") -> tuple[list[str], list[list[str]]]:
    """Heading and rows: a figure each; ours by search mode, that which is compared first."""
    modes = done.target.search
    heads = ["source", "metric", "published", f"ours, {modes[0]}", "difference"]
    heads += [*modes[1:], "verdict"]
    body = []
    for one in done.comparisons:
        ours = [f"{one.ours[mode]:.2f}" if mode in one.ours else "–" for mode in modes]
        difference = "–" if one.difference is None else f"{one.difference:+.2f}"
        star = " *" if one.deviations and one.difference is not None else ""
        metric = heading(one.figure.metric)
        cells = [one.figure.source, metric, _as_printed(one.figure.value), ours[0], difference]
        body.append([*cells, *ours[1:], one.verdict + star])
    return heads, body


def _as_printed(value: float) -> str:
    """A figure with one decimal, as tables have it, or with those that it has."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:g}"


def lines(done: "Reproduction", *, every: bool = False) -> Iterator[str]:
    """What must be said below the table.

    Args:
        done: The reproduction.
        every: Also of figures that were reproduced.
    """
    yield (
        f"reproduced: within {TOLERANCE} points of the published figure, searched as it was "
        f"({done.target.search[0]})."
    )
    stems = dict.fromkeys(one.figure.metric.partition("@")[0] for one in done.comparisons)
    for stem in stems:
        yield f"{heading(f'{stem}@K')}: {metrics()[stem].doc}"
    if "exact" in done.target.search[1:]:
        yield EXACT
    if any(one.deviations and one.difference is not None for one in done.comparisons):
        yield STAR
    for where in dict.fromkeys(one.figure.where for one in done.comparisons):
        yield f"published: {where}."
    shown = [one for one in done.comparisons if every or one.verdict == DIFFERS or one.deviations]
    yield from dict.fromkeys(
        f"{one.figure.source}: {text}" for one in shown for text in (*one.deviations, *one.protocol)
    )
    for one in done.comparisons:
        if (every or one.verdict != REPRODUCED) and one.figure.source not in done.failed:
            for text in one.notes:
                yield f"{one.figure.source} {heading(one.figure.metric)}: {text}"
    for source, error in done.failed.items():
        yield f"{source} is not run: {error}"


def as_markdown(done: "Reproduction") -> str:
    """The table and all that is said below it, as Markdown."""
    heads, body = rows(done)
    table = [heads, ["---"] * len(heads), *body]
    text = "\n".join("| " + " | ".join(row) + " |" for row in table)
    notes = "\n".join(f"- {line}" for line in lines(done, every=True))
    return f"# {done.target.title}\n\n{text}\n\n{notes}\n"
