"""The leaderboard's results: what the harness found of each submission, kept for good.

A submission's scores by one version of m2kr are a folder::

    <system>/<version>-<begin of the submission's SHA-256>/<version of m2kr>/
        entry.json       who was scored, when, by which source code, and what must be said of each run
        system.yaml      the card as it was handed in
        <result>.json, <result>.queries.parquet   `m2kr.evaluation.Result`s, as ``m2kr compare`` reads them
        <result>.sketch                           `anomalies.run_sketch` of the run

It is written beside and renamed when it is whole, and nothing in it changes any more: another submission, or
another version of m2kr, is another folder.
"""

import json
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr._version import __version__
from m2kr.errors import InputError, M2KRError, plainly
from m2kr.evaluation.result import Result, file_word

from .card_reader import read_card
from .scored import ScoredRun, ScoredSubmission
from .submission import Submission
from .system_card import CARD, SystemCard

FORMAT = "m2kr-leaderboard-entry-1"
PACKAGED_RESULTS = Path(__file__).parent / "results"
_ENTRY = "entry.json"
_DIGITS = 12  # of the submission's hash
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """A score that two versions of m2kr don't agree on.

    Attributes:
        system: Name of the system.
        place: Source and split.
        metric: Its name.
        before: By the older version; None if it had none.
        now: By the newer one; likewise.
    """

    system: str
    place: str
    metric: str
    before: float | None
    now: float | None


class ResultStore:
    """The results in a folder; it need not exist yet.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path = PACKAGED_RESULTS) -> None:
        self.folder = folder

    def add(self, scored: ScoredSubmission, *, date: str) -> Path:
        """Keeps what was found of a submission; what is there already stays as it is.

        Args:
            scored: The submission.
            date: Of today, as ``2026-12-01``.

        Returns:
            The entry's folder.

        Raises:
            MissingError: The folder can't be written.
        """
        target = self._place(scored.card, scored.sha256) / __version__
        if (target / _ENTRY).is_file():
            return target
        with plainly(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with atomic.writing(target) as aside:
                    aside.mkdir()
                    self._write(scored, date, aside)
            except OSError:
                if not (target / _ENTRY).is_file():  # else another process was faster
                    raise
        return target

    def _write(self, scored: ScoredSubmission, date: str, folder: Path) -> None:
        runs = []
        for run in scored.runs:
            path = replace(run.result, path=None).save(folder)
            atomic.write_bytes(path.with_suffix(".sketch"), run.sketch)
            runs.append({"result": path.name, "verified": run.verified, "notes": list(run.notes)})
        atomic.write_bytes(folder / CARD, scored.card_bytes)
        facts = {
            "format": FORMAT,
            "submission_sha256": scored.sha256,
            "harness": __version__,
            "commit": source_commit(),
            "date": date,
            "runs": runs,
        }
        atomic.write_json(folder / _ENTRY, facts)

    def find(self, submission: Submission) -> ScoredSubmission | None:
        """What this version of m2kr found of a submission; None if it wasn't asked yet.

        Raises:
            InputError: The entry is damaged.
        """
        folder = self._place(submission.card, submission.sha256) / __version__
        if not (folder / _ENTRY).is_file():
            return None
        scored = load_entry(folder)
        if scored.sha256 != submission.sha256:
            raise _damaged(folder / _ENTRY, "it is of another submission")
        return scored

    def history(self, current: Collection[str]) -> list[ScoredSubmission]:
        """The newest scores of submissions that were kept, by system, date and version.

        Args:
            current: Hashes of submissions that are left out, and whose files aren't read.

        Raises:
            InputError: An entry is damaged.
        """
        heads = {sha256[:_DIGITS] for sha256 in current}
        places = [p for p in self.folder.glob("*/*") if p.name[-_DIGITS:] not in heads]
        entries = [max(of, key=_newness) for of in map(list, map(_loaded, places)) if of]
        return sorted(entries, key=lambda one: (one.card.name, one.date, one.card.version))

    def changes(self, scored: ScoredSubmission) -> list[ScoreChange]:
        """Scores that differ by more than 1e-9 from those of the version of m2kr that came before."""
        place = self._place(scored.card, scored.sha256)
        older = [one for one in _loaded(place) if one.harness != scored.harness]
        if not older:
            return []
        before = {_where(run): run.result for run in max(older, key=_newness).runs}
        return [
            change
            for run in scored.runs
            if (old := before.get(_where(run)))
            for change in _differences(scored.card.name, _where(run), old, run.result)
        ]

    def other_contents(self, submission: Submission) -> list[str]:
        """Begins of hashes of other submissions that were kept under the name and version of this one.

        Raises:
            InputError: A card that was kept is damaged.
        """
        found = set()
        for path in (self.folder / submission.card.name).glob(f"*/[!.]*/{CARD}"):
            digits = path.parent.parent.name[-_DIGITS:]
            try:
                version = read_card(path).version
            except M2KRError as error:
                raise _damaged(path, error.what) from error
            if version == submission.card.version and not submission.sha256.startswith(digits):
                found.add(digits)
        return sorted(found)

    def _place(self, card: SystemCard, sha256: str) -> Path:
        return self.folder / card.name / f"{file_word(card.version)}-{sha256[:_DIGITS]}"


def _loaded(place: Path) -> Iterator[ScoredSubmission]:
    """A submission's entries; what a killed writer left aside begins with a point and is none."""
    for path in sorted(place.glob(f"[!.]*/{_ENTRY}")):
        yield load_entry(path.parent)


def load_entry(folder: Path) -> ScoredSubmission:
    """What was kept of a submission.

    Raises:
        InputError: It is damaged; names the file.
    """
    path = folder / _ENTRY
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise _damaged(path, f"its format is {facts['format']!a}")
        card = read_card(folder / CARD)
        scored = ScoredSubmission(
            card,
            facts["submission_sha256"],
            tuple(_run(folder, card, one) for one in facts["runs"]),
            harness=facts["harness"],
            commit=facts["commit"],
            date=facts["date"],
        )
    except (KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    except M2KRError as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(folder, error.what) from error
    return scored


def _run(folder: Path, card: SystemCard, facts: dict[str, Any]) -> ScoredRun:
    path = folder / Path(facts["result"]).name
    result = Result.load(path)
    for submitted in card.runs:
        if (submitted.source, submitted.split) == (result.source, result.split):
            break
    else:
        raise _damaged(path, f"the card has no run of {result.source}/{result.split}")
    if submitted.run_sha256 != result.run_sha256 or not result.query_ids:
        raise _damaged(path, "it is of another run, or lacks its per-query scores")
    sketch = path.with_suffix(".sketch")
    return ScoredRun(
        submitted,
        replace(result, path=None),
        bool(facts["verified"]),
        tuple(facts["notes"]),
        sketch.read_bytes() if sketch.is_file() else b"",
    )


def _newness(one: ScoredSubmission) -> tuple[str, tuple[int, ...], str]:
    numbers = tuple(int(part) for part in one.harness.split(".") if part.isdecimal())
    return one.date, numbers, one.harness


def _where(run: ScoredRun) -> str:
    return f"{run.submitted.source}/{run.submitted.split}"


def _differences(system: str, place: str, old: Result, new: Result) -> Iterator[ScoreChange]:
    for metric in sorted({*old.metrics, *new.metrics}):
        before, now = old.value(metric), new.value(metric)
        if before is None or now is None:
            if before is not now:
                yield ScoreChange(system, place, metric, before, now)
        elif abs(before - now) > _SAME:
            yield ScoreChange(system, place, metric, before, now)


def source_commit() -> str:
    """The commit of m2kr's source code in a checkout, marked if that was changed; empty elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    words = (
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    )
    try:
        done = subprocess.run(words, capture_output=True, encoding="utf-8", check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"the entry is damaged: {what}",
        where=str(path),
        expected="what m2kr leaderboard validate --out wrote",
        fix="restore it from version control",
    )
