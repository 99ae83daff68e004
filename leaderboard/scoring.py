"""Scoring many submissions: those that m2kr brings along, and others."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from m2kr._version import __version__
from m2kr.progress import SILENT, Progress

from .boards import BoardEntry
from .problems import Problem, SubmissionRefused
from .recompute import recompute
from .scored import ScoredSubmission
from .submission import opened_submission
from .system_card import CARD

_PACKAGED = Path(__file__).parent / "submissions"


def packaged_submissions() -> list[Path]:
    """Folders of the submissions that m2kr brings along, by name."""
    return sorted(path.parent for path in _PACKAGED.glob(f"*/{CARD}"))


def score_all(
    paths: Sequence[Path], data: Path | None = None, progress: Progress = SILENT
) -> list[ScoredSubmission]:
    """Checks and scores submissions; of one name and version the last counts.

    Raises:
        MissingError: There is nothing of such a name.
        SubmissionRefused: Some have faults; all faults of all of them.
    """
    problems: list[Problem] = []
    scored: dict[tuple[str, str], ScoredSubmission] = {}
    for path in paths:
        try:
            with opened_submission(path) as submission:
                one = recompute(submission, data, progress=progress)
        except SubmissionRefused as refused:
            name = (
                path.name if path.name.isascii() and path.name.isprintable() else ascii(path.name)
            )
            before = f"{name[:80]}/" if len(paths) > 1 else ""
            problems += [replace(p, where=before + p.where) for p in refused.problems]
        else:
            scored[one.card.name, one.card.version] = one
    if problems:
        raise SubmissionRefused(problems)
    return [scored[key] for key in sorted(scored)]


def as_entries(scored: Iterable[ScoredSubmission]) -> list[BoardEntry]:
    """What a board shows of submissions that this version scored; without a date, so that builds agree."""
    return [
        BoardEntry(one.card, run, "recomputed", one.sha256, __version__, "", "")
        for one in scored
        for run in one.runs
    ]
