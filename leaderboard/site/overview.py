"""All systems on all boards in one table: a row a system, a column a board, blank where it has no run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..boards import Board, BoardRow
from ..system_card import SystemCard
from .board_page import board_heading
from .claim_rows import source_title
from .figures import MetricHead, ScoreCell, parameters_cell, ranks_in_words, score_cell

_SIZES = ((0, "none"), (100_000_000, "below 100 M"), (1_000_000_000, "100 M to 1 B"))
_LARGEST, _UNKNOWN = "1 B and more", "not stated"
SIZES = (*(words for _, words in _SIZES), _LARGEST, _UNKNOWN)


@dataclass(frozen=True, slots=True)
class OverviewColumn:
    """A board as a column.

    Attributes:
        key: Of the board.
        heading: What it is called.
        metric: The metric that it is ordered by.
        systems: How many stand on it.
        verified: Whether its data are known; else nothing is ranked.
    """

    key: str
    heading: str
    metric: MetricHead
    systems: int
    verified: bool


def overview_columns(boards: Sequence[Board]) -> list[OverviewColumn]:
    """The boards as columns, in their order."""
    return [
        OverviewColumn(
            board.key,
            _heading(board),
            MetricHead.of(board.headline),
            len(board.rows),
            board.verified,
        )
        for board in boards
    ]


def _heading(board: Board) -> str:
    """As short as it can be: nearly all boards are of test splits, and of one set of data each."""
    name = source_title(board.source) if board.split == "test" else board_heading(board)
    further = board.key.removeprefix(f"{board.source}.{board.split}").strip(".")
    return f"{name} {further}" if further else name


def ordering_board(boards: Sequence[Board]) -> Board:
    """The board with most systems, by which the table is ordered at first."""
    return max(boards, key=lambda board: len(board.rows))


def overview_rows(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """What the table shows of each system, the best of `ordering_board` first."""
    systems: dict[tuple[str, str], dict[str, BoardRow]] = {}
    for board in boards:
        for row in board.rows:
            card = row.entry.card
            systems.setdefault((card.name, card.version), {})[board.key] = row
    best = {board.key: _best(board) for board in boards if board.verified}
    first = [row.entry.card for row in ordering_board(boards).rows]
    rows = [_row(own, boards, best) for own in systems.values()]
    order = {(card.name, card.version): place for place, card in enumerate(first)}
    return sorted(
        rows, key=lambda row: (order.get(row["key"], len(order)), row["title"], row["key"])
    )


def _best(board: Board) -> float | None:
    values = (row.entry.scored.result.value(board.headline) for row in board.rows)
    return max((value for value in values if value is not None), default=None)


def _row(
    own: Mapping[str, BoardRow], boards: Sequence[Board], best: Mapping[str, float | None]
) -> dict[str, Any]:
    card = next(iter(own.values())).entry.card
    cells: list[tuple[str, ScoreCell | None, str, bool]] = []
    for board in boards:
        row = own.get(board.key)
        if row is None:
            cells.append((board.key, None, "", False))
            continue
        ranks = row.ranks.get(board.headline)
        figure = score_cell(row.entry.scored.result.metrics, board.headline, best.get(board.key))
        top = ranks is not None and ranks[0] == 1
        cells.append((board.key, figure, ranks_in_words(ranks) if ranks else "", top))
    return {
        "key": (card.name, card.version),
        "title": card.title,
        "version": card.version,
        "href": f"systems/{card.name}.html",
        "cells": cells,
        "notes": sum(len(row.notes) for row in own.values()),
        "kind": card.kind,
        "parameters": card.parameters,
        "parameters_shown": parameters_cell(card.parameters),
        "size": _size(card.parameters),
        "reads": " and ".join(card.query_modalities),
        "zero_shot": _zero_shot(card, [b.source for b in boards if b.key in own]),
        "status": _status([row.entry.status for row in own.values()]),
    }


def _size(parameters: int | None) -> str:
    if parameters is None:
        return _UNKNOWN
    if parameters == 0:
        return _SIZES[0][1]
    return next((words for most, words in _SIZES if parameters < most), _LARGEST)


def _zero_shot(card: SystemCard, sources: Sequence[str]) -> str:
    """On how many of its sources a system's submitter says that it wasn't trained."""
    claims = [card.zero_shot.get(source) for source in sources]
    if None in claims:
        return _UNKNOWN
    if len(set(claims)) > 1:
        return "on some"
    return "yes" if claims[0] else "no"


def _status(statuses: Sequence[str]) -> str:
    if len(set(statuses)) == 1:
        return statuses[0]
    return "reproduced in part"
