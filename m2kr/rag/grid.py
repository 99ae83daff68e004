"""Several results of readers side by side: reader by retriever, on the same questions."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.display import on_one_line
from m2kr.errors import CheckError, InputError, UsageError
from m2kr.evaluation.compare import Comparison, MetricComparison, compare_scores
from m2kr.evaluation.comparison_tables import (
    as_csv,
    as_latex,
    as_text,
    column_blocks,
    laid_out,
    markdown_table,
    markdown_text,
    number_text,
    span_text,
)
from m2kr.evaluation.significance import bootstrap_interval
from m2kr.rag.arm_scores import ArmScores
from m2kr.rag.records import NONE, ORACLE
from m2kr.rag.tables import counted
from m2kr.sources import verdict as comparable_note

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.rag.records import RagResult

GRID_FORMAT = "m2kr-rag-grid-1"
USUAL_K = 5  # at which papers compare readers
NO_RETRIEVAL, WITH_ORACLE = "no retrieval", "oracle"
_LONGEST = 24  # characters of what sets two readers of one name apart


@dataclass(frozen=True)
class _Cell:
    """One reader with one retriever, without passages, or with the right ones, on one source."""

    result: "RagResult"
    scores: ArmScores
    # By k the place among the arms; for no retrieval and the oracle, which have none, by -1.
    arms: Mapping[int, int]

    def column(self, scorer: str, k: int) -> "NDArray[np.float64] | None":
        """Scores of the questions in the order of their ids; None where it has none of that k."""
        arm = self.arms.get(k, self.arms.get(-1))
        return None if arm is None else self.scores.scores[scorer][:, arm]

    def asked(self) -> set[str]:
        """The questions that it answered, with every k."""
        ids = np.array(self.scores.question_ids, object)
        rows = self.scores.rows[:, list(self.arms.values())]
        return set(ids[(rows >= 0).all(axis=1)])


@dataclass(frozen=True, repr=False)
class AnswerGrid:
    """Readers by retrievers; ``print`` shows it.

    Attributes:
        comparison: Every reader with every retriever is a system, and so are its answers without
            retrieval and with the oracle; metrics are ``SCORER@K``.
        readers: Names, in the order given.
        columns: ``no retrieval``, the retrievers, and ``oracle``.
        systems: By reader and column the name of the system; none where there is no such result.
    """

    comparison: Comparison
    readers: tuple[str, ...]
    columns: tuple[str, ...]
    systems: Mapping[tuple[str, str], str]

    def __str__(self) -> str:
        lines: list[str] = []
        for title, rows in self._tables():
            for block in column_blocks(rows):
                lines += [on_one_line(title), *laid_out(block), ""]
        return "\n".join([*lines, as_text(self.comparison)])

    def __repr__(self) -> str:
        return f"AnswerGrid of {len(self.readers)} readers: print() shows it"

    def to_markdown(self) -> str:
        """The grid, and tables of all systems and of pairs, in Markdown."""
        blocks = []
        for title, rows in self._tables():
            heads, *body = [[markdown_text(cell) for cell in row] for row in rows]
            blocks.append(f"**{markdown_text(title)}**\n\n{markdown_table(heads, body)}")
        return "\n\n".join([*blocks, self.comparison.to_markdown()])

    _repr_markdown_ = to_markdown

    def to_latex(self) -> str:
        """Tables of all systems and of pairs in LaTeX."""
        return as_latex(self.comparison)

    def to_csv(self) -> str:
        """A row for each pair of systems; see `m2kr.evaluation.compare.Comparison.rows`."""
        return as_csv(self.comparison)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values: the comparison, and ``grid``: where its systems stand."""
        grid = [
            {"reader": reader, "column": column, "system": system}
            for (reader, column), system in self.systems.items()
        ]
        return self.comparison.as_dict() | {"format": GRID_FORMAT, "grid": grid}

    def _tables(self) -> Iterator[tuple[str, list[list[str]]]]:
        for source, metric in self.comparison.headlines.items():
            compared = self.comparison.by_source[source].get(metric)
            if compared is None:
                continue
            rows = [["reader", *map(on_one_line, self.columns)]]
            for reader in self.readers:
                names = [self.systems.get((reader, column)) for column in self.columns]
                rows.append([on_one_line(reader), *(_cell_text(compared, name) for name in names)])
            yield f"{source}, {metric}: {counted(compared.queries)}", rows


def _cell_text(compared: MetricComparison, system: str | None) -> str:
    if system is None or system not in compared.means:
        return "–"
    score = f"{number_text(compared.means[system])} {compared.letters[system]}".rstrip()
    return f"{score}\n{span_text(*compared.intervals[system])}"


def compare_answers(
    results: "Sequence[RagResult]", *, metrics: str | Sequence[str] = "default"
) -> AnswerGrid:
    """Compares readers and retrievers by what the answers to the same questions scored.

    Args:
        results: Of one reader and one run each, on one source or on several.
        metrics: ``default``: the first scorer at every k that all have, and the others at 5 or, if there
            is none, at the largest; ``full``: all scorers at every k; or names such as ``okvqa`` and
            ``okvqa@5``.

    Raises:
        UsageError: There are not two systems, or no such scorer or k.
        InputError: Records that can't be read, or that a scorer could not judge.
        CheckError: They were asked of different data or of different questions, or two of one
            experiment disagree.
    """
    by_source: dict[str, list[RagResult]] = defaultdict(list)
    distinct = {str(result.path or id(result)): result for result in results}
    for result in distinct.values():
        by_source[f"{result.source}/{result.split}"].append(result)
    if not by_source:
        raise UsageError("there are no results to compare")
    readers = _distinct_names([(str(r.reader["name"]), r.reader.get("facts")) for r in results])
    retrievers = _distinct_names(
        [
            (str(r.retriever["name"]), r.retriever.get("sha256"))
            for r in results
            if r.retriever is not None
        ]
    )
    notes: list[str] = []
    cells: dict[str, dict[tuple[str, str], _Cell]] = {}
    for source, group in by_source.items():
        _require_same_data(source, group)
        cells[source] = _cells(group, readers, retrievers, notes)
        _require_same_questions(source, cells[source])
        notes += _without_others(source, cells[source])
    placed = {
        place: _system(*place) for place in dict.fromkeys(p for c in cells.values() for p in c)
    }
    for source, of_source in cells.items():
        if lacking := [name for place, name in placed.items() if place not in of_source]:
            raise UsageError(
                f"there is no result of {', '.join(lacking)} on {source}",
                expected="each reader with the same retrievers on every source: means have no holes",
            )
    if len(placed) < 2:
        raise UsageError(
            "there is one system alone to compare",
            expected="answers of two readers or retrievers, or with an arm without retrieval",
        )
    chosen, headlines, said = _chosen(cells, metrics)
    notes += said
    compared = {
        source: {name: _compared(of_source, placed, name, *place) for name, place in chosen.items()}
        for source, of_source in cells.items()
    }
    macro = {}
    if len(cells) > 1:
        macro = {
            name: compare_scores(
                name,
                list(placed.values()),
                [_matrix(of_source, placed, *place) for of_source in cells.values()],
                [{}] * len(cells),
            )
            for name, place in chosen.items()
        }
    for source, group in by_source.items():
        for reason in dict.fromkeys(r.comparable for r in group if r.comparable):
            notes.append(f"{source}: {comparable_note(reason)}")
        if any(r.partial for r in group):
            notes.append(f"{source}: a part of the source alone was built (partial)")
    return AnswerGrid(
        Comparison(
            tuple(placed.values()),
            compared,
            macro,
            dict.fromkeys(cells, headlines),
            {source: str(group[0].fingerprints.get("eval")) for source, group in by_source.items()},
            tuple(dict.fromkeys(notes)),
        ),
        tuple(dict.fromkeys(reader for reader, _ in placed)),
        tuple(sorted(dict.fromkeys(column for _, column in placed), key=_column_order)),
        placed,
    )


def _column_order(column: str) -> int:
    return {NO_RETRIEVAL: 0, WITH_ORACLE: 2}.get(column, 1)


def _system(reader: str, column: str) -> str:
    return (
        f"{reader}, {column}" if column in (NO_RETRIEVAL, WITH_ORACLE) else f"{reader} + {column}"
    )


def _distinct_names(named: Sequence[tuple[str, Any]]) -> dict[tuple[str, str], str]:
    """By name and facts (as JSON) a name of its own: what sets those of one name apart is added."""
    keys = list(dict.fromkeys((name, _canonical(facts)) for name, facts in named))
    of_name = Counter(name for name, _ in keys)
    names: dict[tuple[str, str], str] = {}
    for name, canonical in keys:
        label = name
        if of_name[name] > 1:
            others = [json.loads(facts) for other, facts in keys if other == name]
            label = f"{name} ({_what_differs(json.loads(canonical), others)})"
        while label in names.values():
            label += "'"
        names[name, canonical] = label
    return names


def _what_differs(facts: Any, others: Sequence[Any]) -> str:
    if isinstance(facts, dict) and all(isinstance(other, dict) for other in others):
        keys = sorted({key for other in others for key in other})
        differing = [k for k in keys if len({_canonical(other.get(k)) for other in others}) > 1]
        text = ", ".join(f"{key}={facts.get(key)}" for key in differing)
        if text and len(text) <= _LONGEST:
            return text
    from m2kr.evaluation.result import json_sha256

    return str(facts)[:8] if isinstance(facts, str) else json_sha256({"facts": facts})[:8]


def _canonical(facts: Any) -> str:
    return json.dumps(facts, sort_keys=True, ensure_ascii=False, default=str)


def _cells(
    results: "Sequence[RagResult]",
    readers: Mapping[tuple[str, str], str],
    retrievers: Mapping[tuple[str, str], str],
    notes: list[str],
) -> dict[tuple[str, str], _Cell]:
    cells: dict[tuple[str, str], _Cell] = {}
    for result in results:
        scores = ArmScores.of(result)
        reader = readers[str(result.reader["name"]), _canonical(result.reader.get("facts"))]
        columns: dict[str, dict[int, int]] = defaultdict(dict)
        for place, arm in enumerate(scores.arms):
            if arm.kind == NONE:
                columns[NO_RETRIEVAL][-1] = place
            elif arm.kind == ORACLE:
                columns[WITH_ORACLE][-1] = place
            else:
                of = result.retriever or {}
                key = (str(of.get("name")), _canonical(of.get("sha256")))
                columns[retrievers.get(key, "run")][arm.k] = place
        for column, arms in columns.items():
            cell = _Cell(result, scores, arms)
            before = cells.setdefault((reader, column), cell)
            if before is not cell:
                cells[reader, column] = _either(reader, column, before, cell, notes)
    return cells


def _either(reader: str, column: str, first: _Cell, second: _Cell, notes: list[str]) -> _Cell:
    """One of two results of the same reader and passages: that with more k's.

    Raises:
        CheckError: Their scores at some k differ.
    """
    same_questions = first.scores.question_ids == second.scores.question_ids
    for scorer in sorted(first.scores.scores.keys() & second.scores.scores.keys()):
        for k in first.arms.keys() & second.arms.keys():
            one, other = first.column(scorer, k), second.column(scorer, k)
            if not same_questions or one is None or other is None:
                continue
            if differing := int((~np.isclose(one, other, equal_nan=True)).sum()):
                what = f"{_system(reader, column)}: two results differ in {scorer} of {differing:,} questions"
                if column not in (NO_RETRIEVAL, WITH_ORACLE):
                    raise CheckError(
                        what,
                        where=f"{_called(first.result)} and {_called(second.result)}",
                        expected="one result of each reader with each run",
                        fix="compare one of them",
                    )
                notes.append(f"{what}: those of {_called(first.result)} are shown")
    return second if len(second.arms) > len(first.arms) else first


def _called(result: "RagResult") -> str:
    return result.path.name if result.path else result.name


def _require_same_data(source: str, results: "Sequence[RagResult]") -> None:
    by_print: dict[str, list[str]] = defaultdict(list)
    for result in results:
        by_print[str(result.fingerprints.get("eval"))].append(_called(result))
    if len(by_print) > 1:
        raise CheckError(
            "the answers were given on different data: their eval fingerprints differ",
            where=source,
            expected="one eval fingerprint; it sets "
            + " apart from ".join(", ".join(names) for names in by_print.values()),
            fix="run m2kr rag again on one of them",
        )


def _require_same_questions(source: str, cells: Mapping[tuple[str, str], _Cell]) -> None:
    """All but the oracle, which can't be asked every question, must have the same ones.

    Raises:
        CheckError: They don't.
    """
    asked = {place: cell.asked() for place, cell in cells.items() if place[1] != WITH_ORACLE}
    if not asked:
        return
    (first, questions), *others = asked.items()
    for place, of_other in others:
        if differing := sorted(questions ^ of_other):
            raise CheckError(
                f"{_system(*first)} answered {len(questions):,} questions and {_system(*place)} "
                f"{len(of_other):,}: {len(differing):,} are not in both, such as '{differing[0]}'",
                where=source,
                expected="the same questions, answered by all",
                fix="run m2kr rag with the same split and limit for each",
            )


def _without_others(source: str, cells: dict[tuple[str, str], _Cell]) -> list[str]:
    """Takes oracles that were asked other questions out, and says so."""
    asked = {place: cell.asked() for place, cell in cells.items()}
    most = max(asked, key=lambda place: (place[1] != WITH_ORACLE, len(asked[place])))
    said = []
    for place, questions in asked.items():
        if questions != asked[most]:
            del cells[place]
            said.append(
                f"{source}: {_system(*place)} is left out: it was asked {len(questions & asked[most]):,} of "
                f"{counted(len(asked[most]))}. The table of its own result tests it on those."
            )
    return said


def _chosen(
    cells: Mapping[str, Mapping[tuple[str, str], _Cell]], spec: str | Sequence[str]
) -> tuple[dict[str, tuple[str, int]], str, list[str]]:
    """Metrics with their scorer and k, the one shown first, and what is to be said of those left out."""
    every = [cell for of_source in cells.values() for cell in of_source.values()]
    scorers = [
        name for name in every[0].scores.scores if all(name in cell.scores.scores for cell in every)
    ]
    if not scorers:
        raise UsageError(
            "no scorer has judged all of them",
            expected="one scorer that all have: "
            + "; ".join(f"{_called(c.result)} {', '.join(c.scores.scores)}" for c in every),
            fix="m2kr rag … --scorer NAME, which asks no kept answer anew",
        )
    depths = [set(cell.arms) for cell in every if -1 not in cell.arms]
    ks = sorted(set.intersection(*depths)) if depths else [0]
    if not ks:
        raise UsageError(
            "no number of passages is common to all of them",
            expected="one k that all have: "
            + "; ".join(
                f"{_called(c.result)} {', '.join(map(str, c.arms))}"
                for c in every
                if -1 not in c.arms
            ),
            fix="name those that share one, or m2kr rag … --k K, which asks no kept answer anew",
        )
    usual = USUAL_K if USUAL_K in ks else ks[-1]
    names = {f"{scorer}@{k}" if k else scorer: (scorer, k) for scorer in scorers for k in ks}
    words = spec.split(",") if isinstance(spec, str) else list(spec)
    chosen: dict[str, bool] = {}  # and whether it was named
    for word in map(str.strip, words):
        if word in ("default", "full"):
            for name, (scorer, k) in names.items():
                if word == "full" or scorer == scorers[0] or k == usual:
                    chosen.setdefault(name, False)
            continue
        named = [name for name, (scorer, _) in names.items() if word in (name, scorer)]
        if not named:
            raise UsageError(
                f"no result was scored by {word}",
                expected=f"one of {', '.join([*scorers, *names])}",
            )
        chosen |= dict.fromkeys(named, True)
    said = []
    for name in list(chosen):
        lacking = [
            f"{_system(*place)} {missing:,}"
            for of_source in cells.values()
            for place, cell in of_source.items()
            if (missing := _not_judged(cell, *names[name]))
        ]
        reason = f"it could not judge all answers ({', '.join(lacking)})" if lacking else ""
        if several := _of_several_kinds(cells, names[name][0]):
            reason = f"one name, but not the same judge ({several})"
        if reason and chosen[name]:
            raise InputError(
                f"answers can't be compared by {name}: {reason}",
                expected="a verdict on each answer, by the same scorer",
                fix="m2kr rag … --scorer NAME, which asks no kept answer anew",
            )
        if reason:
            del chosen[name]
            said.append(f"{name} is left out: {reason}")
    if not chosen:
        raise InputError(
            "no scorer judged all answers alike: " + "; ".join(said),
            expected="a verdict on each answer, by the same scorer",
        )
    ordered = [name for name in names if name in chosen]
    first = names[ordered[0]][0]
    headline = next((n for n in ordered if names[n] == (first, usual)), ordered[-1])
    return {name: names[name] for name in ordered}, headline, said


def _of_several_kinds(cells: Mapping[str, Mapping[tuple[str, str], _Cell]], scorer: str) -> str:
    """What sets apart the scorers of one name that judged these, such as two models; empty if nothing."""
    placed = [(place, cell) for of_source in cells.values() for place, cell in of_source.items()]
    facts = [dict(cell.result.scorers[scorer]) for _, cell in placed]
    if len(set(map(_canonical, facts))) < 2:
        return ""
    told = {
        f"{_system(*place)}: {_what_differs(own, facts)}"
        for (place, _), own in zip(placed, facts, strict=True)
    }
    return ", ".join(sorted(told))


def _not_judged(cell: _Cell, scorer: str, k: int) -> int:
    scores = cell.column(scorer, k)
    counting = _counting(cell, scorer)
    if not counting.any():
        return len(counting)
    return 0 if scores is None else int(np.isnan(scores[counting]).sum())


def _counting(cell: _Cell, scorer: str) -> "NDArray[np.bool_]":
    """The questions that were answered and that the scorer can score."""
    answered = (cell.scores.rows[:, list(cell.arms.values())] >= 0).all(axis=1)
    return np.asarray(answered & cell.scores.defined[scorer])


def _matrix(
    cells: Mapping[tuple[str, str], _Cell],
    placed: Mapping[tuple[str, str], str],
    scorer: str,
    k: int,
) -> "NDArray[np.float64]":
    """(questions x systems) scores."""
    columns = []
    for place in placed:
        cell = cells[place]
        arm = cell.arms.get(k, cell.arms.get(-1, 0))
        columns.append(cell.scores.scores[scorer][_counting(cell, scorer), arm])
    return np.stack(columns, axis=1)


def _compared(
    cells: Mapping[tuple[str, str], _Cell],
    placed: Mapping[tuple[str, str], str],
    name: str,
    scorer: str,
    k: int,
) -> MetricComparison:
    first = cells[next(iter(placed))]
    counting = _counting(first, scorer)
    groups = {
        column: [value for value, kept in zip(values, counting, strict=True) if kept]
        for column, values in first.scores.groups.items()
    }
    matrix = _matrix(cells, placed, scorer, k)
    compared = compare_scores(name, list(placed.values()), [matrix], [groups])
    # As the tables of the results have them: one number has one interval.
    spans = [bootstrap_interval(scores) for scores in matrix.T]
    return replace(compared, intervals=dict(zip(placed.values(), spans, strict=True)))
