"""Tables of what a reader's answers came to: no retrieval, what was retrieved, and the oracle."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.display import on_one_line
from m2kr.errors import InputError, M2KRError
from m2kr.evaluation.compare import MetricComparison, Pair, compare_scores
from m2kr.evaluation.comparison_tables import (
    PAIR_HEADS,
    WIDTH,
    column_blocks,
    laid_out,
    markdown_table,
    markdown_text,
    number_text,
    pair_cells,
    span_text,
    turned,
)
from m2kr.evaluation.significance import bootstrap_interval
from m2kr.rag.agreement import JUDGE, agreement_table, describe_agreement
from m2kr.rag.arm_scores import NO_VALUE, Arm, ArmScores
from m2kr.rag.figure_intervals import figure_intervals, recorded_verdicts
from m2kr.rag.records import NONE, ORACLE, SCORE
from m2kr.rag.scorer_registry import open_scorer
from m2kr.sources import verdict as comparable_note

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.rag.records import RagResult
    from m2kr.rag.scorer import AnswerScorer

TABLE_FORMAT = "m2kr-rag-table-1"
_MOST_VALUES = 12  # of a column, in tables for people; the dict has all
_USAGE = {
    "input_tokens": "tokens in",
    "output_tokens": "tokens out",
    "seconds": "seconds",
    "dollars": "dollars",
}
_LEGEND = (
    "In brackets: 95 % bootstrap intervals. Arms of a column that share a letter can't be told apart "
    "(paired randomisation tests of all pairs, Holm, level .05)."
)
_PAIRS = (
    "p: randomisation test of the difference; t: paired t test; both after Holm's correction for all "
    "pairs of arms, by each scorer. wins/ties/losses: questions on which the first is better, as good, "
    "worse."
)


@dataclass(frozen=True, slots=True)
class ArmCell:
    """One arm by one scorer.

    Attributes:
        value: The mean; None where an answer could not be judged, or there is none.
        low: Lower end of its 95 % interval; None where it has no value.
        high: Upper end.
        judged: Answers that were judged.
        not_judged: Answers that could not be.
        least: The mean if those were all wrong; None if there are no answers.
        most: The mean if they were all right.
        letters: Arms that share one can't be told apart; empty where nothing was tested.
    """

    value: float | None
    low: float | None
    high: float | None
    judged: int
    not_judged: int
    least: float | None
    most: float | None
    letters: str = ""


@dataclass(frozen=True)
class ArmsPart:
    """Arms on the same questions.

    Attributes:
        title: Which questions, or of what this is the mean.
        questions: Their number.
        arms: Names of the arms.
        cells: By scorer and arm.
        pairs: By scorer, every two arms once, the later one of the table first.
        is_mean: Whether this is the mean over tasks.
    """

    title: str
    questions: int
    arms: tuple[str, ...]
    cells: Mapping[str, Mapping[str, ArmCell]]
    pairs: Mapping[str, Sequence[Pair]]
    is_mean: bool = False


@dataclass(frozen=True, repr=False)
class AnswerTable:
    """All that tables show of one result; ``print`` shows it.

    Attributes:
        label: The reader and its retriever.
        source: ``source/split``.
        arms: In the order of tables.
        parts: First all questions with the arms that answered all of them. If an arm did not, such as the
            oracle where a question has no right passage, then those that all arms answered. Last the mean
            over tasks, where all exist.
        figures: By scorer, figure and arm ``value``, ``low`` and ``high`` of figures that are no plain mean.
        breakdown: By column and value: ``n`` questions, and ``scores`` by scorer and arm: None where
            undefined.
        usage: By arm tokens, seconds and dollars a question; None where unknown.
        in_passages: By arm the share of the questions with an accepted answer in the passages that a
            reader gets: what one that only copies can reach.
        counts: As the result has them.
        notes: What must be said beside the scores, in sentences.
    """

    label: str
    source: str
    arms: tuple[Arm, ...]
    parts: tuple[ArmsPart, ...]
    figures: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float | None]]]]
    breakdown: Mapping[str, Mapping[str, Mapping[str, Any]]]
    usage: Mapping[str, Mapping[str, float | None]]
    in_passages: Mapping[str, float]
    counts: Mapping[str, int]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, result: "RagResult") -> "AnswerTable":
        """The tables of a result; equal records give equal ones, in whatever order they lie.

        Raises:
            M2KRError: Its records are not there, or damaged; see `ArmScores.of`.
        """
        of_arms = ArmScores.of(result)
        if not of_arms.question_ids:
            raise InputError("the result has no answers", where=str(result.path or result.name))
        return cls(
            result.label,
            f"{result.source}/{result.split}",
            of_arms.arms,
            tuple(_parts(of_arms)),
            _figures(result, of_arms),
            _breakdown(of_arms),
            dict(zip(of_arms.labels, of_arms.usage, strict=True)),
            _in_passages(result, of_arms.arms),
            dict(result.counts),
            tuple(_notes(result, of_arms)),
        )

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers; the first is the one whose differences are shown."""
        return tuple(self.parts[0].cells)

    def cell(self, scorer: str, arm: str) -> ArmCell | None:
        """An arm's score on as many questions as it was asked: of the first part that has it."""
        cells = (part.cells.get(scorer, {}).get(arm) for part in self.parts)
        return next((cell for cell in cells if cell is not None), None)

    def __str__(self) -> str:
        return _as_text(self)

    def __repr__(self) -> str:
        return f"AnswerTable of {self.label} on {self.source}: print() shows it"

    def to_markdown(self) -> str:
        """The tables in Markdown."""
        return _as_markdown(self)

    _repr_markdown_ = to_markdown

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values; what is undefined is null."""
        return {
            "format": TABLE_FORMAT,
            "label": self.label,
            "source": self.source,
            "arms": [{"label": arm.label, "arm": arm.kind, "k": arm.k} for arm in self.arms],
            "parts": [asdict(part) for part in self.parts],
            "figures": self.figures,
            "breakdown": self.breakdown,
            "usage": self.usage,
            "answer_in_passages": self.in_passages,
            "counts": self.counts,
            "notes": list(self.notes),
        }


# Numbers.


def _parts(of_arms: ArmScores) -> Iterator[ArmsPart]:
    answered = of_arms.rows >= 0
    whole = np.flatnonzero(answered.all(axis=0))
    everywhere = np.asarray(answered.all(axis=1))
    count = len(of_arms.question_ids)
    if len(whole):
        title = f"All {counted(count)}" if count > 1 else "One question"
        yield _part(of_arms, title, whole, np.ones(count, bool))
    if len(whole) < len(of_arms.arms) and everywhere.any():
        title = f"{everywhere.sum():,} of {counted(count)}: those that all arms were asked"
        yield _part(of_arms, title, np.arange(len(of_arms.arms)), everywhere)
    if not len(whole) and not everywhere.any():  # no two arms can be set side by side
        for arm, label in enumerate(of_arms.labels):
            title = f"{label} alone: {counted(int(answered[:, arm].sum()))}"
            yield _part(of_arms, title, np.array([arm]), answered[:, arm])
    tasks = of_arms.groups.get("task")
    if tasks and NO_VALUE not in tasks:
        yield from _mean_of_tasks(of_arms, np.array(tasks, object), everywhere)


def counted(questions: int) -> str:
    """``1 question``, ``2,000 questions``."""
    return f"{questions:,} question" + ("" if questions == 1 else "s")


def _part(
    of_arms: ArmScores, title: str, arms: "NDArray[np.int64]", questions: "NDArray[np.bool_]"
) -> ArmsPart:
    labels = [of_arms.labels[arm] for arm in arms]
    cells, pairs = {}, {}
    for name, scores in of_arms.scores.items():
        scored = questions & of_arms.defined[name]
        chosen = scores[scored][:, arms]
        of_scorer = {label: _cell(chosen[:, i]) for i, label in enumerate(labels)}
        groups = {
            column: [value for value, kept in zip(values, scored, strict=True) if kept]
            for column, values in of_arms.groups.items()
        }
        compared = _compared(name, labels, [chosen], [groups])
        cells[name] = _lettered(of_scorer, compared)
        pairs[name] = _pairs_of(compared, labels)
    return ArmsPart(title, int(questions.sum()), tuple(labels), cells, pairs)


def _mean_of_tasks(
    of_arms: ArmScores, tasks: "NDArray[np.object_]", everywhere: "NDArray[np.bool_]"
) -> Iterator[ArmsPart]:
    """The mean over tasks, of the arms that have a score for each."""
    answered = of_arms.rows >= 0
    names = sorted(set(tasks))
    whole = np.flatnonzero(answered.all(axis=0))
    arms, kept = (whole, np.ones(len(tasks), bool))
    if len(whole) < len(of_arms.arms) and set(tasks[everywhere]) == set(names):
        arms, kept = np.arange(len(of_arms.arms)), everywhere
    if not len(arms):
        return
    labels = [of_arms.labels[arm] for arm in arms]
    cells: dict[str, Mapping[str, ArmCell]] = {}
    pairs: dict[str, Sequence[Pair]] = {}
    for name, scores in of_arms.scores.items():
        scored = kept & of_arms.defined[name]
        strata = [scores[scored & (tasks == task)][:, arms] for task in names]
        compared = _compared(name, labels, strata, [{}] * len(strata))
        of_scorer = {}
        for i, label in enumerate(labels):
            by_task = [_cell(stratum[:, i]) for stratum in strata]
            judged = sum(cell.judged for cell in by_task)
            low, high = compared.intervals.get(label, (None, None))
            of_scorer[label] = ArmCell(
                _mean_of([cell.value for cell in by_task]),
                low,
                high,
                judged,
                sum(cell.not_judged for cell in by_task),
                _mean_of([cell.least for cell in by_task]),
                _mean_of([cell.most for cell in by_task]),
            )
        cells[name] = _lettered(of_scorer, compared)
        pairs[name] = _pairs_of(compared, labels)
    title = f"Mean of {len(names)} tasks"
    if not kept.all():
        title += f", over the {counted(int(kept.sum()))} that all arms were asked"
    yield ArmsPart(title, int(kept.sum()), tuple(labels), cells, pairs, is_mean=True)


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _cell(scores: "NDArray[np.float64]") -> ArmCell:
    judged = scores[~np.isnan(scores)]
    missing = len(scores) - len(judged)
    if not len(scores):
        return ArmCell(None, None, None, 0, 0, None, None)
    least = float(judged.sum()) / len(scores)
    most = (float(judged.sum()) + missing) / len(scores)
    if missing:
        return ArmCell(None, None, None, len(judged), missing, least, most)
    low, high = bootstrap_interval(scores)
    return ArmCell(least, low, high, len(judged), 0, least, least)


def _compared(
    name: str,
    labels: Sequence[str],
    strata: "Sequence[NDArray[np.float64]]",
    groups: Sequence[Mapping[str, Sequence[str]]],
) -> MetricComparison:
    """Tests of the arms whose answers were all judged; maybe none."""
    judged = [i for i in range(len(labels)) if not any(np.isnan(s[:, i]).any() for s in strata)]
    if not judged or not all(map(len, strata)):
        return MetricComparison(name, 0, {}, {}, {}, (), None)
    kept = [labels[i] for i in judged]
    return compare_scores(name, kept, [stratum[:, judged] for stratum in strata], groups)


def _lettered(cells: Mapping[str, ArmCell], compared: MetricComparison) -> dict[str, ArmCell]:
    several = len(compared.means) > 1
    return {
        label: ArmCell(
            cell.value,
            cell.low,
            cell.high,
            cell.judged,
            cell.not_judged,
            cell.least,
            cell.most,
            compared.letters.get(label, "") if several else "",
        )
        for label, cell in cells.items()
    }


def _pairs_of(compared: MetricComparison, labels: Sequence[str]) -> list[Pair]:
    """The pairs, each arm's difference from those before it in the table."""
    return [
        turned(pair) if labels.index(pair.a) < labels.index(pair.b) else pair
        for pair in compared.pairs
    ]


def _figures(
    result: "RagResult", of_arms: ArmScores
) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """By scorer, figure and arm its value and interval; without one where the scorer can't be opened."""
    figures: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
    for scorer, totals in result.totals.items():
        recorded = {
            Arm(row["arm"], row["k"]).label: row.get("figures") or {}
            for row in totals
            if {"arm", "k"} <= set(row)
        }
        if not any(recorded.values()):
            continue
        opened = _opened(scorer)
        of_scorer = figures.setdefault(scorer, {})
        for number, label in enumerate(of_arms.labels):
            rows = of_arms.rows[:, number]
            rows = rows[rows >= 0]
            asked = (of_arms.rows[:, number] >= 0) & of_arms.defined[scorer]
            if np.isnan(of_arms.scores[scorer][asked, number]).any():
                continue  # of those judged alone: such a figure would say too much
            spans = (
                figure_intervals(opened, *recorded_verdicts(result, scorer, rows)) if opened else {}
            )
            for name, value in recorded.get(label, {}).items():
                _, low, high = spans.get(name, (None, None, None))
                of_scorer.setdefault(name, {})[label] = {"value": value, "low": low, "high": high}
    return figures


def _opened(scorer: str) -> "AnswerScorer | None":
    try:
        return open_scorer(scorer, {})
    except M2KRError:  # it needs a checkpoint, or is of one's own: its figures have no intervals
        return None


def _breakdown(of_arms: ArmScores) -> dict[str, dict[str, dict[str, Any]]]:
    broken_down: dict[str, dict[str, dict[str, Any]]] = {}
    for column, values in of_arms.groups.items():
        told = np.array(values, object)
        for value in sorted(set(values)):
            chosen = told == value
            broken_down.setdefault(column, {})[value] = {
                "n": int(chosen.sum()),
                "scores": {
                    name: {
                        label: _cell(
                            scores[chosen & (of_arms.rows[:, i] >= 0) & of_arms.defined[name], i]
                        ).value
                        for i, label in enumerate(of_arms.labels)
                    }
                    for name, scores in of_arms.scores.items()
                },
            }
    return broken_down


def _in_passages(result: "RagResult", arms: Sequence[Arm]) -> dict[str, float]:
    shares = {}
    for arm in arms:
        share = result.bounds.get(str(arm.k)) if arm.kind not in (NONE, ORACLE) else None
        if isinstance(share, Mapping):
            share = share.get("value")
        if isinstance(share, int | float):
            shares[arm.label] = float(share)
    return shares


def _notes(result: "RagResult", of_arms: ArmScores) -> Iterator[str]:
    counts = result.counts
    if counts.get("no_gold"):
        yield (
            f"Without an accepted answer: {counted(counts['no_gold'])}, not asked and counted nowhere."
        )
    if counts.get("no_right_passage"):
        yield (
            f"Without a right passage: {counted(counts['no_right_passage'])}, which the oracle was not "
            "asked."
        )
    for name, scores in of_arms.scores.items():
        defined = of_arms.defined[name]
        if unusable := int((~defined).sum()):
            yield (
                f"{unusable:,} questions have no accepted answer that {name} can use: they do not count "
                "there."
            )
        missing = {
            label: int((np.isnan(scores[:, i]) & (of_arms.rows[:, i] >= 0) & defined).sum())
            for i, label in enumerate(of_arms.labels)
        }
        if any(missing.values()):
            told = ", ".join(f"{label} {n:,}" for label, n in missing.items() if n)
            yield (
                f"{name} could not judge some answers ({told}): such an arm has no score, but bounds, if "
                "those are all wrong or all right; it is not tested."
            )
    others = [name for name in result.scorers if name != JUDGE]
    if JUDGE in result.scorers and others:
        columns = ["question_id", "answer", *(SCORE + name for name in result.scorers)]
        table = agreement_table(result.records(columns).to_pydict(), JUDGE, others)
        yield from (f"{describe_agreement(row)}." for row in table)
    if result.comparable:
        yield f"{result.source}: {comparable_note(result.comparable)}"
    if result.partial:
        yield f"{result.source}: a part of the source alone was built (partial)."
    yield from result.notes


# Text for a terminal.


def _as_text(table: AnswerTable) -> str:
    """Tables of at most 80 columns, with notes; a number is never cut."""
    lines: list[str] = []
    for title, rows in _tables(table, whole=False):
        for block in column_blocks(rows):
            lines += [*textwrap.wrap(on_one_line(title), WIDTH), *laid_out(block), ""]
    further = table.scorers[1:]
    left = (
        [f"Differences and breakdowns by {', '.join(further)}: in --json and the report."]
        if further
        else []
    )
    for note in (*_legends(table), *left, *table.notes):
        lines += textwrap.wrap(on_one_line(note), WIDTH, break_on_hyphens=False)
    return "\n".join(lines)


def _tables(table: AnswerTable, *, whole: bool) -> Iterator[tuple[str, list[list[str]]]]:
    """Title, and rows of cells with the heads first.

    Args:
        table: What is shown.
        whole: Whether all scorers have their differences and breakdowns, or the first alone.
    """
    name = f"{table.source}, {table.label}"
    for place, part in enumerate(table.parts):
        scorers = list(part.cells)
        rows = [["", *map(on_one_line, scorers)]]
        beside = table.in_passages if not place else {}
        if beside:
            rows[0].append("answer in\npassages")
        for label in part.arms:
            row = [label, *(_cell_text(part.cells[scorer][label]) for scorer in scorers)]
            rows.append([*row, _share(beside.get(label))] if beside else row)
        yield f"{name}. {part.title}", rows
    short = {arm.label: _short(arm) for arm in table.arms}
    for part in table.parts:
        for scorer in list(part.pairs)[: None if whole else 1]:
            pairs = [] if part.is_mean else list(shown_pairs(part, scorer))
            if pairs:
                rows = [["first − second", "diff.", "95 %", *PAIR_HEADS[2:]]]
                rows += [[f"{short[p.a]} − {short[p.b]}", *pair_cells(p)] for p in pairs]
                yield f"{scorer}: differences. {part.title}", rows
    for scorer, figures in table.figures.items():
        rows = [["", *(figure.replace("_", " ") for figure in figures)]]
        for arm in table.arms:
            rows.append([arm.label, *(_figure_text(f.get(arm.label)) for f in figures.values())])
        yield f"{scorer}: figures that are no plain mean", rows
    for column, scorer, values in _breakdowns(table, whole=whole):
        rows = [[column.replace("_", " "), "n", *map(_short, table.arms)]]
        for value, facts in values.items():
            of_arms = facts["scores"][scorer]
            cells = [_share(of_arms[arm.label]) for arm in table.arms]
            rows.append([on_one_line(value), f"{facts['n']:,}", *cells])
        yield f"{scorer} by {column.replace('_', ' ')}", rows
    rows = [["", *_USAGE.values()]]
    for label, usage in table.usage.items():
        rows.append([label, *(_amount(usage[name]) for name in _USAGE)])
    yield "What a question took", rows


def shown_pairs(part: ArmsPart, scorer: str) -> Iterator[Pair]:
    """The differences that matter: of each arm from no retrieval, and from the oracle."""
    ends = [Arm(NONE, 0).label, Arm(ORACLE, 0).label]
    pairs = {frozenset((pair.a, pair.b)): pair for pair in part.pairs[scorer]}
    for end in ends:
        for label in part.arms:
            pair = pairs.get(frozenset((label, end)))
            if pair is not None and not (end == ends[1] and label == ends[0]):
                yield pair if pair.a == label else turned(pair)


def _breakdowns(
    table: AnswerTable, *, whole: bool
) -> Iterator[tuple[str, str, Mapping[str, Mapping[str, Any]]]]:
    scorers = table.scorers[: None if whole else 1]
    for column, values in table.breakdown.items():
        largest = sorted(values, key=lambda value: (-values[value]["n"], value))[:_MOST_VALUES]
        for scorer in scorers:
            yield column, scorer, {value: values[value] for value in values if value in largest}


def _legends(table: AnswerTable) -> Iterator[str]:
    yield _LEGEND
    if any(pairs for part in table.parts for pairs in part.pairs.values()):
        yield _PAIRS
    if table.in_passages:
        yield (
            "Answer in passages: the share of the questions with an accepted answer in the passages, "
            "on no more of which a reader that only copies can be wholly right."
        )
    for column, values in table.breakdown.items():
        if len(values) > _MOST_VALUES:
            yield f"The {_MOST_VALUES} largest of {len(values):,} values of {column} are shown."


def _short(arm: Arm) -> str:
    return {NONE: "none", ORACLE: "oracle"}.get(arm.kind, f"@{arm.k}")


def _share(value: float | None) -> str:
    return "–" if value is None else number_text(value)


def _cell_text(cell: ArmCell) -> str:
    """A cell's lines: its mean and letters, and the interval; or the bounds of what isn't known."""
    if cell.value is not None and cell.low is not None and cell.high is not None:
        return (
            f"{number_text(cell.value)} {cell.letters}".rstrip()
            + f"\n{span_text(cell.low, cell.high)}"
        )
    if cell.least is None or cell.most is None:
        return "–"
    bounds = f"{number_text(cell.least)} to {number_text(cell.most)}"
    return f"{bounds}\n{cell.not_judged:,} not judged"


def _figure_text(figure: Mapping[str, float | None] | None) -> str:
    if figure is None or figure["value"] is None:
        return "–"
    text = number_text(figure["value"])
    low, high = figure["low"], figure["high"]
    return text if low is None or high is None else f"{text}\n{span_text(low, high)}"


def _amount(value: float | None) -> str:
    if value is None:
        return "–"
    if not value:
        return "0"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


# Markdown.


def _as_markdown(table: AnswerTable) -> str:
    """The same tables and notes in Markdown."""
    blocks = []
    for title, rows in _tables(table, whole=True):
        heads, *body = [[" ".join(cell.split("\n")) for cell in row] for row in rows]
        cells = [list(map(markdown_text, row)) for row in body]
        heads = [markdown_text(heads[0]) or "arm", *map(markdown_text, heads[1:])]
        blocks.append(f"**{markdown_text(title)}**\n\n{markdown_table(heads, cells)}")
    notes = map(markdown_text, (*_legends(table), *table.notes))
    return "\n\n".join([*blocks, *notes]) + "\n"
