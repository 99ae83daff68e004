"""Scoring many submissions: those that m2kr brings along, and others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from m2kr._version import __version__
from m2kr.progress import SILENT, Progress

from .boards import BoardEntry, Status
from .card_reader import read_card
from .id_spelling import spelling_difference
from .problems import Problem, SubmissionRefused
from .recompute import recompute
from .reproduced import is_reproduced
from .scored import ScoredRun, ScoredSubmission
from .submission import opened_submission
from .system_card import CARD, SystemCard

_PACKAGED = Path(__file__).parent / "submissions"
# Two systems may be called BM25; none may seem to be another's.
_DECEPTIVE = {
    "invisible characters",
    "compatibility forms of characters",
    "letters that look alike",
}


def packaged_submissions() -> list[Path]:
    """Folders of the submissions that m2kr brings along, by name."""
    return sorted(path.parent for path in _PACKAGED.glob(f"*/{CARD}"))


def score_all(
    paths: Sequence[Path], data: Path | None = None, progress: Progress = SILENT
) -> list[ScoredSubmission]:
    """Checks and scores submissions; of one name and version the last counts.

    Those that m2kr brings along come last in time: where another has a fault, they need no score. A title
    with letters that only look like those of another system's title is refused.

    Raises:
        MissingError: There is nothing of such a name.
        SubmissionRefused: Some have faults; all faults of all of them.
    """
    faults: dict[Path, Sequence[Problem]] = {}
    scored: dict[tuple[str, str], ScoredSubmission] = {}
    titles = _known_titles()
    for path in reversed(paths):
        if faults and path.parent == _PACKAGED:
            break
        try:
            with opened_submission(path) as submission:
                one = recompute(submission, data, progress=progress)
        except SubmissionRefused as refused:
            faults[path] = refused.problems
            continue
        if confusable := _confusable(one.card, titles):
            faults[path] = confusable
        titles[one.card.name] = one.card.title
        scored.setdefault((one.card.name, one.card.version), one)
    if faults:
        raise SubmissionRefused(
            [
                replace(fault, where=_before(path, paths) + fault.where)
                for path in paths
                for fault in faults.get(path, ())
            ]
        )
    return [scored[key] for key in sorted(scored)]


def _before(path: Path, paths: Sequence[Path]) -> str:
    """What stands before a place in one of several submissions."""
    name = path.name if path.name.isascii() and path.name.isprintable() else ascii(path.name)
    return f"{name[:80]}/" if len(paths) > 1 else ""


def _known_titles() -> dict[str, str]:
    cards = [read_card(folder / CARD) for folder in packaged_submissions()]
    return {card.name: card.title for card in cards}


def _confusable(card: SystemCard, titles: Mapping[str, str]) -> list[Problem]:
    """Whether a title differs from another system's only in what nobody sees."""
    for name, title in titles.items():
        if name == card.name:
            continue
        differs = spelling_difference(card.title, title)
        if not _DECEPTIVE.isdisjoint(differs):
            what = (
                f"the title {card.title!a} is like {title!a} of {name}, and differs only in "
                + " and ".join(differs)
            )
            return [Problem("own-title", f"{CARD}, title", what, "another", f"change it in {CARD}")]
    return []


def as_entries(scored: Iterable[ScoredSubmission]) -> list[BoardEntry]:
    """What a board shows of submissions that this version scored; without a date, so that builds agree."""
    return [
        BoardEntry(one.card, run, _status(one.card, run), one.sha256, __version__, "", "")
        for one in scored
        for run in one.runs
    ]


def _status(card: SystemCard, run: ScoredRun) -> Status:
    return "reproduced" if is_reproduced(card, run.submitted) else "recomputed"
