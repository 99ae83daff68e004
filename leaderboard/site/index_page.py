"""The first page: all boards with their systems, to be sorted and narrowed."""

from collections.abc import Iterator
from typing import Any

from ..boards import Board, BoardRow
from .board_page import board_columns, board_heading, board_rows
from .context import SiteContext
from .system_page import parameters_in_words

_SIZES = ((0, "none"), (100_000_000, "below 100 M"), (1_000_000_000, "100 M to 1 B"))
_FACTS = (
    ("parameters", "Parameters", True),
    ("seconds", "s a query", False),
    ("reads", "Reads of a query", False),
    ("kind", "Kind", True),
    ("zero", "Zero-shot", True),
    ("status", "Status", True),
)


def index_pages(site: SiteContext) -> Iterator[tuple[str, bytes]]:
    """``index.html``."""
    boards = [_board(board) for board in site.boards]
    rows = [row for board in boards for row in board["rows"]]
    heads = {head.name: head.heading for board in site.boards for head in board_columns(board)}
    filters = (
        ("data", "Data", sorted({board["data"] for board in boards})),
        ("kind", "Kind", sorted({row["kind"] for row in rows})),
        ("reads", "Reads of a query", sorted({row["reads"] for row in rows})),
        ("size", "Size", _in_order({row["size"] for row in rows})),
        ("zero", "Zero-shot", sorted({row["zero_shot"] for row in rows})),
        ("status", "Status", sorted({row["status"] for row in rows})),
    )
    yield site.page(
        "index.html",
        "index.html",
        *(("address.js", "sort.js", "filters.js", "columns.js") if boards else ()),
        title="Leaderboard",
        boards=boards,
        total=len(rows),
        choices=[{"name": n, "label": label, "options": o} for n, label, o in filters],
        columns=[*((name, words, _is_usual(name)) for name, words in heads.items()), *_FACTS],
    )


def _is_usual(metric: str) -> bool:
    """Whether a table shows it before anybody asks: what M2KR's papers report."""
    return metric.startswith(("hit_rate", "pseudo_recall", "mrr"))


def _board(board: Board) -> dict[str, Any]:
    rows = zip(board.rows, board_rows(board), strict=True)
    about = f"{len(board.rows):,} systems, ordered by {board_columns(board)[0].heading}"
    return {
        "key": board.key,
        "heading": board_heading(board),
        "about": about + ("" if board.verified else "; unverified data: nothing is ranked"),
        "data": f"{board.edition} {board.source}/{board.split}" if board.source else "mean",
        "headline": board.headline,
        "heads": board_columns(board),
        "rows": [shown | _facts(row) for row, shown in rows],
    }


def _facts(row: BoardRow) -> dict[str, Any]:
    card, seconds = row.entry.card, row.entry.scored.submitted.cost.get("seconds_per_query")
    return {
        "parameters": card.parameters,
        "parameters_shown": "–"
        if card.parameters is None
        else parameters_in_words(card.parameters).removesuffix(" parameters"),
        "size": _size(card.parameters),
        "seconds": seconds,
        "reads": " and ".join(card.query_modalities),
    }


def _size(parameters: int | None) -> str:
    if parameters is None:
        return "not stated"
    if parameters == 0:
        return _SIZES[0][1]
    return next((words for most, words in _SIZES if parameters < most), "1 B and more")


def _in_order(sizes: set[str]) -> list[str]:
    order = [*(words for _, words in _SIZES), "1 B and more", "not stated"]
    return [words for words in order if words in sizes]
