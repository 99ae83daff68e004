"""Figures to be reproduced: those that are published for M2KR, and a file's own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from m2kr.errors import InputError, UsageError
from m2kr.evaluation.metrics import parse
from m2kr.search.config import Mode
from m2kr.sources import SPLIT_ALIASES
from m2kr.yaml_files import read_yaml

PUBLISHED = Path(__file__).with_name("published.yaml")
_KEYS = {
    "name",
    "title",
    "retriever",
    "settings",
    "parameters",
    "search",
    "k",
    "split",
    "edition",
    "figures",
    "others",
    "release",
}
_RELEASE = {"from", "revision", "repair", "any_counts"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One published number.

    Attributes:
        source: Of the benchmark, or one's own.
        metric: Such as ``pseudo_recall@5``.
        value: In points of 100.
        where: The table that it stands in.
        others: What other tables say of the same, by where they are; of other weights, and not compared.
    """

    source: str
    metric: str
    value: float
    where: str
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """A system whose figures were published.

    Attributes:
        name: Of the folder of its results.
        title: For people.
        retriever: As for ``m2kr eval``.
        settings: Of the retriever.
        figures: What was published.
        search: How late interaction is searched: first as the figures were made, then for comparison.
        k: Depth.
        split: Of the sources.
        edition: Of the sources; None for the release's, or the only one.
        parameters: Of the model; None if unknown.
        release: How the authors' release is had: ``from`` (a folder), ``revision``, ``repair``,
            ``any_counts``; see ``m2kr build --help``.
    """

    name: str
    title: str
    retriever: str
    settings: Mapping[str, str]
    figures: tuple[Figure, ...]
    search: tuple[Mode, ...] = ("exact",)
    k: int = 500
    split: str = "test"
    edition: str | None = None
    parameters: int | None = None
    release: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """Those that it has figures of, in their order."""
        return list(dict.fromkeys(figure.source for figure in self.figures))

    def of(self, source: str) -> list[Figure]:
        """The figures of one source."""
        return [figure for figure in self.figures if figure.source == source]

    def only(self, sources: Sequence[str]) -> "Target":
        """The same for some of its sources.

        Raises:
            UsageError: it has no figure of one.
        """
        from m2kr.sources import nearest_source, normalise

        known = {normalise(name): name for name in self.sources}
        wanted = {nearest_source(name, known) for name in sources}
        return replace(self, figures=tuple(f for f in self.figures if f.source in wanted))


@dataclass(frozen=True, slots=True)
class Suite:
    """Several targets, and what belongs to them and can't be run.

    Attributes:
        targets: To be run.
        not_run: Why, by what.
    """

    targets: tuple[Target, ...]
    not_run: Mapping[str, str]


def published_names() -> dict[str, list[str]]:
    """Names of ``targets`` and of ``suites`` that are published."""
    facts = _published()
    return {kind: list(facts[kind]) for kind in ("targets", "suites")}


def find_target(name: str) -> Target:
    """A published target, or that of a YAML file.

    Raises:
        UsageError: there is none of the name.
        MissingError: no such file.
        InputError: the file can't be read as a target.
    """
    if name.lower().endswith((".yaml", ".yml")):
        return read_target(Path(name))
    facts = _published()
    key = name.strip().lower().replace("_", "-")
    if key not in facts["targets"]:
        raise UsageError(
            f"no figures are published for '{name}'",
            expected=", ".join(facts["targets"]) + ", or a .yaml file of your own",
            fix=f"m2kr reproduce --suite {key}"
            if key in facts["suites"]
            else "m2kr reproduce --suite paper-baselines --plan, which says what can't be run, and why",
        )
    return _target(key, facts["targets"][key], facts["tables"], f"{PUBLISHED.name}: {key}")


def find_suite(name: str) -> Suite:
    """A suite of published targets.

    Raises:
        UsageError: there is none of the name.
    """
    suites = _published()["suites"]
    if name not in suites:
        raise UsageError(f"there is no suite '{name}'", expected=", ".join(suites))
    targets = tuple(map(find_target, suites[name]["targets"]))
    return Suite(targets, {what: why.strip() for what, why in suites[name]["not_run"].items()})


def read_target(path: Path) -> Target:
    """The target of a YAML file.

    Raises:
        MissingError: no such file.
        InputError: it is none.
    """
    facts = read_yaml(path, "figures", "retriever: ..., figures: ...")
    return _target(str(facts.get("name") or path.stem), facts, {}, str(path))


@cache
def _published() -> dict[str, Any]:
    return read_yaml(PUBLISHED, "figures", "targets, suites, tables")


def _target(name: str, facts: Mapping[str, Any], tables: Mapping[str, str], where: str) -> Target:
    unknown = set(map(str, facts)) - _KEYS
    if unknown:
        raise InputError(
            f"unknown key '{min(unknown)}'", where=where, expected=", ".join(sorted(_KEYS))
        )
    if not isinstance(facts.get("retriever"), str):
        raise InputError("it names no retriever", where=where, expected="retriever: preflmr")
    settings = _mapping(facts, "settings", where)
    search = facts.get("search", ["exact"])
    modes = [search] if isinstance(search, str) else search
    if not isinstance(modes, list) or not modes or set(modes) - {"exact", "compressed", "official"}:
        raise InputError(f"search is {search!r}", where=where, expected="[official, exact]")
    others: dict[tuple[str, str], dict[str, float]] = {}
    for source, metric, value, place in _values(facts.get("others", []), where):
        others.setdefault((source, metric), {})[tables.get(place, place)] = value
    figures: dict[tuple[str, str], Figure] = {}
    for source, metric, value, place in _values(facts.get("figures"), where):
        key = source, metric
        if key in figures:
            raise InputError(f"{source} {metric} is given twice", where=where)
        figures[key] = Figure(source, metric, value, tables.get(place, place), others.get(key, {}))
    if not figures:
        raise InputError("it has no figures", where=where, expected=_EXAMPLE)
    release = _mapping(facts, "release", where)
    if set(release) - _RELEASE:
        raise InputError(
            f"release has {sorted(release)}", where=where, expected=", ".join(sorted(_RELEASE))
        )
    k, split = facts.get("k", 500), str(facts.get("split", "test"))
    deepest = max(parse(metric).k for _, metric in figures)
    if type(k) is not int or k < deepest:
        raise InputError(f"k is {k!r}", where=where, expected=f"at least {deepest}")
    return Target(
        name=name,
        title=str(facts.get("title") or name),
        retriever=facts["retriever"],
        settings={str(key): str(value) for key, value in settings.items()},
        figures=tuple(figures.values()),
        search=cast("tuple[Mode, ...]", tuple(dict.fromkeys(modes))),
        k=k,
        split=SPLIT_ALIASES.get(split.lower(), split),
        edition=facts.get("edition"),
        parameters=facts.get("parameters"),
        release=release,
    )


_EXAMPLE = 'figures: [{where: "Table 2", values: {okvqa: {pseudo_recall@5: 69.0}}}]'


def _mapping(facts: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = facts.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{key} is {value!r}", where=where, expected="a mapping")
    return value


def _values(tables: Any, where: str) -> Iterator[tuple[str, str, float, str]]:
    """Source, metric, value and place of each figure.

    Raises:
        InputError: one can't be read, or may be points of 100 as well as a share.
        UsageError: a metric is unknown.
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError("its figures are no list of tables", where=where, expected=_EXAMPLE)
    for table in tables:
        place = str(table.get("where", "")).strip()
        values = table.get("values")
        if not place or not isinstance(values, dict) or set(table) - {"where", "values"}:
            raise InputError("a table of figures is not understood", where=where, expected=_EXAMPLE)
        for source, metrics in values.items():
            if not isinstance(metrics, dict):
                raise InputError(f"{source} has no metrics", where=where, expected=_EXAMPLE)
            for metric, value in metrics.items():
                chosen = parse(str(metric))
                yield str(source), chosen.name, _points(value, f"{where}: {source} {metric}"), place


def _points(value: Any, where: str) -> float:
    """A figure in points of 100: a number, or ``"0.5%"`` where it is less than 1.

    Raises:
        InputError: it is none, or may be a share.
    """
    text = str(value).strip()
    try:
        points = float(text.removesuffix("%"))
    except ValueError:
        points = -1.0
    if isinstance(value, bool) or not 0 <= points <= 100:
        raise InputError(f"the figure is {value!r}", where=where, expected="points of 100: 69.0")
    if 0 < points <= 1 and not text.endswith("%"):
        raise InputError(
            f"{text} may be {points * 100:g} or {points:g} points of 100",
            where=where,
            expected=f"{points * 100:g}, or '{points:g}%'",
        )
    return points
