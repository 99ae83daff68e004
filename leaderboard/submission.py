"""A submission: a folder, or a packed file, with a system's card and its runs."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from m2kr.errors import MissingError, plainly

from .card_reader import read_card
from .packed_form import MOST_README, MOST_RUN, MOST_TOGETHER, README, unpack
from .problems import Problem, SubmissionRefused
from .system_card import CARD, SubmittedRun, SystemCard

_MOST_ENTRIES = 200
_BLOCK = 1 << 20
_FIX = "keep system.yaml, runs/ and README.md alone; m2kr submit init makes a right submission"


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission whose form holds; nothing is scored yet.

    Attributes:
        folder: Where it lies, unpacked.
        card: Its ``system.yaml``.
        sha256: Of the card and all runs: the same for a folder and what is packed of it.
    """

    folder: Path
    card: SystemCard
    sha256: str

    def run_path(self, run: SubmittedRun) -> Path:
        """Where a run's file lies."""
        return self.folder / run.file


@contextmanager
def opened_submission(path: Path) -> Iterator[Submission]:
    """A submission, whether it is a folder or packed; a packed one is unpacked for the time being.

    Raises:
        MissingError: There is nothing of this name.
        SubmissionRefused: Its form doesn't hold; all faults at once.
    """
    if not os.path.lexists(path):
        raise MissingError("there is no such submission", where=str(path))
    if stat.S_ISDIR(path.lstat().st_mode):
        yield open_submission(path)
        return
    with tempfile.TemporaryDirectory(prefix="m2kr-submission-") as temporary:
        yield open_submission(unpack(path, Path(temporary)))


def open_submission(folder: Path) -> Submission:
    """A submission that lies in a folder.

    Raises:
        SubmissionRefused: Its form doesn't hold; all faults at once.
    """
    with plainly(folder):
        problems = [*_faults_of_folder(folder)]
        card: SystemCard | None = None
        try:
            card = read_card(folder / CARD)
        except SubmissionRefused as refused:
            problems += [p for p in refused.problems if p.check != "layout" or not problems]
        if card is not None:
            problems += _faults_of_files(folder, card)
        if problems or card is None:
            raise SubmissionRefused(problems)
        return Submission(folder, card, _sha256(folder, card))


def _faults_of_folder(folder: Path) -> Iterator[Problem]:
    """What is in it that doesn't belong there, links and devices above all."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        yield _problem(folder.name, "it is no folder", "a folder, or a file of m2kr submit pack")
        return
    allowed = {CARD: stat.S_ISREG, README: stat.S_ISREG, "runs": stat.S_ISDIR}
    for name, status in _entries(folder):
        if name not in allowed:
            yield _problem(name, "it does not belong here", ", ".join(allowed))
        elif not allowed[name](status.st_mode):
            kind = "folder" if name == "runs" else "plain file"
            yield _problem(name, f"it is {_kind(status)}", f"a {kind}")
        elif name == README and status.st_size > MOST_README:
            yield _problem(name, f"it has {status.st_size:,} bytes", f"at most {MOST_README:,}")


def _faults_of_files(folder: Path, card: SystemCard) -> Iterator[Problem]:
    """Whether the files are those of the card, and the folder has its name."""
    name = folder.absolute().name
    if name != card.name:
        yield Problem(
            "layout",
            f"{CARD}, name",
            f"the name is {card.name}, and the folder's {ascii(name)[:80]}",
            "the same name",
            f"rename the folder: {card.name}",
        )
    runs = folder / "runs"
    entries = dict(_entries(runs)) if stat.S_ISDIR(_mode(runs)) else {}
    named = {run.file.removeprefix("runs/") for run in card.runs}
    for file, status in sorted(entries.items()):
        if file not in named:
            yield _problem(
                f"runs/{file}", "the card names no such run", "files that the card names"
            )
        elif not stat.S_ISREG(status.st_mode):
            yield _problem(f"runs/{file}", f"it is {_kind(status)}", "a plain file")
        elif status.st_size > MOST_RUN:
            yield _problem(
                f"runs/{file}", f"it has {status.st_size:,} bytes", f"at most {MOST_RUN:,}"
            )
    together = sum(status.st_size for status in entries.values())
    if together > MOST_TOGETHER:
        yield Problem(
            "layout",
            "runs",
            f"all together have {together:,} bytes",
            f"at most {MOST_TOGETHER:,}",
            "m2kr submit init RESULTS --out FOLDER --set k=100 cuts the rankings",
        )
    for file in sorted(named - set(entries)):
        yield _problem(f"runs/{file}", "the card names it, and it is not there", "a run's file")


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Names in a folder, and what they are themselves; no link is followed. Some, if they are many."""
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number > _MOST_ENTRIES:
                return
            yield entry.name, entry.stat(follow_symlinks=False)


def _kind(status: os.stat_result) -> str:
    kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISREG, "a file"))
    return next((kind for test, kind in kinds if test(status.st_mode)), "a pipe or device")


def _problem(name: str, what: str, expected: str) -> Problem:
    shown = name if name.isascii() and name.isprintable() else ascii(name)
    return Problem("layout", shown[:80], what, expected, _FIX)


def _sha256(folder: Path, card: SystemCard) -> str:
    """Hash (hex) of names and contents of the card and the runs."""
    whole = hashlib.sha256()
    for name in sorted([CARD, *(run.file for run in card.runs)]):
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{digest} {name}\n".encode())
    return whole.hexdigest()
