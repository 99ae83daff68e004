"""A page for each board: its rows, groups of its queries, what the data are, and claims beneath."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..boards import Board, BoardRow
from ..claims import claims_of
from ..source_facts import SourceFacts, source_facts
from .charts import PlottedSystem, cost_in_words, score_chart
from .claim_rows import claim_groups, source_title
from .context import SiteContext
from .figures import (
    MetricHead,
    milliseconds,
    parameters_cell,
    ranks_in_words,
    score_cell,
    three_places,
)
from .recomputed import RecomputedScores

_MOST_METRICS = 3  # beside ranks and facts; all have a table of their own
_MOST_VALUES = 12  # of a column of groups; more don't fit a table
_TASKS = {
    "I2T": "image to text",
    "Q2T": "question to text",
    "IQ2T": "image and question to text",
    "mixed": "images, questions, and both",
}


def board_pages(site: SiteContext) -> Iterator[tuple[str, bytes]]:
    """``boards/<key>.html``."""
    scores = RecomputedScores(site.boards)
    for board in site.boards:
        claims = claims_of(f"{board.source}.{board.split}", site.claims)
        yield site.page(
            f"boards/{board.key}.html",
            "board.html",
            "address.js",
            "sort.js",
            *(("choose_two.js",) if has_query_scores(board) else ()),
            title=board_heading(board),
            heading=board_heading(board),
            board=board,
            facts=source_facts().get(board.source, SourceFacts()),
            about=_about(board),
            headline_heading=MetricHead.of(board.headline).heading,
            columns=board_columns(board),
            rest=[MetricHead.of(name) for name in board.metrics],
            rows=board_rows(board),
            compared=has_query_scores(board),
            groups=_groups(board),
            smallest=_smallest(board),
            by_time=score_chart(_plotted(board, _seconds, "{} s a query", "../")),
            by_size=score_chart(_plotted(board, _parameters, "{} parameters", "../")),
            claims=claim_groups(claims, scores),
        )


def board_heading(board: Board) -> str:
    """What a board is called."""
    return f"{source_title(board.source)}, {board.split}"


def _about(board: Board) -> list[tuple[str, str]]:
    """What the data are, by name."""
    facts = source_facts().get(board.source, SourceFacts())
    counts: Mapping[str, Any] = board.rows[0].entry.scored.result.counts if board.rows else {}
    about = [
        ("Task", _TASKS.get(facts.task, facts.task)),
        ("Edition", board.edition),
        ("Queries", f"{counts['queries']:,}" if "queries" in counts else ""),
        ("Passages", f"{counts['passages']:,}" if "passages" in counts else ""),
        ("Ordered by", MetricHead.of(board.headline).heading),
        ("Systems", f"{len(board.rows):,}"),
        ("Licence of the data", facts.licence),
    ]
    return [(name, value) for name, value in about if value]


def board_columns(board: Board) -> list[MetricHead]:
    """The metrics that the first table has: the headline, and two of those that reports show."""
    shown = [
        name
        for row in board.rows[:1]
        for name in row.entry.scored.result.shown
        if name in board.metrics
    ]
    return [
        MetricHead.of(name) for name in [*dict.fromkeys([board.headline, *shown])][:_MOST_METRICS]
    ]


def board_rows(board: Board) -> list[dict[str, Any]]:
    """What tables show of each system, in the order of the board."""
    columns = [head.name for head in board_columns(board)]
    best = {name: _best(board, name) if board.verified else None for name in board.metrics}
    rows = []
    for key, row in zip(row_keys(board), board.rows, strict=True):
        result, ranks = row.entry.scored.result, row.ranks.get(board.headline)
        rows.append(
            _name_of(row)
            | {
                "key": key,
                "has_queries": bool(result.query_ids),
                "rank": ranks_in_words(ranks),
                "best_rank": ranks[0] if ranks else None,
                "top": ranks is not None and ranks[0] == 1,
                "figures": [score_cell(result.metrics, name, best.get(name)) for name in columns],
                "rest": [score_cell(result.metrics, name, best[name]) for name in board.metrics],
                "kind": row.entry.card.kind,
                "parameters": row.entry.card.parameters,
                "parameters_shown": parameters_cell(row.entry.card.parameters),
                "seconds": (seconds := _seconds(row)),
                "seconds_shown": "–" if seconds is None else milliseconds(seconds),
                "zero_shot": zero_shot_in_words(row.entry.card.zero_shot.get(board.source)),
                "status": row.entry.status,
                "notes": len(row.notes),
            }
        )
    return rows


def has_query_scores(board: Board) -> bool:
    """Whether two of its systems can be compared query by query."""
    having = [row for row in board.rows if row.entry.scored.result.query_ids]
    return len(having) > 1


def row_keys(board: Board) -> list[str]:
    """What tells a board's systems apart: their names, with a number after one that is there again."""
    names = [row.entry.card.name for row in board.rows]
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}@{n + 1}" if n else name for name, n in zip(names, before, strict=True)]


def _seconds(row: BoardRow) -> float | None:
    seconds = row.entry.scored.submitted.cost.get("seconds_per_query")
    return float(seconds) if seconds else None


def _parameters(row: BoardRow) -> float | None:
    count = row.entry.card.parameters
    return None if count is None else float(count)


def _plotted(
    board: Board, cost_of: Callable[[BoardRow], float | None], words: str, root: str
) -> list[PlottedSystem]:
    """The systems of a board whose cost and score are known."""
    systems = []
    for row in board.rows:
        cost, score = cost_of(row), row.entry.scored.result.value(board.headline)
        if cost is None or score is None:
            continue
        card = row.entry.card
        said = f"{three_places(score)}, {words.format(cost_in_words(cost))}"
        systems.append(
            PlottedSystem(card.title, f"{root}systems/{card.name}.html", cost, score, said)
        )
    return systems


def _name_of(row: BoardRow) -> dict[str, Any]:
    card = row.entry.card
    return {"title": card.title, "version": card.version, "href": f"systems/{card.name}.html"}


def zero_shot_in_words(claimed: bool | None) -> str:
    """What a submitter says of training on a source."""
    return {True: "yes", False: "no", None: "not stated"}[claimed]


def _best(board: Board, metric: str) -> float | None:
    values = [row.entry.scored.result.metrics.get(metric, {}).get("value") for row in board.rows]
    return max((value for value in values if value is not None), default=None)


def _groups(board: Board) -> list[dict[str, Any]]:
    """A table of the headline metric for each column that queries are grouped by."""
    columns = {name for row in board.rows for name in row.entry.scored.result.groups}
    return [_group_table(board, column) for column in sorted(columns)]


def _group_table(board: Board, column: str) -> dict[str, Any]:
    sizes: dict[str, int] = {}
    for row in board.rows:
        for value, group in row.entry.scored.result.groups.get(column, {}).items():
            sizes[value] = group["n"]
    names = sorted(sizes, key=lambda name: (-sizes[name], name))[:_MOST_VALUES]
    rows = []
    for row in board.rows:
        groups = row.entry.scored.result.groups.get(column, {})
        figures = [
            score_cell(groups.get(name, {}).get("metrics", {}), board.headline) for name in names
        ]
        rows.append(_name_of(row) | {"figures": figures})
    return {
        "column": column.replace("_", " "),
        "heads": [(name, f"{sizes[name]:,} queries") for name in names],
        "rows": rows,
        "left_out": len(sizes) - len(names),
    }


def _smallest(board: Board) -> str:
    """What difference the board can show, in a sentence."""
    smallest = board.smallest_difference.get(board.headline)
    if smallest is None:
        return ""
    name = MetricHead.of(board.headline).heading
    return (
        f"A test of two systems finds a true difference of {100 * smallest:.1f} points of {name} in four of "
        "five cases."
    )
