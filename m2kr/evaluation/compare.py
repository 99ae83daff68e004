"""Systems compared by the scores of the same queries: what differs, by how much, and whether it's chance."""

import math
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import InputError, UsageError
from m2kr.evaluation.metrics import parse
from m2kr.evaluation.paired_tests import LEVEL, holm, paired_tests, significance_letters
from m2kr.evaluation.result import Result
from m2kr.evaluation.systems import Systems, listed, scoring_command, side_by_side, varying
from m2kr.progress import SILENT, Progress, task
from m2kr.sources import verdict

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FORMAT = "m2kr-comparison-1"
# The mean over sources of what each source's paper reports first, whichever metrics these are.
HEADLINE = "headline"
_EQUAL = 1e-12

Tally = tuple[int, int, int]


@dataclass(frozen=True)
class Pair:
    """Two systems by one metric.

    Attributes:
        a: The first system.
        b: The second.
        difference: Mean of the first minus mean of the second.
        low: Lower end of the difference's 95 % paired bootstrap interval.
        high: Upper end.
        p: Of the two-sided randomisation test.
        p_holm: The same after Holm's correction for all pairs of systems; it decides.
        exact: Whether all sign assignments were counted, or a sample.
        p_t: Of the paired t test; None where it is undefined (one query).
        p_t_holm: The same after Holm's correction.
        wins: Queries on which the first is better.
        ties: Queries on which both are equal.
        losses: Queries on which the second is better.
        groups: By column and its value the same three numbers.
        smallest_difference: What difference this pair's test could have shown (80 % power, level .05); of
            more than the metric can reach, it could have shown none. None where all queries differ alike.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    exact: bool
    p_t: float | None
    p_t_holm: float | None
    wins: int
    ties: int
    losses: int
    groups: Mapping[str, Mapping[str, Tally]]
    smallest_difference: float | None

    @property
    def significant(self) -> bool:
        """Whether the two differ at the level .05, all pairs considered."""
        return self.p_holm < LEVEL


@dataclass(frozen=True)
class MetricComparison:
    """All systems by one metric.

    Attributes:
        metric: Its name, or ``headline``.
        queries: Queries that it is defined for.
        means: By system.
        intervals: By system the ends of the mean's 95 % interval.
        letters: By system; systems that share a letter can't be told apart.
        pairs: Every two systems once.
        smallest_difference: The pairs' median: what difference such a test can show; None if unknown.
    """

    metric: str
    queries: int
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    letters: Mapping[str, str]
    pairs: tuple[Pair, ...]
    smallest_difference: float | None

    @property
    def ranking(self) -> list[str]:
        """The systems, best first; of equal ones the name decides."""
        return sorted(self.means, key=lambda name: (-self.means[name], name))


@dataclass(frozen=True, repr=False)
class Comparison:
    """What comparing systems found; ``print`` shows it, and a notebook as tables.

    Attributes:
        systems: What they are called, in the order in which they were given.
        by_source: By ``source/split`` and metric.
        macro: The same for means over the sources, where there are several: of each metric that all
            have, and ``headline``, each source by its own headline metric.
        headlines: By source its headline metric.
        fingerprints: By source the ``eval`` fingerprint of the data that all were scored on.
        notes: What must be said beside it, in sentences.
    """

    systems: tuple[str, ...]
    by_source: Mapping[str, Mapping[str, MetricComparison]]
    macro: Mapping[str, MetricComparison]
    headlines: Mapping[str, str]
    fingerprints: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def metrics(self) -> Mapping[str, MetricComparison]:
        """By metric: of the one source, or of the means over several."""
        return self.macro or next(iter(self.by_source.values()))

    def parts(self) -> dict[str, Mapping[str, MetricComparison]]:
        """By name: the means over sources, if there are several, and each source."""
        means = {f"Mean of {len(self.by_source)} sources": self.macro} if self.macro else {}
        return {**means, **self.by_source}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each part, metric and pair of systems, as plain values."""
        rows = []
        for part, metrics in self.parts().items():
            for name, compared in metrics.items():
                for pair in compared.pairs:
                    facts = asdict(pair)
                    del facts["groups"]
                    rows.append(
                        {
                            "source": part,
                            "metric": name,
                            "queries": compared.queries,
                            "a": pair.a,
                            "b": pair.b,
                            "mean_a": compared.means[pair.a],
                            "mean_b": compared.means[pair.b],
                            "letters_a": compared.letters[pair.a],
                            "letters_b": compared.letters[pair.b],
                            **facts,
                        }
                    )
        return rows

    def to_pandas(self) -> "pd.DataFrame":
        """`rows` as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def to_markdown(self) -> str:
        """Tables of systems and of pairs in Markdown."""
        from m2kr.evaluation.comparison_tables import as_markdown

        return as_markdown(self)

    def to_latex(self) -> str:
        r"""The same tables in LaTeX, for ``\usepackage{booktabs}``."""
        from m2kr.evaluation.comparison_tables import as_latex

        return as_latex(self)

    def to_csv(self) -> str:
        """`rows` as CSV. A name that a spreadsheet would take for a formula gets a ``'`` before it."""
        from m2kr.evaluation.comparison_tables import as_csv

        return as_csv(self)

    _repr_markdown_ = to_markdown

    def __repr__(self) -> str:
        sources = ", ".join(self.by_source)
        return f"Comparison of {len(self.systems)} systems on {sources}: print() shows it"

    def __str__(self) -> str:
        from m2kr.evaluation.comparison_tables import as_text

        return as_text(self)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "format": FORMAT,
            "systems": list(self.systems),
            "headlines": dict(self.headlines),
            "fingerprints": dict(self.fingerprints),
            "notes": list(self.notes),
            "by_source": {
                source: {name: asdict(one) for name, one in metrics.items()}
                for source, metrics in self.by_source.items()
            },
            "macro": {name: asdict(one) for name, one in self.macro.items()},
        }


def compare_results(
    results: Iterable[Result],
    *,
    metrics: str | Sequence[str] = "default",
    progress: Progress = SILENT,
) -> Comparison:
    """Compares the systems that some results are of, query by query.

    Every metric has a test of its own for each source and for the mean over sources; Holm's correction is
    over the pairs of systems, not over metrics or sources. Equal results give equal numbers, in whatever
    order they come.

    Args:
        results: Of two systems or more, each on the same sources.
        metrics: ``default``: of each source its headline metric and those that tables show; ``full``:
            all that the results have; or names, in a list or joined by commas.
        progress: Told of each test.

    Raises:
        UsageError: there are not two systems, a system lacks a source, or there is no such metric.
        InputError: results without scores of queries, or without a metric that is named.
        CheckError: results of different data under one name.
    """
    systems = side_by_side(results)
    headlines = {source: of[0].headline for source, of in systems.results.items()}
    chosen = {source: _metrics(systems, source, metrics) for source in systems.results}
    if not any(chosen.values()):
        raise UsageError(
            "there is no metric to compare by: none of those that are shown is defined for all systems",
            where=listed([*chosen]),
            expected="a metric that all were scored by; these have "
            + "; ".join(
                f"{label} {', '.join(result.scores)}"
                for of in systems.results.values()
                for label, result in zip(systems.labels, of, strict=True)
            ),
            fix="--metrics full",
        )
    tests = [(source, name, {source: name}) for source, names in chosen.items() for name in names]
    tests += [("", name, pieces) for name, pieces in _means(chosen, headlines).items()]
    compared: dict[str, dict[str, MetricComparison]] = {source: {} for source in ("", *chosen)}
    with task(progress, "compare", len(tests), "metrics"):
        for part, name, pieces in tests:
            compared[part][name] = _compare(systems, name, pieces)
            progress.advance("compare", 1)
    macro = compared.pop("")
    return Comparison(
        systems.labels,
        compared,
        macro,
        headlines,
        {source: str(of[0].fingerprints["eval"]) for source, of in systems.results.items()},
        tuple(
            dict.fromkeys([*systems.notes, *_cautions(systems, chosen), *_without_means(chosen)])
        ),
    )


def _metrics(systems: Systems, source: str, spec: str | Sequence[str]) -> list[str]:
    """The metrics by which a source's results are compared, in the order in which they are shown."""
    results = systems.results[source]
    words = spec.split(",") if isinstance(spec, str) else list(spec)
    if odd := [word for word in words if not isinstance(word, str)]:
        raise UsageError(f"{odd[0]!r} is no name of a metric", expected="such as hit_rate@5")
    words = [word.strip() for word in words]
    names: dict[str, bool] = {}  # and whether it was named
    for word in words:
        if word == "default":
            shown = [results[0].headline, *(name for r in results for name in r.shown)]
            names |= dict.fromkeys([n for n in shown if n], False)
        elif word == "full":
            names |= dict.fromkeys([name for r in results for name in r.scores], False)
        else:
            names[_known(word, systems)] = True
    order = [name for r in results for name in r.scores]
    chosen = []
    for name in sorted(names, key=lambda n: order.index(n) if n in order else -1):
        lacking = [s for s, r in zip(systems.labels, results, strict=True) if name not in r.scores]
        if len(lacking) == len(results):
            continue
        if lacking and names[name]:
            raise InputError(
                f"{listed(lacking)} was not scored by {name}",
                where=source,
                expected="each system scored by it",
                fix=scoring_command([r for r in results if name not in r.scores], name),
            )
        if not lacking and not np.isnan(systems.scores(source, name)).all():
            chosen.append(name)
    return chosen


def _known(word: str, systems: Systems) -> str:
    """The name of a metric that some result has.

    Raises:
        UsageError: there is no such metric, or no result has it.
    """
    name = word.rpartition(":")[2]
    scored = {name for of in systems.results.values() for r in of for name in r.scores}
    if name in scored:
        return name
    name = parse(word).name
    if name not in scored:
        raise UsageError(
            f"no result was scored by {name}",
            expected=f"one of {', '.join(sorted(scored))}",
            fix=scoring_command(next(iter(systems.results.values())), name),
        )
    return name


def _means(
    chosen: Mapping[str, Sequence[str]], headlines: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """By name of a mean over the sources the metric of each; none for one source."""
    if len(chosen) < 2:
        return {}
    means = {}
    if len(set(headlines.values())) > 1 and all(headlines[s] in chosen[s] for s in chosen):
        means[HEADLINE] = {source: headlines[source] for source in chosen}
    first, *others = chosen.values()
    for name in first:
        if all(name in of for of in others):
            means[name] = dict.fromkeys(chosen, name)
    return means


def _compare(systems: Systems, name: str, pieces: Mapping[str, str]) -> MetricComparison:
    """All systems by one metric, on one source or as the mean over several."""
    strata, groups = [], []
    for source, metric in pieces.items():
        scores = systems.scores(source, metric)
        defined = ~np.isnan(scores[:, 0])
        strata.append(scores[defined])
        groups.append(
            {
                column: np.array(values, object)[defined].tolist()
                for column, values in systems.groups(source).items()
            }
        )
    compared = compare_scores(name, systems.labels, strata, groups)
    return replace(compared, intervals=_intervals(systems, pieces, compared.intervals))


def compare_scores(
    name: str,
    labels: Sequence[str],
    strata: "Sequence[NDArray[np.float64]]",
    groups: Sequence[Mapping[str, Sequence[str]]],
) -> MetricComparison:
    """Systems by one metric from the scores of the same queries; see `paired_tests`.

    Args:
        name: Of the metric.
        labels: Of the systems.
        strata: Per source (queries x systems) finite scores.
        groups: Per source, by column, the value of each of these queries; may be none.
    """
    tallies = _Tallies(len(labels))
    for scores, of_source in zip(strata, groups, strict=True):
        tallies.add(scores, of_source)
    tests = paired_tests(strata)
    p_holm, p_t_holm = holm(tests.p), holm(tests.p_t)
    pairs = []
    first, second = (ends.tolist() for ends in np.triu_indices(len(labels), 1))
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        wins, ties, losses = tallies.whole[i]
        pairs.append(
            Pair(
                labels[a],
                labels[b],
                float(tests.differences[i]),
                float(tests.low[i]),
                float(tests.high[i]),
                float(tests.p[i]),
                float(p_holm[i]),
                bool(tests.exact[i]),
                _number(tests.p_t[i]),
                _number(p_t_holm[i]),
                wins,
                ties,
                losses,
                tallies.by_group(i),
                _number(tests.smallest_difference[i]),
            )
        )
    means = {label: float(mean) for label, mean in zip(labels, tests.means, strict=True)}
    return MetricComparison(
        name,
        sum(map(len, strata)),
        means,
        {
            label: (float(low), float(high))
            for label, low, high in zip(labels, *tests.intervals, strict=True)
        },
        _letters(means, pairs),
        tuple(pairs),
        _median(pair.smallest_difference for pair in pairs),
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _intervals(
    systems: Systems,
    pieces: Mapping[str, str],
    of_means: Mapping[str, tuple[float, float]],
) -> dict[str, tuple[float, float]]:
    """By system the ends of its interval: on one source those that its result already tells."""
    intervals = dict(of_means)
    if len(pieces) == 1:
        ((source, metric),) = pieces.items()
        for label, result in zip(systems.labels, systems.results[source], strict=True):
            facts = result.metrics.get(metric, {})
            low, high = facts.get("low"), facts.get("high")
            if low is not None and high is not None:
                intervals[label] = (float(low), float(high))
    return intervals


def _letters(means: Mapping[str, float], pairs: Sequence[Pair]) -> dict[str, str]:
    """By system its letters; ``a`` is the best system's."""
    ranked = sorted(means, key=lambda name: (-means[name], name))
    place = {name: i for i, name in enumerate(ranked)}
    different = np.zeros((len(ranked), len(ranked)), bool)
    for pair in pairs:
        a, b = place[pair.a], place[pair.b]
        different[a, b] = different[b, a] = pair.significant
    groups = significance_letters(different)
    return {name: "".join(map(_letter, of)) for name, of in zip(ranked, groups, strict=True)}


def _letter(number: int) -> str:
    """``a`` to ``z``, ``A`` to ``Z``, then ``a1`` and so on: joined, they can be told apart."""
    alphabet = string.ascii_letters
    turn, place = divmod(number, len(alphabet))
    return alphabet[place] + (str(turn) if turn else "")


class _Tallies:
    """Wins, ties and losses of all pairs, over all sources and by group."""

    def __init__(self, systems: int) -> None:
        self._first, self._second = np.triu_indices(systems, 1)
        self._whole = np.zeros((len(self._first), 3), np.int64)
        self._groups: dict[str, dict[str, NDArray[np.int64]]] = {}

    def add(self, scores: "NDArray[np.float64]", groups: Mapping[str, Sequence[str]]) -> None:
        """Counts a source's (queries x systems) scores; the groups are of these queries."""
        values = {
            column: np.unique(np.array(of, object).astype(str), return_inverse=True)
            for column, of in groups.items()
        }
        for i, (a, b) in enumerate(zip(self._first, self._second, strict=True)):
            difference = scores[:, a] - scores[:, b]
            # 0 for a win, 1 for a tie, 2 for a loss.
            outcome = 1 - (difference > _EQUAL).astype(np.int64) + (difference < -_EQUAL)
            self._whole[i] += np.bincount(outcome, minlength=3)
            for column, (names, codes) in values.items():
                counts = np.bincount(codes * 3 + outcome, minlength=3 * len(names))
                for name, three in zip(names, counts.reshape(-1, 3), strict=True):
                    of_column = self._groups.setdefault(column, {})
                    empty = np.zeros_like(self._whole)
                    of_column.setdefault(str(name), empty)[i] += three

    @property
    def whole(self) -> list[Tally]:
        """Over all queries."""
        return [_tally(row) for row in self._whole]

    def by_group(self, pair: int) -> dict[str, dict[str, Tally]]:
        """Of one pair, by column and value."""
        return {
            column: {value: _tally(counts[pair]) for value, counts in of.items()}
            for column, of in self._groups.items()
        }


def _tally(row: "NDArray[np.int64]") -> Tally:
    wins, ties, losses = map(int, row)
    return wins, ties, losses


def _cautions(systems: Systems, chosen: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What sets results apart besides their systems, or keeps them from meaning what they seem to."""
    for source in systems.unjudged:
        yield f"{source}: left out, since nothing was scored there"
    by_system = zip(*systems.results.values(), strict=True)
    for label, results in zip(systems.labels, by_system, strict=True):
        if keys := varying(results):
            yield f"{label} is not the same on all sources: {listed(keys)} differs"
    for source, results in systems.results.items():
        named = list(zip(systems.labels, results, strict=True))
        if results[0].partial:
            yield f"{source}: a part of the source alone was built (partial)"
        for reason in dict.fromkeys(r.comparable for r in results if r.comparable):
            who = [name for name, r in named if r.comparable == reason]
            of = "" if len(who) == len(named) else f" ({listed(who)})"
            yield f"{source}{of}: {verdict(reason)}"
        seen = {name: r.fingerprints.get("images") for name, r in named}
        if len({mark for mark in seen.values() if mark}) > 1:
            yield f"{source}: not all that read images saw the same ones ({listed([*seen])})"
        orders = {str(r.experiment.get("ties", "m2kr")) for r in results}
        if len(orders) > 1:
            yield f"{source}: passages that score alike were ordered in two ways ({listed(sorted(orders))})"
        depths = {r.k for r in results}
        if len(depths) > 1 and any(_reach(name) > min(depths) for name in chosen[source]):
            deep = [f"{name} {r.k:,}" for name, r in named]
            yield f"{source}: the rankings end at different ranks: {listed(deep)}"
        modes = {r.search_mode for r in results}
        if "exact" in modes and len(modes) > 1:
            approximate = [name for name, r in named if r.search_mode != "exact"]
            yield f"{source}: {listed(approximate)} searched approximately, the others exactly"
        left = {name for r in results for name in [r.headline, *r.shown] if name in r.scores} - set(
            chosen[source]
        )
        for name in sorted(left):
            lacking = [label for label, r in named if name not in r.scores]
            if lacking:
                yield f"{source}: {name} is left out, since {listed(lacking)} has none"


def _reach(name: str) -> float:
    """The rank down to which a metric looks."""
    k = name.partition("@")[2]
    return int(k) if k.isdecimal() else math.inf


def _without_means(chosen: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name in dict.fromkeys(name for of in chosen.values() for name in of):
        lacking = [source for source, of in chosen.items() if name not in of]
        if lacking:
            yield f"{name}: no mean over the sources, as it is not defined on {listed(lacking)}"
