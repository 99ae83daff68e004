"""Plots of answers' scores as PNG and SVG files, for papers and slides."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.display import fit_for_html as fit
from m2kr.errors import UsageError
from m2kr.evaluation.result import file_word
from m2kr.rag.records import NONE, ORACLE, RETRIEVED
from m2kr.rag.tables import AnswerTable, ArmCell
from m2kr.report.plots import line_style, save_figures

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.figure import Figure

    from m2kr.rag.records import RagResult

_SOFT = "#5d636d"


def write_score_plots(results: "Sequence[RagResult]", folder: "str | PathLike[str]") -> list[Path]:
    """Draws scores against K: for each split and scorer ``<split>.<scorer>.by-k``.

    What was retrieved with its 95 % intervals, no retrieval and the oracle as levels, and how often an
    accepted answer is in the passages.

    Args:
        results: Of any readers and splits.
        folder: Made if need be; files of these names are replaced.

    Returns:
        Paths of the files, a PNG and an SVG of each.

    Raises:
        MissingError: matplotlib is not installed, or a result has no records beside it.
        UsageError: No result has a score to draw.
    """
    tables = [AnswerTable.of(result) for result in results]
    if not any(True for _ in _drawn(tables)):
        raise UsageError("there are no scores to draw")
    return save_figures(lambda: _figures(tables), folder)


def _drawn(tables: Sequence[AnswerTable]) -> Iterator[tuple[str, str, list[AnswerTable]]]:
    """Each split and scorer with the tables that have a score by K."""
    for source in dict.fromkeys(table.source for table in tables):
        mine = [table for table in tables if table.source == source]
        for scorer in dict.fromkeys(name for table in mine for name in table.scorers):
            if scored := [table for table in mine if _by_k(table, scorer)]:
                yield source, scorer, scored


def _by_k(table: AnswerTable, scorer: str) -> list[tuple[int, ArmCell]]:
    cells = [(arm.k, table.cell(scorer, arm.label)) for arm in table.arms if arm.kind == RETRIEVED]
    return [(k, cell) for k, cell in cells if cell is not None and cell.value is not None]


def _figures(tables: Sequence[AnswerTable]) -> "Iterator[tuple[str, Figure]]":
    for source, scorer, scored in _drawn(tables):
        stem = f"{file_word(source.replace('/', '.'))}.{file_word(scorer)}.by-k"
        yield stem, score_by_k(source, scorer, scored)


def score_by_k(source: str, scorer: str, tables: Sequence[AnswerTable]) -> "Figure":
    """The score of one split by one scorer against K, a line a result."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    panel = figure.subplots()
    ks: set[int] = set()
    for number, table in enumerate(tables):
        points = _by_k(table, scorer)
        ks |= {k for k, _ in points}
        name = table.label if len(tables) > 1 else "retrieved"
        style = line_style(number, name)
        values = [cell.value or 0.0 for _, cell in points]
        panel.plot([k for k, _ in points], values, **style)
        panel.errorbar(
            [k for k, _ in points],
            values,
            yerr=[
                [
                    value - (cell.low or 0.0)
                    for value, (_, cell) in zip(values, points, strict=True)
                ],
                [
                    (cell.high or 0.0) - value
                    for value, (_, cell) in zip(values, points, strict=True)
                ],
            ],
            fmt="none",
            ecolor=style["color"],
            elinewidth=1,
            capsize=0,
        )
        for kind, words, dash in ((NONE, "no retrieval", ":"), (ORACLE, "oracle", "--")):
            level = _level(table, scorer, kind)
            if level is not None:
                label = f"{name}: {words}" if len(tables) > 1 else words
                panel.axhline(
                    level,
                    color=style["color"],
                    linestyle=dash,
                    linewidth=1.2,
                    label=line_style(number, label)["label"],
                )
        bounds = [(arm.k, table.in_passages.get(arm.label)) for arm in table.arms]
        there = [(k, share) for k, share in bounds if share is not None]
        if there:
            panel.plot(
                *zip(*there, strict=True),
                color=_SOFT,
                linestyle=(0, (1, 2)),
                marker=".",
                label="answer in passages" if not number else None,
            )
    panel.set_xscale("log")
    panel.set_xticks(sorted(ks), [str(k) for k in sorted(ks)])
    panel.minorticks_off()
    panel.set_ylim(0)
    panel.set_xlabel("K: passages that the reader was given")
    panel.set_title(f"{fit(source)}, {fit(scorer)}")
    panel.spines["left"].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _level(table: AnswerTable, scorer: str, kind: str) -> float | None:
    for arm in table.arms:
        if arm.kind == kind and (cell := table.cell(scorer, arm.label)) is not None:
            return cell.value
    return None
