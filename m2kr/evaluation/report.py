"""Results as a table of text: for terminals, for ``print``, for papers to copy from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from m2kr.evaluation.result import Result
from m2kr.sources import verdict

# Metrics shown if they were computed, in this order, and their headings.
SHOWN = {
    "hit_rate@1": "R@1",
    "hit_rate@5": "R@5",
    "hit_rate@10": "R@10",
    "pseudo_recall@5": "PR@5",
    "ndcg@10": "nDCG@10",
    "map@100": "MAP@100",
    "precision@5": "P@5",
}
LEGEND = (
    "R@K: hit rate, any right passage in the top K (M2KR's recall). PR@K: pseudo recall, an answer "
    "string in the top K. In brackets: 95 % bootstrap intervals."
)

REUSED = "* in seconds: part of the work had been done before, by this process or another run."
NOT_AUDITED = "recall against exact search unknown (--audit 200 tells)"


def rows(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: per result one over all queries, then one per group of each grouping."""
    shown = [m for m in SHOWN if any(m in r.metrics for r in results)]
    heading = ["source", "retriever", "queries", *(SHOWN[m] for m in shown), "images", "seconds"]
    body = []
    for result in results:
        name = f"{result.source}/{result.split}" + (" (partial)" if result.partial else "")
        cells = [interval(result.metrics.get(m)) for m in shown]
        queries = f"all {result.counts['queries']:,}"
        seconds = f"{result.seconds['total']:.1f}" + (" *" if _reuses(result) else "")
        label = str(result.retriever["name"])
        if result.search_mode != "exact":
            label += f" ({result.search_mode})"
        body.append([name, label, queries, *cells, coverage(result), seconds])
        for value, n, metrics in _groups(result):
            cells = [interval(metrics.get(m)) for m in shown]
            body.append(["", "", f"{value} {n:,}", *cells, "", ""])
    return heading, body


def _groups(result: Result) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for groups in result.groups.values():
        if len(groups) > 1:
            for value, facts in groups.items():
                yield value, facts["n"], facts["metrics"]


def interval(metric: Mapping[str, Any] | None) -> str:
    """``.312 [.28 .34]``, or a dash where a metric is undefined."""
    if not metric or metric["value"] is None:
        return "–"
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
    kept = [f"{r.source}: {verdict(r.comparable)}" for r in results if r.comparable]
    shared = [REUSED] if any(map(_reuses, results)) else []
    approximate = [searched(r) for r in results if r.search_mode != "exact"]
    return [LEGEND, *shared, *approximate, *dict.fromkeys(kept)]


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
    told = search.get("seeds")
    if not told:
        return ""
    each = (
        f"{SHOWN[name]} {facts['mean']:.4f} ({facts['low']:.4f} to {facts['high']:.4f})"
        for name, facts in told["metrics"].items()
        if name in SHOWN
    )
    return f"; mean and range over {len(told['seeds'])} indexes: {', '.join(each)}"


def _reuses(result: Result) -> bool:
    return any(result.retriever.get("reused", {}).values())


def as_text(results: Sequence[Result]) -> str:
    """The table in plain text, with its notes."""
    heading, body = rows(results)
    widths = [max(map(len, column)) for column in zip(heading, *body, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heading, ["-" * width for width in widths], *body)
    ]
    return "\n".join([*lines, "", *notes(results)])
