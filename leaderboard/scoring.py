"""Scoring many submissions: those that m2kr brings along, and others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from m2kr.progress import SILENT, Progress

from .boards import BoardEntry, Status, make_boards
from .card_reader import read_card
from .id_spelling import spelling_difference
from .problems import Problem, SubmissionRefused
from .recompute import recompute
from .reproduced import is_reproduced
from .results import ResultStore
from .scored import ScoredRun, ScoredSubmission
from .submission import Submission, opened_submission
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


def packaged_cards() -> list[SystemCard]:
    """The cards of these submissions."""
    return [read_card(folder / CARD) for folder in packaged_submissions()]


def score_all(
    paths: Sequence[Path],
    data: Path | None = None,
    progress: Progress = SILENT,
    store: ResultStore | None = None,
) -> list[ScoredSubmission]:
    """Checks and scores submissions; of one name and version the last counts.

    What the store has of the very same submission, by this version of m2kr, is taken from there; a version
    that it has with other content is refused.

    Those that m2kr brings along come last in time: where another has a fault, they need no score, and one
    that is given as well, in whatever version, gives way. A title with letters that only look like those of
    another system's title is refused.

    Raises:
        MissingError: There is nothing of such a name.
        SubmissionRefused: Some have faults; all faults of all of them.
    """
    faults: dict[Path, Sequence[Problem]] = {}
    scored: dict[tuple[str, str], ScoredSubmission] = {}
    titles = {card.name: card.title for card in packaged_cards()}
    for path in reversed(paths):
        if path.parent == _PACKAGED:
            if faults:
                break
            if any(path.name == name for name, _ in scored):
                continue
        try:
            with opened_submission(path) as submission:
                others = store.other_contents(submission) if store else []
                if others:
                    raise SubmissionRefused([_other_content(submission, others)])
                one = store.find(submission) if store else None
                if one is None:
                    one = recompute(submission, data, progress=progress)
                one = replace(one, card_bytes=(submission.folder / CARD).read_bytes())
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


def _other_content(submission: Submission, others: Sequence[str]) -> Problem:
    """A version is one thing: its scores were published."""
    card = submission.card
    return Problem(
        "own-version",
        f"{CARD}, version",
        f"version {card.version} of {card.name} was scored with other content: {others[0]}…, and not "
        f"{submission.sha256[:12]}…",
        "another version for other runs or another card",
        f"change the version in {CARD}",
    )


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
    """What a board shows of submissions that were scored."""
    return [
        BoardEntry(
            *(one.card, run, _status(one.card, run), one.sha256),
            *(one.harness, one.commit, one.date),
        )
        for one in scored
        for run in one.runs
    ]


def places(
    scored: Iterable[ScoredSubmission], data: Path | None = None, progress: Progress = SILENT
) -> dict[str, list[dict[str, str]]]:
    """Where submissions would stand among those that m2kr brings along: by their hash, on each board.

    Args:
        scored: The submissions; one that m2kr brings along in another version gives way to it.
        data: As for `recompute.recompute`.
        progress: Told of the runs that are scored.
    """
    new = list(scored)
    names = {one.card.name for one in new}
    known = [path for path in packaged_submissions() if path.name not in names]
    others = score_all(known, data, progress, ResultStore())
    found: dict[str, list[dict[str, str]]] = {one.sha256: [] for one in new}
    for board in make_boards(as_entries([*others, *new])):
        for row in board.rows:
            if row.entry.submission_sha256 in found:
                best, worst = row.ranks.get(board.headline, (0, 0))
                rank = "none: unverified data"
                if best:
                    rank = str(best) if best == worst else f"{best} to {worst}"
                found[row.entry.submission_sha256].append(
                    {"board": board.key, "rank": rank, "systems": str(len(board.rows))}
                )
    return found


def _status(card: SystemCard, run: ScoredRun) -> Status:
    return "reproduced" if is_reproduced(card, run.submitted) else "recomputed"
