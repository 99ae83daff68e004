"""A page for each system: its card, its scores everywhere, its history, and how to verify it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..boards import Board, BoardEntry, BoardRow
from .board_page import board_heading, zero_shot_in_words
from .charts import radar_chart
from .claim_rows import claim_groups, source_title
from .context import SiteContext
from .downloads import system_bibtex
from .figures import MetricHead, milliseconds, parameters_in_words, ranks_in_words, score_cell
from .recomputed import RecomputedScores

# Costs in the order of columns: heading, and how a number is shown.
_COSTS = {
    "seconds_per_query": ("ms a query", "time"),
    "cpu_seconds_per_query": ("CPU ms a query", "time"),
    "encode_seconds": ("encoding, s", "{:,.3g}"),
    "index_seconds": ("index, s", "{:,.3g}"),
    "bytes_per_passage": ("bytes per passage", "{:,.0f}"),
    "peak_host_bytes": ("peak memory", "size"),
    "peak_device_bytes": ("peak device memory", "size"),
}


def system_pages(site: SiteContext) -> Iterator[tuple[str, bytes]]:
    """``systems/<name>.html``."""
    scores = RecomputedScores(site.boards)
    claimed = {
        claim.id: {score.entry.card.name for score in scores.of(claim)} for claim in site.claims
    }
    boards = site.boards
    rows = {id(row.entry): row for board in boards for row in board.rows}
    for name, entries in site.entries_by_system().items():
        claims = [claim for claim in site.claims if name in claimed[claim.id]]
        values = _page_of(entries, boards, rows)
        yield site.page(
            f"systems/{name}.html", "system.html", claims=claim_groups(claims, scores), **values
        )


def _page_of(
    entries: Sequence[BoardEntry], boards: Sequence[Board], rows: Mapping[int, BoardRow]
) -> dict[str, Any]:
    """What the page of a system shows; its card is that of the newest version."""
    newest = entries[0]
    card = newest.card
    current = [e for e in entries if e.card.version == card.version]
    scores = list(_scores(card.name, card.version, boards))
    noted = [(_where(e), rows.get(id(e), e.scored).notes) for e in _in_order(current)]
    notes = [(where, note) for where, several in noted for note in several]
    costs = [_cost_row(e) for e in _in_order(current) if e.scored.submitted.cost]
    heads, history = _history(entries)
    return {
        "title": card.title,
        "card": card,
        "parameters": parameters_in_words(card.parameters),
        "notes": notes,
        "scores": scores,
        "radar": radar_chart(_shares(card.name, card.version, boards)),
        "all_heads": [_where(e) for e in _in_order(current)],
        "all_metrics": _all_metrics(_in_order(current)),
        "about": _about(newest),
        "links": [(kind, card.links[kind]) for kind in sorted(card.links)],
        "cost_heads": [head for head, _ in _COSTS.values()],
        "costs": costs,
        "runs": [
            {
                "where": _where(e),
                "depth": f"{e.scored.submitted.k:,}",
                "sha256": e.scored.result.run_sha256,
            }
            for e in _in_order(current)
        ],
        "submission_sha256": newest.submission_sha256,
        "verify": shlex.join(["m2kr", "submit", "check", f"leaderboard/submissions/{card.name}"]),
        "harness": newest.harness,
        "commit": newest.commit,
        "history_heads": heads,
        "history": history,
        "bibtex": system_bibtex(card),
    }


def _in_order(entries: Sequence[BoardEntry]) -> list[BoardEntry]:
    return sorted(entries, key=_where)


def _where(entry: BoardEntry) -> str:
    result = entry.scored.result
    return f"{source_title(result.source)}, {result.split}"


def _scores(name: str, version: str, boards: Sequence[Board]) -> Iterator[dict[str, Any]]:
    for board in boards:
        for row in board.rows:
            card = row.entry.card
            if (card.name, card.version) != (name, version):
                continue
            head = MetricHead.of(board.headline)
            yield {
                "where": _where(row.entry),
                "href": f"boards/{board.key}.html",
                "edition": board.edition,
                "heading": head.heading,
                "doc": head.doc,
                "figure": score_cell(row.entry.scored.result.metrics, board.headline),
                "rank": _rank(row.ranks, board),
                "zero_shot": zero_shot_in_words(card.zero_shot.get(board.source)),
                "status": row.entry.status if board.verified else "unverified data",
            }


def _shares(name: str, version: str, boards: Sequence[Board]) -> list[tuple[str, float]]:
    """Per board of known data its title, and the system's score as a share of the best one."""
    shares = []
    for board in boards:
        values = {
            (row.entry.card.name, row.entry.card.version): row.entry.scored.result.value(
                board.headline
            )
            for row in board.rows
        }
        own, best = values.get((name, version)), max(filter(None, values.values()), default=0.0)
        if board.verified and own is not None and best:
            shares.append((board_heading(board), own / best))
    return shares


def _all_metrics(entries: Sequence[BoardEntry]) -> list[dict[str, Any]]:
    """A row for each metric, with the scores on every source."""
    scores = [entry.scored.result.metrics for entry in entries]
    names = dict.fromkeys(name for own in scores for name in own)
    return [
        {"head": MetricHead.of(name), "figures": [score_cell(own, name) for own in scores]}
        for name in names
    ]


def _rank(ranks: Mapping[str, tuple[int, int]], board: Board) -> str:
    own = ranks.get(board.headline)
    return f"{ranks_in_words(own)} of {len(board.rows)}" if own else "not ranked"


def _about(entry: BoardEntry) -> list[tuple[str, str]]:
    card = entry.card
    about = [
        ("Folder", card.name),
        ("Version", card.version),
        ("Authors", ", ".join(card.authors)),
        ("Licence", card.licence),
        ("Kind", card.kind),
        ("Reads of a query", " and ".join(card.query_modalities)),
        ("Reads of a passage", " and ".join(card.passage_modalities)),
        ("Parameters", parameters_in_words(card.parameters)),
        ("Hardware", card.hardware),
        ("Runs made with m2kr", card.m2kr_version),
    ]
    return [(name, value) for name, value in about if value]


def _cost_row(entry: BoardEntry) -> dict[str, Any]:
    cost = entry.scored.submitted.cost
    cells = [_cost(cost.get(name), form) for name, (_, form) in _COSTS.items()]
    return {"where": _where(entry), "cells": cells, "device": cost.get("device") or "–"}


def _cost(value: Any, form: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    if form == "size":
        for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value >= size:
                return f"{value / size:.1f} {unit}"
        return f"{value} bytes"
    return milliseconds(value) if form == "time" else form.format(value)


def _history(entries: Sequence[BoardEntry]) -> tuple[list[str], list[dict[str, Any]]]:
    """Sources as heads, and a row for each version with its headline scores."""
    sources = sorted({_where(e) for e in entries})
    versions: dict[tuple[str, str, str], dict[str, BoardEntry]] = {}
    for entry in entries:
        key = (entry.card.version, entry.date, entry.harness)
        versions.setdefault(key, {})[_where(entry)] = entry
    rows = []
    for (version, date, harness), own in versions.items():
        figures = []
        for source in sources:
            result = own[source].scored.result if source in own else None
            figures.append(score_cell(result.metrics, result.headline) if result else None)
        rows.append({"version": version, "date": date, "harness": harness, "figures": figures})
    return sources, rows
