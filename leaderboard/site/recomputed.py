"""Recomputed scores that stand beside a claim: of the same system, source, metric and protocol."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ..boards import Board, BoardEntry
from ..claims import Claim
from ..protocols import PROTOCOLS


@dataclass(frozen=True, slots=True)
class RecomputedScore:
    """What the harness computed where somebody claimed a number.

    Attributes:
        entry: The run that was scored.
        value: Its score, 0 to 1.
        difference: From the claim, in points of 100.
    """

    entry: BoardEntry
    value: float
    difference: float


class RecomputedScores:
    """Scores on known data, to be looked up by claims.

    A system is that of a claim if its folder or its title is the claim's name and size, whatever their
    case and punctuation: ``preflmr-vit-l`` is PreFLMR ViT-L. The data must be those of the claim's
    protocol, so that what m2kr has no data of has nothing beside it.

    Args:
        boards: Those of unverified data are left out.
    """

    def __init__(self, boards: Iterable[Board]) -> None:
        self._entries: dict[tuple[str, str, str, str], list[BoardEntry]] = defaultdict(list)
        for board in boards:
            if not board.verified:
                continue
            for row in board.rows:
                card = row.entry.card
                for name in {_plain(card.name), _plain(card.title)}:
                    self._entries[board.source, board.split, board.edition, name].append(row.entry)

    def of(self, claim: Claim) -> list[RecomputedScore]:
        """Those that a claim can be held against, in the order of the board."""
        edition = PROTOCOLS[claim.protocol].edition
        if not edition or claim.task != "retrieval":
            return []
        key = (claim.source, claim.split, edition, _plain(claim.system_and_size))
        scores = []
        for entry in self._entries.get(key, ()):
            value = entry.scored.result.metrics.get(claim.metric, {}).get("value")
            if value is not None:
                difference = 100 * value - float(claim.printed)
                scores.append(RecomputedScore(entry, value, difference))
        return scores


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
