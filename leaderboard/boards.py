"""Boards: the systems of one source and split that were scored on the same data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .scored import ScoredRun
from .system_card import SystemCard

Status = Literal["recomputed", "reproduced"]


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
    """

    entry: BoardEntry
    ranks: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Board:
    """A source's split, or the mean over several.

    Attributes:
        key: ``mini.test``, or ``mean`` over all sources of M2KR.
        source: Source name; empty of the mean.
        split: Split name; empty of the mean.
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
