"""Boards in memory with any texts in their cards, for what the site shows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from support.made_results import made_result

from m2kr_leaderboard.boards import Board, BoardEntry, BoardRow
from m2kr_leaderboard.scored import ScoredRun
from m2kr_leaderboard.system_card import SubmittedRun, SystemCard, TrainingData

METRICS = ("hit_rate@1", "hit_rate@5", "hit_rate@10", "mrr@10", "pseudo_recall@5")
CARD: Mapping[str, Any] = {
    "title": "Made system",
    "version": "1.0",
    "authors": ("Ada Lovelace", "The Analytical Engine Group"),
    "contact": "ada@example.org",
    "licence": "Apache-2.0",
    "kind": "single-stage",
    "query_modalities": ("text", "image"),
    "passage_modalities": ("text",),
    "parameters": 543_200_000,
    "training_data": (TrainingData("okvqa", "train"), TrainingData("a crawl")),
    "zero_shot": {"wit": True, "okvqa": False},
    "hardware": "1 × H200",
    "m2kr_version": "0.1.0",
    "links": {"paper": "https://example.org/paper?a=1&b=2", "code": "https://example.org/code"},
    "note": "Late interaction over 128 dimensions.",
}


def made_entry(
    name: str,
    source: str = "okvqa",
    *,
    score: float = 0.5,
    edition: str = "m2kr",
    headline: str = "hit_rate@5",
    notes: tuple[str, ...] = (),
    status: Any = "recomputed",
    cost: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    query_ids: Sequence[str] | None = None,
    date: str = "2026-12-01",
    **card: Any,
) -> BoardEntry:
    """A system's run with ``score`` for every metric, or the means of per-query ``scores`` by metric.

    ``card`` are fields of its card.
    """
    means = {metric: float(np.nanmean(of)) for metric, of in (scores or {}).items()}
    metrics = {
        metric: {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 100}
        for metric, value in (dict.fromkeys(METRICS, score) | means).items()
    }
    run = SubmittedRun(
        source,
        "test",
        edition,
        f"runs/{source}.test.parquet",
        "fp1:e",
        500,
        "r" * 64,
        {},
        cost or {},
    )
    result = made_result(
        name,
        scores or {},
        query_ids=query_ids,
        source=source,
        edition=edition,
        headline=headline,
        metrics=metrics,
        groups=groups or {},
        counts={"queries": 100, "passages": 1000},
        run_sha256="r" * 64,
        shown=METRICS[:3],
    )
    return BoardEntry(
        SystemCard(name, **{**CARD, **card, "runs": (run,)}),
        ScoredRun(run, result, True, notes),
        status,
        "s" * 64,
        "0.1.0",
        "c" * 40,
        date,
    )


def made_board(entries: Iterable[BoardEntry], *, verified: bool = True, **changes: Any) -> Board:
    """The board of entries of one source, best first; each may be as good as the next one."""
    entries = list(entries)
    first = entries[0].scored.result

    def value(entry: BoardEntry) -> float:
        return float(entry.scored.result.metrics[first.headline]["value"] or 0)

    entries.sort(key=lambda entry: -value(entry))
    rows = [
        BoardRow(
            entry,
            {m: (max(1, place), min(len(entries), place + 2)) for m in METRICS} if verified else {},
        )
        for place, entry in enumerate(entries)
    ]
    facts: dict[str, Any] = {
        "key": f"{first.source}.{first.split}",
        "source": first.source,
        "split": first.split,
        "edition": first.edition,
        "fingerprint": "fp1:" + "e" * 64,
        "headline": first.headline,
        "metrics": METRICS,
        "verified": verified,
        "rows": rows,
        "smallest_difference": {first.headline: 0.021},
    }
    return Board(**facts | changes)
