"""Published numbers as a table of systems by sources, one for each protocol, beside what was recomputed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..claims import Claim
from .claim_rows import ClaimGroup, ClaimRow, claim_groups
from .recomputed import RecomputedScores


@dataclass(frozen=True, slots=True)
class ClaimsBeside:
    """The claims of a protocol, but those that must not be used.

    Attributes:
        group: The protocol.
        heads: Source and measure of each column.
        rows: Per system its name, variant, and the claims by column, None where nothing was printed.
    """

    group: ClaimGroup
    heads: tuple[tuple[str, str], ...]
    rows: tuple[dict[str, Any], ...]


def claims_beside(claims: Iterable[Claim], scores: RecomputedScores) -> list[ClaimsBeside]:
    """The tables; two protocols never share one."""
    made = (_table(group) for group in claim_groups(claims, scores))
    return [table for table in made if table.rows]


def _table(group: ClaimGroup) -> ClaimsBeside:
    usable = [row for row in group.rows if not row.void and row.claim.confidence != "do-not-use"]
    heads = list(dict.fromkeys(map(_head, usable)))
    systems: dict[tuple[str, str], dict[tuple[str, str], ClaimRow]] = {}
    for row in usable:
        key = (row.claim.system_and_size, row.claim.variant)
        systems.setdefault(key, {})[_head(row)] = row
    rows = tuple(
        {"system": system, "variant": variant, "cells": [own.get(head) for head in heads]}
        for (system, variant), own in systems.items()
    )
    return ClaimsBeside(group, tuple(heads), rows)


def _head(row: ClaimRow) -> tuple[str, str]:
    """Column: the source, with corpus and split where they are another's; and the measure."""
    claim = row.claim
    place = ", ".join(
        filter(None, (row.source_title, claim.corpus, "" if claim.split == "test" else claim.split))
    )
    return place, row.heading
