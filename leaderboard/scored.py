"""What the harness found of a submission's runs."""

from dataclasses import dataclass, field

from m2kr._version import __version__
from m2kr.evaluation.result import Result

from .system_card import SubmittedRun, SystemCard


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """A run with the scores that the harness computed of it.

    Attributes:
        submitted: What was handed in.
        result: The harness's own, on the known data: metrics, intervals, groups, per-query scores.
        verified: Whether the data are known: two independent builds agree. Only such runs are ranked.
        notes: Anomalies, in sentences for readers of the board.
        sketch: Eight bytes a query of the split, in its order, by which a board finds runs that are nearly
            the same; see `m2kr_leaderboard.anomalies.run_sketch`. Empty where it isn't known.
    """

    submitted: SubmittedRun
    result: Result
    verified: bool
    notes: tuple[str, ...] = ()
    sketch: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ScoredSubmission:
    """A submission that was checked and recomputed.

    Attributes:
        card: What its submitter says.
        sha256: Of the submission.
        runs: In the order of the card's.
        harness: Version of m2kr that scored it.
        commit: Of its source code; empty where unknown, or not kept.
        date: Of scoring, as ``2026-12-01``; empty of what isn't kept.
        card_bytes: The card as it was handed in; empty where it isn't to be kept.
    """

    card: SystemCard
    sha256: str
    runs: tuple[ScoredRun, ...]
    harness: str = __version__
    commit: str = ""
    date: str = ""
    card_bytes: bytes = field(default=b"", repr=False)
