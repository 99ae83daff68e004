"""Boards: the systems of one source and split that were scored on the same data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from m2kr.errors import InputError

from .anomalies import near_identical_runs
from .groups import significance_ranks
from .scored import ScoredRun
from .system_card import SystemCard

if TYPE_CHECKING:
    from numpy.typing import NDArray

Status = Literal["recomputed", "reproduced"]
_SHOWN = 3  # other systems that a note names


@dataclass(frozen=True, slots=True)
class BoardEntry:
    """One system's run that was recomputed, as the results hold it.

    Attributes:
        card: The system.
        scored: Its run and the harness's result.
        status: ``recomputed`` from the run by our harness, or also ``reproduced`` by a maintainer.
        submission_sha256: Of the submission.
        harness: Version of m2kr that scored it.
        commit: Of its source code, empty where unknown.
        date: Of scoring, as ``2026-12-01``.
    """

    card: SystemCard
    scored: ScoredRun
    status: Status
    submission_sha256: str
    harness: str
    commit: str
    date: str


@dataclass(frozen=True, slots=True)
class BoardRow:
    """A place on a board.

    Attributes:
        entry: The system's run.
        ranks: By metric (best, worst): 1 + the systems that are significantly better, and the number of
            systems that are not significantly worse (itself included). Empty if the data are unverified.
        likeness: What must be said of it beside the board's other runs that are nearly the same.
    """

    entry: BoardEntry
    ranks: Mapping[str, tuple[int, int]]
    likeness: Sequence[str] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Anomalies of the run by itself, and beside the others."""
        return (*self.entry.scored.notes, *self.likeness)


@dataclass(frozen=True, slots=True)
class Board:
    """The systems that were scored on one source's split.

    Attributes:
        key: ``mini.test``; of further data of that split with the begin of their fingerprint.
        source: Source name.
        split: Split name.
        edition: Of the data.
        fingerprint: ``eval`` fingerprint of the data; rows of other data are on another board.
        headline: The metric that it is ordered by.
        metrics: All that its rows have, in the order of columns.
        verified: Whether the data are known; else there are no ranks.
        rows: Best first.
        smallest_difference: By metric what difference such a test shows (80 % power); absent if unknown.
        notes: What must be said beside it.
    """

    key: str
    source: str
    split: str
    edition: str
    fingerprint: str
    headline: str
    metrics: Sequence[str]
    verified: bool
    rows: Sequence[BoardRow]
    smallest_difference: Mapping[str, float]
    notes: Sequence[str] = ()


def make_boards(entries: Iterable[BoardEntry]) -> list[Board]:
    """The boards of some systems' runs: one for each source, split and data, by key.

    A board of unverified data has no ranks; its key ends in the begin of the data's fingerprint.

    Raises:
        InputError: Two systems' scores are of different queries of the same data.
    """
    by_data: dict[tuple[str, str, str, str, bool], list[BoardEntry]] = {}
    for entry in entries:
        run = entry.scored.submitted
        key = (run.source, run.split, run.edition, run.fingerprint, entry.scored.verified)
        by_data.setdefault(key, []).append(entry)
    verified = {key[:2] for key in sorted(by_data) if key[4]}
    boards: list[Board] = []
    for key, of_data in sorted(by_data.items()):
        name = f"{key[0]}.{key[1]}"
        first = not any(board.key == name for board in boards)
        if not (first and (key[4] or key[:2] not in verified)):
            name += f".{key[3].partition(':')[2][:8]}"
        boards.append(_board(name, of_data))
    return sorted(boards, key=lambda board: board.key)


def _board(key: str, entries: Sequence[BoardEntry]) -> Board:
    entries = sorted(entries, key=lambda e: (e.card.name, e.card.version))
    submitted, result = entries[0].scored.submitted, entries[0].scored.result
    metrics = list(dict.fromkeys(m for e in entries for m in e.scored.result.metrics))
    ordered = sorted(entries, key=lambda e: _place(e, result.headline))
    verified = all(entry.scored.verified for entry in entries)
    ranks: list[dict[str, tuple[int, int]]] = [{} for _ in ordered]
    smallest: dict[str, float] = {}
    likeness = _likeness_notes(ordered)
    for metric in metrics if verified else ():
        having = [i for i, e in enumerate(ordered) if metric in e.scored.result.scores]
        if not having:
            continue
        table = np.stack([scores_by_query(ordered[i], result.query_ids, metric) for i in having], 1)
        _require_same_queries(table, [ordered[i] for i in having], metric)
        of_metric, least = significance_ranks(table)
        for i, rank in zip(having, of_metric, strict=True):
            ranks[i][metric] = rank
        if not math.isnan(least):
            smallest[metric] = least
    return Board(
        key=key,
        source=submitted.source,
        split=submitted.split,
        edition=submitted.edition,
        fingerprint=submitted.fingerprint,
        headline=result.headline,
        metrics=metrics,
        verified=verified,
        rows=[BoardRow(e, ranks[i], likeness.get(i, ())) for i, e in enumerate(ordered)],
        smallest_difference=smallest,
        notes=(result.comparable,) if result.comparable else (),
    )


def _likeness_notes(entries: Sequence[BoardEntry]) -> dict[int, tuple[str, ...]]:
    """By place what must be said of a board's runs that are nearly the same as another system's.

    Versions of one system are not compared.

    Args:
        entries: Of one board: all on the same data.
    """
    notes: dict[int, list[str]] = {}
    for pair in near_identical_runs([entry.scored.sketch for entry in entries]):
        one, other = entries[pair.one], entries[pair.other]
        if one.card.name == other.card.name:
            continue
        same = one.scored.result.run_sha256 == other.scored.result.run_sha256
        for place, of in ((pair.one, other), (pair.other, one)):
            notes.setdefault(place, []).append(
                f"its rankings are those of {of.card.title}"
                if same
                else f"it ranks nearly as {of.card.title} does: the same passage first in {pair.first:.1%} "
                f"of the queries, and {pair.top:.1%} of the first ten in common"
            )
    return {
        place: (
            *texts[:_SHOWN],
            *([f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else ()),
        )
        for place, texts in sorted(notes.items())
    }


def _place(entry: BoardEntry, headline: str) -> tuple[float, str, str]:
    value = entry.scored.result.value(headline)
    return (-value if value is not None else 1.0, entry.card.name, entry.card.version)


def _require_same_queries(
    table: "NDArray[np.float64]", entries: Sequence[BoardEntry], metric: str
) -> None:
    """Refuses scores of different queries: for which ones a metric is defined, the data alone say."""
    undefined = np.isnan(table)
    odd = np.flatnonzero((undefined != undefined[:, :1]).any(0))
    if len(odd):
        one, other = entries[0].card, entries[odd[0]].card
        raise InputError(
            f"{metric} is defined for other queries in {other.name} {other.version} than in {one.name} "
            f"{one.version}, on the same data",
            expected="results that one version of m2kr computed of the runs",
            fix="m2kr leaderboard validate leaderboard/submissions/* --out NEW-RESULTS",
        )


def scores_by_query(
    entry: BoardEntry, query_ids: Sequence[str], metric: str
) -> "NDArray[np.float64]":
    """A system's scores in the order of some queries, such as the board's first system has.

    Args:
        entry: Of results with per-query scores.
        query_ids: All of its queries, in any order.
        metric: One that it has.

    Returns:
        (queries,), NaN where undefined.
    """
    result = entry.scored.result
    if tuple(result.query_ids) == tuple(query_ids):
        return result.scores[metric]
    places = {query: place for place, query in enumerate(result.query_ids)}
    return result.scores[metric][[places[query] for query in query_ids]]
