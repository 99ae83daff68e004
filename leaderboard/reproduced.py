"""Runs that somebody beside the submitter made again: the file ``data/reproduced.csv``."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .system_card import SubmittedRun, SystemCard

REPRODUCED = Path(__file__).parent / "data" / "reproduced.csv"


@dataclass(frozen=True, slots=True)
class ReproducedRun:
    """That a maintainer ran a system, and its rankings came out the same.

    Attributes:
        system: Name of the system.
        version: Of the system.
        source: Source name.
        split: Split name.
        run_sha256: Hash of the rankings, scores included, that came out twice.
        who: Person or group that ran it again.
        date: When, as ``2026-12-01``.
        command: What was run.
    """

    system: str
    version: str
    source: str
    split: str
    run_sha256: str
    who: str
    date: str
    command: str


@cache
def reproduced_runs() -> tuple[ReproducedRun, ...]:
    """All rows of the file."""
    with REPRODUCED.open(encoding="utf-8", newline="") as file:
        return tuple(ReproducedRun(**row) for row in csv.DictReader(file))


def is_reproduced(card: SystemCard, run: SubmittedRun) -> bool:
    """Whether the very rankings of a system's run were made again: another run of it is not."""
    key = (card.name, card.version, run.source, run.split, run.run_sha256)
    return any(
        (one.system, one.version, one.source, one.split, one.run_sha256) == key
        for one in reproduced_runs()
    )
