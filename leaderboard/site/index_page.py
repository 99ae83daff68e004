"""The first page: all systems on all boards, to be sorted and narrowed, and published numbers beside them."""

from collections.abc import Iterator

from .claims_beside import claims_beside
from .context import SiteContext
from .overview import SIZES, ordering_board, overview_columns, overview_rows
from .recomputed import RecomputedScores

# Facts as columns: key, heading, and whether they are shown before anybody asks.
_FACTS = (
    ("ranks", "Ranks", True),
    ("intervals", "95 % intervals", False),
    ("parameters", "Parameters", True),
    ("reads", "Reads of a query", False),
    ("kind", "Kind", True),
    ("zero", "Zero-shot", True),
    ("status", "Status", True),
)


def index_pages(site: SiteContext) -> Iterator[tuple[str, bytes]]:
    """``index.html``."""
    boards = overview_columns(site.boards)
    rows = overview_rows(site.boards) if boards else []
    sizes = {row["size"] for row in rows}
    filters = (
        ("kind", "Kind", sorted({row["kind"] for row in rows})),
        ("reads", "Reads of a query", sorted({row["reads"] for row in rows})),
        ("size", "Size", [words for words in SIZES if words in sizes]),
        ("zero", "Zero-shot", sorted({row["zero_shot"] for row in rows})),
        ("status", "Status", sorted({row["status"] for row in rows})),
    )
    yield site.page(
        "index.html",
        "index.html",
        *(("address.js", "sort.js", "filters.js", "columns.js", "beside.js") if boards else ()),
        title="Leaderboard",
        boards=boards,
        rows=rows,
        first=ordering_board(site.boards).key if boards else "",
        choices=[{"name": n, "label": label, "options": o} for n, label, o in filters],
        columns=[*((board.key, board.heading, True) for board in boards), *_FACTS],
        beside=claims_beside(site.claims, RecomputedScores(site.boards)) if boards else [],
    )
