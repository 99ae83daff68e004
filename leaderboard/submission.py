"""A submission: a folder, or a packed file, with a system's card and its runs."""

from dataclasses import dataclass
from pathlib import Path

from .system_card import SubmittedRun, SystemCard


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
