"""Results by system and source, as a report shows them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from m2kr.evaluation.metrics import GRID
from m2kr.evaluation.result import Result
from m2kr.evaluation.systems import one_a_run, repeats, system_labels
from m2kr.report.tables import shown_metrics

PRIMARY = "primary"  # each source's own primary metric


@dataclass(frozen=True)
class Column:
    """One split and the results on it; all of them have its ``eval`` fingerprint.

    Attributes:
        key: Names it in links: ``okvqa.test``.
        label: Names it to people: ``okvqa/test``, or ``okvqa`` where no other split of it is shown.
        results: By system.
    """

    key: str
    label: str
    results: Mapping[str, Result]

    @property
    def first(self) -> Result:
        """One of the results, for what they share."""
        return next(iter(self.results.values()))

    def metric(self, name: str) -> str:
        """The metric that a choice means here: `PRIMARY` is the source's own."""
        if name != PRIMARY:
            return name
        shown = shown_metrics(list(self.results.values()))
        known = {metric for result in self.results.values() for metric in result.metrics}
        named = [self.first.headline, "hit_rate@5", *shown, *sorted(known)]
        return next((metric for metric in named if metric in known), "")


@dataclass(frozen=True)
class Summary:
    """The results of a report.

    Attributes:
        systems: Their labels, the same one in all columns: first those that are on most splits, of those
            the best by the mean of primary metrics.
        columns: In the order met.
        notes: Settings that a label has no room for, and what was counted as one.
    """

    systems: tuple[str, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, results: Sequence[Result]) -> "Summary":
        """Results by system and split; the same one given twice is there once, and so are those of one run.

        Splits of one name whose data differ are columns of their own: their scores don't compare.

        Raises:
            InputError: Two results have one name and different rankings.
        """
        by_split: dict[tuple[str, ...], list[Result]] = {}
        for result in {result.name: result for result in results}.values():
            split = (result.source, result.split, result.edition)
            data = (*split, str(result.fingerprints.get("eval")))
            by_split.setdefault(data, []).append(result)
        merged = {data: one_a_run(group) for data, group in by_split.items()}
        labels, legend = system_labels({"\0".join(data): group for data, group in merged.items()})
        names = _split_names(list(by_split))
        columns = [
            Column(key, label, dict(zip(of, group, strict=True)))
            for (key, label), of, group in zip(names, labels.values(), merged.values(), strict=True)
        ]
        systems = _in_order(dict.fromkeys(chain.from_iterable(labels.values())), columns)
        ordered = [
            replace(column, results={s: column.results[s] for s in systems if s in column.results})
            for column in columns
        ]
        notes = [f"{label}: {settings}" for label, settings in legend.items()]
        for column, group in zip(columns, by_split.values(), strict=True):
            notes += repeats(column.label, len(group) - len(column.results))
        return cls(tuple(systems), tuple(ordered), tuple(notes))

    def metrics(self) -> list[str]:
        """Every metric that some result has, those of tables first."""
        results = [result for column in self.columns for result in column.results.values()]
        first = [column.metric(PRIMARY) for column in self.columns]
        rest = sorted(
            {metric for result in results for metric in result.metrics},
            key=lambda name: (name.partition("@")[0], _cutoff(name)),
        )
        return [name for name in dict.fromkeys([*first, *shown_metrics(results), *rest]) if name]

    def value(self, system: str, column: Column, metric: str) -> Mapping[str, Any] | None:
        """``value, low, high, n`` of a system on a split; None where there is none."""
        result = column.results.get(system)
        scored = result.metrics.get(column.metric(metric)) if result is not None else None
        return scored if scored and scored["value"] is not None else None


def _in_order(systems: Iterable[str], columns: Sequence[Column]) -> list[str]:
    values = {
        system: [
            value
            for column in columns
            if system in column.results
            and (value := column.results[system].value(column.metric(PRIMARY))) is not None
        ]
        for system in systems
    }
    return sorted(values, key=lambda name: (-len(values[name]), -sum(values[name])))


def _cutoff(metric: str) -> int:
    _, _, k = metric.partition("@")
    return int(k) if k.isdecimal() else 0


def curve(result: Result, stem: str = "hit_rate") -> list[tuple[int, float]]:
    """A metric by its cut-off, ascending, where it is defined."""
    values = {k: result.value(f"{stem}@{k}") for k in (*GRID, 1000)}
    return [(k, value) for k, value in values.items() if value is not None]


def costs(result: Result) -> dict[str, float]:
    """What a system costs, so far as its result tells; a replayed run cost nothing that it could tell.

    Returns:
        ``seconds`` and ``cpu_seconds`` of search a query, ``passages`` a second that were encoded or
        indexed, ``bytes`` a passage of the index.
    """
    if "run" in result.retriever:
        return {}
    cost, queries = result.cost, result.counts.get("queries") or 0
    rate = cost.get("queries_per_second")
    seconds = 1 / rate if rate else None
    if not cost and queries and not any(result.retriever.get("reused", {}).values()):
        seconds = (result.seconds.get("search") or 0) / queries  # of an older version
    cpu = (cost.get("cpu_seconds") or {}).get("search")
    known = {
        "seconds": seconds,
        "cpu_seconds": cpu / queries if cpu and queries and rate else None,
        "passages": cost.get("passages_per_second"),
        "bytes": result.bytes_per_passage,
    }
    return {name: float(value) for name, value in known.items() if value}


def _split_names(splits: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Key and label of each split: as short as can be."""
    sources = Counter(source for source, *_ in {split[:2] for split in splits})
    pairs = Counter(split[:2] for split in splits)
    editions = Counter(split[:3] for split in splits)
    names = []
    for source, split, edition, data in splits:
        key = f"{source}.{split}"
        label = f"{source}/{split}" if sources[source] > 1 or split != "test" else source
        if pairs[source, split] > 1:
            key, label = f"{key}.{edition}", f"{label} ({edition})"
        if editions[source, split, edition] > 1:
            digest = data.rpartition(":")[2][:6]
            key, label = f"{key}.{digest}", f"{label} {digest}"
        names.append((key, label))
    return names
