"""Results as a table of text: for terminals, for ``print``, for papers to copy from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from m2kr.evaluation.metrics import heading, metrics
from m2kr.evaluation.result import Result
from m2kr.sources import verdict

INTERVALS = "In brackets: 95 % bootstrap intervals."
_MOST_GROUPS = 8
REUSED = "* in seconds: part of the work had been done before, by this process or another run."
NOT_AUDITED = "recall against exact search unknown (--audit 200 tells)"


def rows(results: Sequence[Result], *, intervals: bool = True) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: per result one over all queries, then one per group of its queries."""
    shown = shown_metrics(results)
    heads = ["source", "retriever", "queries", *map(heading, shown), "images", "seconds"]
    body = []
    for result in results:
        name = f"{result.source}/{result.split}" + (" (partial)" if result.partial else "")
        cells = [interval(result.metrics.get(m), ends=intervals) for m in shown]
        queries = f"all {result.counts['queries']:,}"
        seconds = f"{result.seconds['total']:.1f}" + (" *" if _reuses(result) else "")
        label = str(result.retriever["name"])
        if result.retriever.get("label"):
            label += f" {result.retriever['label']}"
        if result.search_mode != "exact":
            label += f" ({result.search_mode})"
        file = result.retriever.get("run", {}).get("file")
        if file and _names(results).count((result.source, result.split, label)) > 1:
            label += f" ({file})"
        body.append([name, label, queries, *cells, coverage(result), seconds])
        for value, n, scored in _groups(result):
            cells = [interval(scored.get(m), ends=intervals) for m in shown]
            body.append(["", "", f"{value} {n:,}", *cells, "", ""])
    return heads, body


def shown_metrics(results: Sequence[Result]) -> list[str]:
    """The metrics of a table: those that were named, or else those that are always shown."""
    known = metrics()
    by_default = [f"{name}@{k}" for name in known if known[name].default for k in known[name].shown]
    names = dict.fromkeys(
        name
        for result in results
        for name in result.shown or [m for m in by_default if m in result.metrics]
    )
    return list(names)


def _names(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    return [(r.source, r.split, str(r.retriever["name"])) for r in results]


def _groups(result: Result) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Values of the columns that results are broken down by: few; the result file holds all."""
    shown = 0
    for values in result.groups.values():
        shown += len(values)
        if len(values) > 1 and shown <= _MOST_GROUPS:
            for value, facts in values.items():
                yield value, facts["n"], facts["metrics"]


def upright(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """The same with a row for each number: as narrow as can be."""
    heads, body = rows(results)
    name = ""
    narrow = []
    for source, retriever, queries, *cells in body:
        name = f"{source}, {retriever}" if source else name
        of = queries if source else f"  {queries}"
        pairs = [pair for pair in zip(heads[3:], cells, strict=True) if pair[1]]
        narrow += [[name if not i else "", of if not i else "", *p] for i, p in enumerate(pairs)]
        name = ""
    return ["result", "queries", "metric", "value"], narrow


def interval(metric: Mapping[str, Any] | None, *, ends: bool = True) -> str:
    """``.312 [.28 .34]``, or a dash where a metric is undefined."""
    if not metric or metric["value"] is None:
        return "–"
    if not ends:
        return f"{metric['value']:.3f}".removeprefix("0")
    low, high = (f"{metric[end]:.2f}".removeprefix("0") for end in ("low", "high"))
    return f"{metric['value']:.3f} [{low} {high}]".removeprefix("0")


def coverage(result: Result) -> str:
    """Images found of those named, where the retriever reads images."""
    if not result.images:
        return "not read"
    text = f"{result.images['found']:,}/{result.images['total']:,}"
    missing = result.images["total"] - result.images["found"]
    return text + (f" ({result.images['policy']})" if missing else "")


def notes(results: Sequence[Result]) -> list[str]:
    """What must be said beside the scores, each once."""
    legend = [f"{heading(f'{name}@K')}: {metrics()[name].doc}" for name in _stems(results)]
    kept = [f"{r.source}: {verdict(r.comparable)}" for r in results if r.comparable]
    shared = [REUSED] if any(map(_reuses, results)) else []
    approximate = [searched(r) for r in results if r.search_mode != "exact"]
    own = [
        f"{r.source}/{r.split}, {r.retriever['name']}: {note}" for r in results for note in r.notes
    ]
    fewer = [note for r in results for note in _undefined(r)]
    return [*legend, INTERVALS, *shared, *approximate, *dict.fromkeys([*fewer, *kept, *own])]


def _undefined(result: Result) -> Iterator[str]:
    """Which of the shown means leave queries out, being undefined for them."""
    headings: dict[int, list[str]] = {}
    for name in shown_metrics([result]):
        n = int((result.metrics.get(name) or {}).get("n") or 0)
        if 0 < n < result.counts["queries"]:
            headings.setdefault(n, []).append(heading(name))
    for n, names in headings.items():
        yield (
            f"{result.source}/{result.split}: {', '.join(names)} over {n:,} of "
            f"{result.counts['queries']:,} queries; undefined for the others"
        )


def _stems(results: Sequence[Result]) -> list[str]:
    stems = dict.fromkeys(name.partition("@")[0] for name in shown_metrics(results))
    return [stem for stem in stems if stem in metrics()]


def searched(result: Result) -> str:
    """How a result that isn't exact search's was come by, and what that lost."""
    search = result.search or {}
    audit = dict(search.get("audit") or {})
    queries = audit.pop("queries", 0)
    lost = ", ".join(f"{share:.3f} {name.removeprefix('recall')}" for name, share in audit.items())
    recall = f"recall against exact search {lost} ({queries} queries)" if audit else NOT_AUDITED
    who = f"{result.source}/{result.split}, {result.retriever['name']}"
    return f"{who}: {result.search_mode} search, not exact; {recall}{_seeds(search)}"


def _seeds(search: Mapping[str, Any]) -> str:
    """Mean and range over several indexes, where more than one was built."""
    seeds = search.get("seeds")
    if not seeds:
        return ""
    known = metrics()
    means = (
        f"{heading(name)} {facts['mean']:.4f} ({facts['low']:.4f} to {facts['high']:.4f})"
        for name, facts in seeds["metrics"].items()
        for stem, _, k in [name.partition("@")]
        if stem in known and k and int(k) in known[stem].shown
    )
    return f"; mean and range over {len(seeds['seeds'])} indexes: {', '.join(means)}"


def _reuses(result: Result) -> bool:
    return any(result.retriever.get("reused", {}).values())


def as_text(results: Sequence[Result]) -> str:
    """The table in plain text, with its notes."""
    heads, body = rows(results)
    widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, ["-" * width for width in widths], *body)
    ]
    return "\n".join([*lines, "", *notes(results)])
