"""Results put side by side: which are of one system, and whether they may be compared at all."""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import paths
from m2kr.errors import CheckError, InputError, UsageError
from m2kr.evaluation.result import Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARTS = ("queries", "judgements", "pool")
_LONGEST_VALUE = 16  # characters of a setting in a system's label
_LONGEST_SETTINGS = 24  # of all of them
_EXAMPLES = 5


@dataclass(frozen=True)
class Systems:
    """The same systems on the same queries of one source or more.

    Attributes:
        labels: What each system is called, in the order in which they were given.
        results: By ``source/split`` each system's result, in the order of ``labels``.
        query_ids: By source its queries, sorted.
        unjudged: Sources that were left out: without judgements nothing was scored there.
        notes: Settings that a label has no room for, and what was counted as one.
    """

    labels: tuple[str, ...]
    results: Mapping[str, tuple[Result, ...]]
    query_ids: Mapping[str, tuple[str, ...]]
    unjudged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def scores(self, source: str, metric: str) -> "NDArray[np.float64]":
        """(queries x systems) scores in the order of ``query_ids``, NaN where a query is undefined.

        Raises:
            CheckError: a query is undefined for one system and defined for another.
        """
        scores = np.stack([r.scores[metric] for r in self.results[source]], axis=1)
        undefined = np.isnan(scores)
        uneven = np.flatnonzero(undefined.any(1) != undefined.all(1))
        if len(uneven):
            row = int(uneven[0])
            lacking = [n for n, u in zip(self.labels, undefined[row], strict=True) if u]
            raise CheckError(
                f"{metric} of {len(uneven):,} queries, such as '{self.query_ids[source][row]}', is "
                f"undefined for {listed(lacking)} and defined for others",
                where=source,
                expected="a metric that the data leave undefined, so for all systems alike",
            )
        return scores

    def groups(self, source: str) -> Mapping[str, Sequence[str]]:
        """Per column that the source breaks its results down by, each query's value; maybe none."""
        return next((r.query_groups for r in self.results[source] if r.query_groups), {})


def side_by_side(results: Iterable[Result]) -> Systems:
    """The systems that some results are of, on every source that they name.

    Results of one retriever are one system's if nothing but the source sets them apart; where a source has
    several of them, what differs (settings, index, depth, order of ties, run file) goes into their labels.
    Two results of one run are one, with the metrics of both.

    Raises:
        UsageError: there are not two systems, or a system lacks a source: means have no holes.
        InputError: a result has no scores of queries, or two results of one run disagree.
        CheckError: results of one source have different ``eval`` fingerprints or queries.
    """
    by_source: dict[str, list[Result]] = defaultdict(list)
    unjudged: dict[str, None] = {}
    for result in results:
        source = f"{result.source}/{result.split}"
        if result.metrics:
            by_source[source].append(_in_order(result))
        else:
            unjudged[source] = None
    for source, group in by_source.items():
        _require_one_fingerprint(source, group)
    merged = {source: one_a_run(group) for source, group in by_source.items()}
    labels, legend = system_labels(merged)
    cells: dict[str, dict[str, Result]] = {
        source: dict(zip(labels[source], group, strict=True)) for source, group in merged.items()
    }
    names = tuple(dict.fromkeys(label for of_source in labels.values() for label in of_source))
    if len(names) < 2:
        what = f"{names[0]} alone" if names else "nothing"
        raise UsageError(
            f"there is {what} to compare",
            expected="results of two systems or more on the same queries",
            fix="m2kr compare results/",
        )
    _require_no_holes(names, cells)
    ordered = {source: tuple(cell[name] for name in names) for source, cell in cells.items()}
    ids = {source: _one_set_of_queries(source, names, of) for source, of in ordered.items()}
    notes = [f"{label}: {settings}" for label, settings in legend.items()]
    for source, group in by_source.items():
        notes += repeats(source, len(group) - len(merged[source]))
    return Systems(names, ordered, ids, tuple(unjudged), tuple(notes))


def _called(result: Result) -> str:
    """Where a result lies, or what its file would be called."""
    if result.path is None:
        return f"{result.name}.json"
    return str(_from_here(result.path))


def scoring_command(results: Sequence[Result], metric: str) -> str:
    """The command that scores the runs of one source's results by a further metric, as they were scored."""
    first = results[0]
    words = ["m2kr", "eval", first.source, "--split", first.split, "--edition", first.edition]
    for result in results:
        run = (
            result.path.with_name(result.files["run"])
            if result.path and "run" in result.files
            else None
        )
        words += ["-r", f"run:{_from_here(run)}" if run else str(result.retriever["name"])]
    words += ["--metrics", metric]
    for option, key in (("--ties", "ties"), ("--missing-queries", "missing_queries")):
        if first.experiment.get(key) not in (None, "m2kr", "error"):
            words += [option, str(first.experiment[key])]
    if first.path:
        words += ["--out", str(_from_here(first.path.parent))]
    root = Path(str(first.experiment.get("data", ""))).parent
    if root.is_absolute() and root != paths.data_root().resolve():
        words += ["--data", str(root)]
    return shlex.join(words)


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _in_order(result: Result) -> Result:
    """A result with its queries in the order of their ids.

    Raises:
        InputError: it has no scores of single queries, or not one for each.
    """
    if not result.query_ids or not result.scores:
        raise InputError(
            "the result has no scores of single queries, without which nothing can be paired",
            where=_called(result),
            expected=f"{result.files.get('queries', result.name + '.queries.parquet')}, the file that was "
            "saved with it, beside it",
            fix=f"put it into {_from_here(result.path.parent)}, or evaluate again"
            if result.path
            else "evaluate again",
        )
    ids = result.query_ids
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    if len(set(ids)) < len(ids) or {len(v) for v in result.scores.values()} != {len(ids)}:
        raise InputError("its scores are not one for each query", where=_called(result))
    if any(np.isinf(np.asarray(v, np.float64)).any() for v in result.scores.values()):
        raise InputError("a score is infinite", where=_called(result), expected="numbers, or none")
    return replace(
        result,
        query_ids=tuple(ids[i] for i in order),
        scores={name: np.asarray(v, np.float64)[order] for name, v in result.scores.items()},
        query_groups={name: [v[i] for i in order] for name, v in result.query_groups.items()},
    )


def _require_one_fingerprint(source: str, results: Sequence[Result]) -> None:
    """Refuses results of other data under one name."""
    by_print: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_print[str(result.fingerprints.get("eval") or "")].append(result)
    if unmarked := by_print.get(""):
        raise InputError(
            "it records no eval fingerprint, so nothing shows on which data it was scored",
            where=_called(unmarked[0]),
            fix="evaluate again",
        )
    if len(by_print) == 1:
        return
    (mark, some), (other_mark, other), *_ = by_print.items()
    one, two = some[0], other[0]
    differ = [p for p in _PARTS if one.fingerprints.get(p) != two.fingerprints.get(p)]
    raise CheckError(
        f"{_called(one)} ({one.edition}, {mark[:16]}) and {_called(two)} ({two.edition}, "
        f"{other_mark[:16]}) were scored on different data: {listed(differ) or 'eval'} differ",
        where=source,
        expected="one eval fingerprint: the same queries, judgements and passages; it sets "
        + " apart from ".join(listed([_called(r) for r in of]) for of in by_print.values()),
        fix=f"evaluate one of them anew on the other's data: m2kr eval {one.source} --split "
        f"{one.split} --edition {one.edition} -r {two.retriever.get('name')}",
    )


def _details(result: Result) -> list[dict[str, Any]]:
    """What can set two results of one retriever apart, the plainest first."""
    done = result.experiment
    search = {f"search.{key}": value for key, value in _mapping(done.get("searching")).items()}
    how = {
        **search,
        **_mapping(result.retriever.get("arguments")),
        **_mapping(result.retriever.get("settings")),
    }
    scoring = {key: done[key] for key in ("ties", "missing_queries") if key in done}
    return [
        how,
        {"k": result.k, **scoring},
        {"class": done.get("class")},
        {"run": _mapping(result.retriever.get("run")).get("file")},
        {"images": result.fingerprints.get("images"), "missing_images": done.get("missing_images")},
    ]


def varying(results: Sequence[Result]) -> list[str]:
    """The settings that a system doesn't have alike on all sources, its class and order of ties among them.

    Args:
        results: Of one system, on several sources.
    """
    # Runs and images, and how deep a run is, are the source's own.
    *plain, _run, _images = zip(*map(_details, results), strict=True)
    return [
        key
        for of_kind in plain
        for key in dict.fromkeys(key for details in of_kind for key in details)
        if key != "k" and len({json.dumps(d.get(key), sort_keys=True) for d in of_kind}) > 1
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    """What a file may hold or not, and in another form."""
    return value if isinstance(value, Mapping) else {}


def _base(result: Result) -> str:
    words = [str(result.retriever["name"]), str(result.retriever.get("label") or "")]
    if result.search_mode != "exact":
        words.append(f"({result.search_mode})")
    return " ".join(word for word in words if word)


def repeats(source: str, count: int) -> list[str]:
    """What `one_a_run` did to a source's results, in a sentence, if anything."""
    if not count:
        return []
    many = "1 result is" if count == 1 else f"{count:,} results are"
    return [f"{source}: {many} of the same run as another one, and counted as one system with it"]


def one_a_run(results: Iterable[Result]) -> list[Result]:
    """The results of one source; those of one run as one, however often it was replayed and scored."""
    kept: dict[str, Result] = {}
    for result in results:
        made = [result.retriever.get(key) or {} for key in ("settings", "arguments")]
        scored = [result.experiment.get(key) for key in ("ties", "missing_queries")]
        key = json.dumps([_base(result), result.run_sha256, made, scored], sort_keys=True)
        other = kept.get(key, result)
        if other.retriever.get("run") and not result.retriever.get("run"):
            other, result = result, other  # a replayed run doesn't know what it cost
        if other.query_ids and result.query_ids and other.query_ids != result.query_ids:
            other, result = _in_order(other), _in_order(result)
        for metric in sorted({*other.scores} & {*result.scores}):
            if not np.array_equal(other.scores[metric], result.scores[metric], equal_nan=True):
                raise InputError(
                    f"it scores the same run as {_called(other)}, and {metric} is another",
                    where=_called(result),
                    fix="give one of the two files alone",
                )
        kept[key] = replace(
            other,
            scores={**result.scores, **other.scores},
            metrics={**result.metrics, **other.metrics},
            groups=_joined_groups(result.groups, other.groups),
            shown=[*dict.fromkeys([*other.shown, *result.shown])],
            query_ids=other.query_ids or result.query_ids,
            query_groups=other.query_groups or result.query_groups,
        )
    return list(kept.values())


def _joined_groups(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """By column and value the numbers of both."""
    return {
        column: {
            value: {
                **of.get(value, {}),
                "metrics": {
                    **one.get(column, {}).get(value, {}).get("metrics", {}),
                    **of.get(value, {}).get("metrics", {}),
                },
            }
            for value in of
        }
        for column, of in {**one, **other}.items()
    }


def system_labels(
    by_source: Mapping[str, Sequence[Result]],
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Per source its results' labels: as short as they can be, equal for one system on all sources.

    Returns:
        The labels, and by label the settings that set it apart, where the label has no room for them.

    Raises:
        InputError: two results of a source have one name and different rankings.
    """
    # A retriever, and what sets its results apart by and by.
    names: dict[str, list[tuple[str, ...]]] = {
        source: [(_base(result),) for result in of] for source, of in by_source.items()
    }
    for level in range(len(_details(next(iter(by_source.values()))[0])) if by_source else 0):
        twice = {name for of in names.values() for name in of if of.count(name) > 1}
        for name in twice:
            keys = _differing(name, level, names, by_source)
            for source, results in by_source.items():
                for place, result in enumerate(results):
                    if names[source][place] == name:
                        words = [_word(key, _details(result)[level].get(key)) for key in keys]
                        names[source][place] = (*name, *words)
    short, legend = _shortened(names, by_source)
    labels = {source: [short[name] for name in of] for source, of in names.items()}
    for source, results in by_source.items():
        of = labels[source]
        twice_here = {label for label in of if of.count(label) > 1}
        labels[source] = [
            f"{label} {_digits(result)}" if label in twice_here else label
            for label, result in zip(of, results, strict=True)
        ]
        if len(set(labels[source])) < len(results):
            raise InputError(
                "two results have one name and different rankings",
                where=f"{source}: {listed(sorted(set(labels[source])))}",
                fix="give one of the two files alone",
            )
    return labels, legend


def _differing(
    name: tuple[str, ...],
    level: int,
    names: Mapping[str, Sequence[tuple[str, ...]]],
    by_source: Mapping[str, Sequence[Result]],
) -> list[str]:
    """What of a kind differs between the results of one source that share a name."""
    keys: dict[str, None] = {}
    for source, results in by_source.items():
        same = [
            _details(result)[level]
            for result, of in zip(results, names[source], strict=True)
            if of == name
        ]
        for key in dict.fromkeys(key for details in same for key in details):
            if len({json.dumps(details.get(key), sort_keys=True) for details in same}) > 1:
                keys[key] = None
    return list(keys)


def _word(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if key == "run" else f"{key}={text}"


def _shortened(
    names: Mapping[str, Sequence[tuple[str, ...]]], by_source: Mapping[str, Sequence[Result]]
) -> tuple[dict[tuple[str, ...], str], dict[str, str]]:
    """By name its label, and by label the settings that it stands for, if it doesn't tell them.

    A retriever's results whose settings are too long, or alike or half a list when they are cut, are told
    apart by the digits of a result file; of a system on several sources, by one of them on all.
    """
    digits: dict[tuple[str, ...], str] = {}
    for source in sorted(names):
        for name, result in zip(names[source], by_source[source], strict=True):
            digits.setdefault(name, _digits(result))
    cut = {name: " ".join(map(_cut, name[1:])) for name in digits}
    unclear = {
        name[0]
        for name in cut
        if len(cut[name]) > _LONGEST_SETTINGS
        or any(_cut(word) != word and word.partition("=")[2][:1] in ("{", "[") for word in name[1:])
        or sum(other[0] == name[0] and cut[other] == cut[name] for other in cut) > 1
    }
    short = {
        name: " ".join(filter(None, [name[0], digits[name] if name[0] in unclear else cut[name]]))
        if len(name) > 1
        else name[0]
        for name in cut
    }
    legend = {
        short[name]: "; ".join(name[1:])
        for name in cut
        if len(name) > 1 and short[name] != " ".join(name)
    }
    return short, legend


def _cut(word: str) -> str:
    start = word.find("=") + 1
    return word if len(word) <= start + _LONGEST_VALUE else f"{word[: start + _LONGEST_VALUE - 1]}…"


def _digits(result: Result) -> str:
    """The end of a result's name, which is another one for each experiment."""
    return result.name.rpartition(".")[2]


def _require_no_holes(names: Sequence[str], cells: Mapping[str, Mapping[str, Result]]) -> None:
    """Refuses a mean over sources that some system lacks, with the command that leaves those out."""
    holes = [(name, source) for name in names for source in cells if name not in cells[source]]
    if not holes:
        return
    common = [source for source in cells if all(name in cells[source] for name in names)]
    if common:
        chosen = [cells[source][name] for source in common for name in names]
        offer = f"the sources that all have ({listed(common)})"
    else:
        best = max(cells, key=lambda source: len(cells[source]))
        chosen = list(cells[best].values())
        offer = f"those that {best} was evaluated with"
    lacking = [f"{name} has no result on {source}" for name, source in holes[:_EXAMPLES]]
    more = f", and {len(holes) - _EXAMPLES} more holes" if len(holes) > _EXAMPLES else ""
    enough = len(chosen) > 1
    raise UsageError(
        "; ".join(lacking) + more,
        expected="each system on each source: a mean over holes would be of other sources"
        + (f". Without them, {offer}:" if enough else ""),
        fix=shlex.join(["m2kr", "compare", *map(_called, chosen)])
        if enough
        else "evaluate what is lacking",
    )


def _one_set_of_queries(
    source: str, names: Sequence[str], results: Sequence[Result]
) -> tuple[str, ...]:
    ids = results[0].query_ids
    for name, result in zip(names, results, strict=True):
        if result.query_ids != ids:
            odd = sorted({*ids} ^ {*result.query_ids})
            raise CheckError(
                f"{name} was scored on other queries than {names[0]}: {len(odd):,} are only in one of "
                f"them, such as {listed(odd[:3])}",
                where=source,
            )
    return ids


def listed(words: Sequence[str]) -> str:
    """The first few of some words."""
    return ", ".join(words[:_EXAMPLES]) + (" …" if len(words) > _EXAMPLES else "")
