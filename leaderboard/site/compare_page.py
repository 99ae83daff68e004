"""The page that compares two systems of a board query by query, and the scores that it reads."""

from collections.abc import Iterator

from .board_page import board_heading, has_query_scores
from .context import SiteContext
from .query_scores import query_score_files

COMPARE = "compare.html"


def compare_pages(site: SiteContext) -> Iterator[tuple[str, bytes]]:
    """``compare.html`` and its files in ``data``."""
    boards = [board for board in site.boards if has_query_scores(board)]
    yield site.page(
        COMPARE,
        COMPARE,
        *(("address.js", "paired_tests.js", "compare.js") if boards else ()),
        title="Compare two systems",
        reads_data=True,
        boards=[(board.key, board_heading(board)) for board in boards],
    )
    for board in boards:
        yield from query_score_files(board)
