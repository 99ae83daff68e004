"""Per-query scores as ``.js`` files: what a page that is opened from disk can read."""

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.report.page.data_files import as_script, fitted

from ..boards import Board, scores_by_query
from .board_page import board_columns, row_keys
from .figures import score_cell

if TYPE_CHECKING:
    from numpy.typing import NDArray


def query_score_files(board: Board) -> Iterator[tuple[str, bytes]]:
    """A file of a board's queries and systems, and one for each system with its scores.

    Each calls ``m2kr(name, value)``. Scores are those of the metrics that the board's first table shows, as
    `packed_scores`. Queries are sorted by id, since the order decides what a seed draws, and ``m2kr compare``
    sorts them.

    Args:
        board: One that `has_query_scores`.
    """
    with_queries = (row.entry.scored.result.query_ids for row in board.rows)
    query_ids = sorted(next(filter(None, with_queries)))
    metrics = [head.name for head in board_columns(board)]
    systems = []
    for key, row in zip(row_keys(board), board.rows, strict=True):
        result = row.entry.scored.result
        if not result.query_ids:
            continue
        cells = {name: score_cell(result.metrics, name) for name in metrics}
        systems.append(
            {
                "key": key,
                "title": row.entry.card.title,
                "version": row.entry.card.version,
                "page": f"systems/{row.entry.card.name}.html",
                "scores": {
                    name: [cell.shown, cell.interval]
                    for name, cell in cells.items()
                    if cell and name in result.scores
                },
            }
        )
        yield _file(
            f"{board.key}.{key}",
            {
                name: packed_scores(scores_by_query(row.entry, query_ids, name))
                for name in metrics
                if name in result.scores
            },
        )
    heads = [
        {"name": head.name, "heading": head.heading, "doc": head.doc}
        for head in board_columns(board)
        if any(head.name in system["scores"] for system in systems)
    ]
    yield _file(board.key, {"queries": query_ids, "metrics": heads, "systems": systems})


def _file(name: str, value: Any) -> tuple[str, bytes]:
    name = f"q.{name}"
    return f"data/{name}.js", b"m2kr(%b,%b)\n" % (as_script(name), as_script(fitted(value)))


def packed_scores(scores: "NDArray[np.float64]") -> dict[str, Any]:
    """Scores without loss: the distinct ones, and for each query the place of its own among them.

    Args:
        scores: (queries,), NaN where undefined.

    Returns:
        ``values`` ascending, null for NaN; and ``places`` as Base64 of whole numbers of as many bits as the
        last place needs, the highest bit first, without gaps.
    """
    values, places = np.unique(scores, return_inverse=True)
    bits = (len(values) - 1).bit_length()
    packed = np.packbits((places.reshape(-1, 1) >> np.arange(bits)[::-1] & 1).astype(np.uint8))
    known = [None if np.isnan(value) else value for value in values.tolist()]
    return {"values": known, "places": base64.b64encode(packed.tobytes()).decode()}
