"""A comparison as text for a terminal, Markdown, LaTeX and CSV."""

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len, set_cell_size

from m2kr.display import on_one_line
from m2kr.evaluation.metrics import METRICS, heading

if TYPE_CHECKING:
    from m2kr.evaluation.compare import Comparison, MetricComparison, Pair, Tally

WIDTH = 80
_LETTERS = "Systems that share a letter can't be told apart (all pairs, Holm, level .05)."
_INTERVALS = (
    "In brackets: 95 % bootstrap intervals; of a difference, with its queries kept paired, and for each "
    "pair alone: where p is .05 or more, an interval without 0 shows no difference."
)
_PAIRS = (
    "p: randomisation test of the difference; t: paired t test; both after Holm's correction for all "
    "pairs of systems. wins/ties/losses: queries on which the first is better, as good, worse."
)
_MOST_PAIRS = 10  # in tables for people; what is more is in CSV and JSON
_MOST_WITH_GROUPS = 3  # of more pairs, their groups would bury them
_MOST_GROUPS = 8
_LARGE = 100
_NAME_WIDTH = 18  # columns of a name in a line


@dataclass(frozen=True)
class _Table:
    """Systems by some metrics.

    Attributes:
        title: What it is of.
        columns: Heading and metric.
    """

    title: str
    columns: Sequence[tuple[str, "MetricComparison"]]

    @property
    def systems(self) -> list[str]:
        """The best by the first column first."""
        return self.columns[0][1].ranking


def _tables(comparison: "Comparison") -> Iterator[_Table]:
    headlines = comparison.headlines
    by_headline = [
        (f"{source} {heading(headlines[source])}", metrics[headlines[source]])
        for source, metrics in comparison.by_source.items()
        if headlines[source] in metrics
    ]
    names = set(headlines.values())
    mean = names.pop() if len(names) == 1 else "headline"
    whole = mean in comparison.macro and len(by_headline) == len(comparison.by_source)
    if whole:
        columns = [("mean", comparison.macro[mean]), *by_headline]
        yield _Table("Each source by its headline metric", columns)
    for part, metrics in comparison.parts().items():
        said = {headlines.get(part, mean)} if whole else set()
        if set(metrics) - said:
            yield _Table(part, [(heading(name), one) for name, one in metrics.items()])


def _pairs(comparison: "Comparison") -> list[tuple[str, str, "MetricComparison", "list[Pair]"]]:
    """Title, heading, metric and pairs of the tables of pairs: few enough to be read.

    The first of two systems is the one that is better by the part's first metric. Of many systems only
    those that follow each other in the ranking are paired, and only by that metric; single sources of
    several are left to the tables of systems, unless there are just two.
    """
    count = len(comparison.systems) * (len(comparison.systems) - 1) // 2
    parts = comparison.parts()
    shown = []
    for place, (part, metrics) in enumerate(parts.items()):
        if not metrics or (place and count > 1):
            continue
        first = comparison.headlines.get(part, "")
        first = first if first in metrics else next(iter(metrics))
        for name, one in metrics.items():
            if name == first or (count <= _MOST_PAIRS and len(parts) == 1):
                ranking = metrics[first].ranking
                two = combinations(ranking, 2) if count <= _MOST_PAIRS else pairwise(ranking)
                by_names = {(pair.a, pair.b): pair for pair in one.pairs}
                by_names |= {(pair.b, pair.a): turned(pair) for pair in one.pairs}
                shown.append((part, heading(name), one, [by_names[names] for names in two]))
    return shown


def turned(pair: "Pair") -> "Pair":
    """The same pair with its second system first."""
    return replace(
        pair,
        a=pair.b,
        b=pair.a,
        difference=-pair.difference,
        low=-pair.high,
        high=-pair.low,
        wins=pair.losses,
        losses=pair.wins,
        groups={
            column: {value: (losses, ties, wins) for value, (wins, ties, losses) in of.items()}
            for column, of in pair.groups.items()
        },
    )


def notes(comparison: "Comparison") -> list[str]:
    """What is to be said below the tables, each once."""
    lines = [_LETTERS, _INTERVALS, _PAIRS, *_power(comparison)]
    shown = sum(len(pairs) for *_, pairs in _pairs(comparison))
    total = sum(len(one.pairs) for of in comparison.parts().values() for one in of.values())
    if shown < total:
        lines.append(
            f"{shown:,} of {total:,} tested pairs are shown: --format csv or json has all."
        )
    return [*lines, *comparison.notes]


def _power(comparison: "Comparison") -> Iterator[str]:
    known = [
        f"{part}: "
        + ", ".join(
            f"{heading(name)} {_smallest(name, one)}"
            for name, one in metrics.items()
            if _tested(one)
        )
        for part, metrics in comparison.parts().items()
        if any(map(_tested, metrics.values()))
    ]
    if known:
        yield (
            "The smallest difference that a pair's test could have shown (80 % power, level .05; the "
            f"pairs' median, and their range): {'; '.join(known)}."
        )


def _tested(one: "MetricComparison") -> bool:
    return any(pair.p_t is not None for pair in one.pairs)


def _smallest(name: str, one: "MetricComparison") -> str:
    values = [p.smallest_difference for p in one.pairs if p.smallest_difference is not None]
    if not values:
        differ = any(pair.wins or pair.losses for pair in one.pairs)
        return "– (all queries differ alike)" if differ else "– (no differences)"
    # The scores of our own metrics are from 0 to 1; of the user's nothing is known.
    bounded = name == "headline" or name.partition("@")[0] in METRICS
    none = "none: too few queries"
    low, median, high = (
        none if bounded and value > 1 else number_text(value)
        for value in (min(values), float(np.median(values)), max(values))
    )
    return median if low == high else f"{median} ({low} to {high})"


def number_text(value: float, *, sign: bool = False, digits: int = 3) -> str:
    """A score: ``.312``, ``-.041``, ``+.041``; ``1.018e+06`` where a metric of one's own is that large."""
    text = f"{value:.4g}" if abs(value) >= _LARGE else f"{value:.{digits}f}"
    if not re.search("[1-9]", text):
        text = text.lstrip("-")
    elif sign and value > 0:
        text = f"+{text}"
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def span_text(low: float, high: float, *, sign: bool = False) -> str:
    """An interval: ``[.28 .34]``."""
    digits = 3 if sign else 2
    ends = (number_text(end, sign=sign, digits=digits) for end in (low, high))
    return f"[{' '.join(ends)}]"


def chance_text(p: float | None) -> str:
    """A p value, never as 0."""
    if p is None:
        return "–"
    return "<.0001" if p < 0.0001 else number_text(p, digits=4)


def _score(name: str, one: "MetricComparison") -> tuple[str, str]:
    mean = f"{number_text(one.means[name])} {one.letters[name]}"
    return mean, span_text(*one.intervals[name])


def _tally(three: "Tally") -> str:
    text = "/".join(f"{n:,}" for n in three)
    return text if len(text) <= _NAME_WIDTH else text.replace(",", "")  # or it would be folded


_NAMES = ("system", "first", "second")
PAIR_HEADS = ("difference", "95 % interval", "p", "t", "wins/ties/losses")


def pair_cells(pair: "Pair") -> list[str]:
    """Difference, interval, p values and tally, below `PAIR_HEADS`."""
    return [
        number_text(pair.difference, sign=True, digits=4),
        span_text(pair.low, pair.high, sign=True),
        chance_text(pair.p_holm),
        chance_text(pair.p_t_holm),
        _tally((pair.wins, pair.ties, pair.losses)),
    ]


# Text for a terminal.


def as_text(comparison: "Comparison") -> str:
    """Tables of at most 80 columns, with notes."""
    lines: list[str] = []
    for table in _tables(comparison):
        rows = [["", *(head for head, _ in table.columns)]]
        for name in table.systems:
            cells = ["\n".join(_score(name, one)) for _, one in table.columns]
            rows.append([on_one_line(name), *cells])
        for block in column_blocks(rows):
            lines += [on_one_line(table.title), *laid_out(block), ""]
    broken_down = {part: _group_columns(of.values()) for part, of in comparison.parts().items()}
    for part, head, one, pairs in _pairs(comparison):
        rows = [["first − second", "diff.", "95 %", "p", "t", "wins/ties/losses"]]
        for pair in pairs:
            a, b = on_one_line(pair.a), on_one_line(pair.b)
            both = f"{a} − {b}"
            rows.append(
                [both if cell_len(both) <= _NAME_WIDTH else f"{a} −\n{b}", *pair_cells(pair)]
            )
            if len(pairs) <= _MOST_WITH_GROUPS:
                rows += [
                    [f"  {on_one_line(value)}", "", "", "", "", _tally(three)]
                    for column in broken_down[part]
                    for value, three in pair.groups.get(column, {}).items()
                ]
        title = on_one_line(f"{part}, {head}: {one.queries:,} queries")
        lines += [title, *laid_out(rows), ""]
    for note in notes(comparison):
        lines += textwrap.wrap(on_one_line(note), WIDTH, break_on_hyphens=False)
    return "\n".join(lines)


def _group_columns(metrics: Iterable["MetricComparison"]) -> list[str]:
    """The columns whose values tables show: the same for all metrics, though not each is of all values."""
    values: dict[str, set[str]] = {}
    for one in metrics:
        for column, of in one.pairs[0].groups.items():
            values.setdefault(column, set()).update(of)
    chosen, shown = [], 0
    for column, names in values.items():
        shown += len(names)
        if len(names) > 1 and shown <= _MOST_GROUPS:
            chosen.append(column)
    return chosen


def column_blocks(rows: Sequence[Sequence[str]]) -> Iterator[list[list[str]]]:
    """A table's cells in as many tables as `WIDTH` asks for, each with the first column.

    Args:
        rows: The heads first; a cell may have several lines.
    """
    widths = [
        2 + max(cell_len(line) for cell in column for line in _folded(cell))
        for column in zip(*rows, strict=True)
    ]
    start, room = 1, WIDTH - _NAME_WIDTH
    for place in range(1, len(widths)):
        if widths[place] > room and place > start:
            yield [[row[0], *row[start:place]] for row in rows]
            start, room = place, WIDTH - _NAME_WIDTH
        room -= widths[place]
    yield [[row[0], *row[start:]] for row in rows]


def _folded(text: str) -> list[str]:
    """A cell's lines, none longer than a name may be; a minus at an end stays with the word before it."""
    glued = text.replace(" −\n", "\0−\n")
    return [
        part.replace("\0", " ")
        for line in glued.split("\n")
        for word_line in textwrap.wrap(line, _NAME_WIDTH, drop_whitespace=False) or [""]
        for part in _cut(word_line.rstrip())
    ]


def _cut(line: str) -> Iterator[str]:
    """Pieces of a line as wide as a name may be: some characters take two columns."""
    while cell_len(line) > _NAME_WIDTH:
        end = next(n for n in range(_NAME_WIDTH, 0, -1) if cell_len(line[:n]) <= _NAME_WIDTH)
        yield line[:end]
        line = line[end:]
    yield line


def laid_out(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells, the heads first, as lines of text; a cell is folded where it is wide."""
    cells = [list(map(_folded, row)) for row in rows]
    widths = [max(cell_len(line) for row in cells for line in row[i]) for i in range(len(rows[0]))]
    for number, row in enumerate(cells):
        for i in range(max(map(len, row))):
            parts = [cell[i] if i < len(cell) else "" for cell in row]
            padded = (set_cell_size(p, width) for p, width in zip(parts, widths, strict=True))
            yield "  ".join(padded).rstrip()
        if not number:
            yield "  ".join("-" * width for width in widths)


# Markdown, LaTeX, CSV.


def as_markdown(comparison: "Comparison") -> str:
    """Tables of systems, of pairs, and notes."""
    blocks = []
    for table in _tables(comparison):
        body = [
            [markdown_text(name), *(" ".join(_score(name, one)) for _, one in table.columns)]
            for name in table.systems
        ]
        heads = [_NAMES[0], *(markdown_text(head) for head, _ in table.columns)]
        blocks.append(f"**{markdown_text(table.title)}**\n\n{markdown_table(heads, body)}")
    for part, head, one, pairs in _pairs(comparison):
        title = f"**{markdown_text(part)}, {markdown_text(head)}**: {one.queries:,} queries"
        heads = [*_NAMES[1:], *PAIR_HEADS]
        body = [[markdown_text(pair.a), markdown_text(pair.b), *pair_cells(pair)] for pair in pairs]
        blocks.append(f"{title}\n\n{markdown_table(heads, body)}")
    return "\n\n".join([*blocks, *map(markdown_text, notes(comparison))]) + "\n"


def markdown_text(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&!])", r"\\\1", " ".join(text.split()))


def markdown_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    rule = ["---:" if place and head not in _NAMES else "---" for place, head in enumerate(heads)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *body))


def as_latex(comparison: "Comparison") -> str:
    """A ``tabular`` with booktabs for each table, letters as superscripts; notes as comments."""
    blocks = [r"% \usepackage{booktabs}"]
    for table in _tables(comparison):
        heads = ["", *(_tex(head) for head, _ in table.columns)]
        body = []
        for name in table.systems:
            cells = [
                f"{number_text(one.means[name])}\\textsuperscript{{{_tex(one.letters[name])}}}"
                for _, one in table.columns
            ]
            body.append([_tex(name), *cells])
        blocks.append(_tabular(table.title, "l" + "r" * len(table.columns), heads, body))
    for part, head, one, pairs in _pairs(comparison):
        heads = [*_NAMES[1:], *map(_tex, PAIR_HEADS)]
        body = [[_tex(pair.a), _tex(pair.b), *map(_tex_number, pair_cells(pair))] for pair in pairs]
        title = f"{part}, {head}: {one.queries:,} queries"
        blocks.append(_tabular(title, "llrrrrr", heads, body))
    comments = [f"% {' '.join(note.split())}" for note in notes(comparison)]
    return "\n\n".join([*blocks, "\n".join(comments)]) + "\n"


def _tabular(title: str, columns: str, heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [" & ".join(row) + r" \\" for row in body]
    lines = [
        f"% {' '.join(title.split())}",
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's end it would be an option of that end
    "]": "{]}",
    "–": "--",
    "−": r"$-$",
}


def _tex_number(text: str) -> str:
    return _tex(text.replace("-", "−"))


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in " ".join(text.split()))


def as_csv(comparison: "Comparison") -> str:
    """A row a pair; see `m2kr.evaluation.compare.Comparison.rows`."""
    rows = comparison.rows()
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["source"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _harmless(value: object) -> object:
    """A text that no spreadsheet takes for a formula; all else as it is."""
    formula = isinstance(value, str) and value.lstrip()[:1] in {"=", "+", "-", "@"}
    return f"'{value}" if formula or (isinstance(value, str) and value[:1] in "\t\r") else value
