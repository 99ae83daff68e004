"""``m2kr leaderboard``: Build the leaderboard's site, and check what is handed in to it."""

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2kr.cli import options, output
from m2kr.cli.submit import scored_facts, show_scored

if TYPE_CHECKING:
    from m2kr_leaderboard.boards import Board, BoardRow
    from m2kr_leaderboard.scored import ScoredSubmission

Submissions = Annotated[
    list[Path] | None, typer.Argument(help="Submissions: folders, or what was packed of them.")
]


def build_pages(
    submissions: Submissions = None,
    out: options.OutFolder = Path("site"),
    data: options.Data = None,
) -> None:
    """Build the site from the submissions that m2kr brings along, and from further ones.

    All are checked and scored first, but for those whose results this version of m2kr has kept; nothing is
    written if one has a fault. Two builds from the same submissions are byte-equal.
    """
    from m2kr_leaderboard.boards import make_boards
    from m2kr_leaderboard.claims import load_claims
    from m2kr_leaderboard.results import ResultStore
    from m2kr_leaderboard.scoring import (
        as_entries,
        packaged_cards,
        packaged_submissions,
        score_all,
    )
    from m2kr_leaderboard.site.build import build_site

    given, store = list(submissions or ()), ResultStore()
    with output.Bars() as bars:
        scored = score_all([*packaged_submissions(), *given], data, bars, store)
        boards = make_boards(as_entries(scored))
        earlier = as_entries(store.history({one.sha256 for one in scored}))
        path = build_site(boards, load_claims(), out, history=earlier, progress=bars)
    brought = {(card.name, card.version) for card in packaged_cards()}
    for board in boards:
        for row in board.rows:
            if (row.entry.card.name, row.entry.card.version) not in brought:
                output.say(_place(board, row))
    count = f"{len(boards)} board" + ("" if len(boards) == 1 else "s")
    output.say(f"{count}: open {path / 'index.html'}")


def _place(board: "Board", row: "BoardRow") -> str:
    """Where a system stands on a board, in a line."""
    value = row.entry.scored.result.value(board.headline)
    score = "undefined" if value is None else f"{value:.4f}"
    card = row.entry.card
    words = f"{card.title} {card.version} on {board.key}: {board.headline} {score}"
    if board.headline not in row.ranks:
        return f"{words}, not ranked: the data are unverified"
    best, worst = row.ranks[board.headline]
    rank = f"{best}" if best == worst else f"{best}–{worst}"
    return f"{words}, rank {rank} of {len(board.rows)}"


def validate(
    submissions: Annotated[
        list[Path], typer.Argument(help="Submissions: folders, or what was packed of them.")
    ],
    data: options.Data = None,
    out: options.OutOrNone = None,
    json: options.Json = False,
) -> None:
    """Check submissions as m2kr submit check does, all of them, and show where they would stand.

    With --out, results are kept in that folder for good: those of the same submission by the same version of
    m2kr once, and nothing that is there changes. Scores that a newer m2kr finds otherwise are listed.
    """
    from m2kr_leaderboard.results import ResultStore
    from m2kr_leaderboard.scoring import places, score_all

    store = ResultStore() if out is None else ResultStore(out)
    with output.Bars() as bars:
        scored: list[ScoredSubmission] = score_all(submissions, data, bars, store)
        standing = places(scored, data, bars)
    changes = [change for one in scored for change in store.changes(one)]
    if out is not None:
        for one in scored:
            store.add(one, date=datetime.date.today().isoformat())
    if json:
        facts = [scored_facts(one) | {"places": standing[one.sha256]} for one in scored]
        output.emit({"submissions": facts, "changes": [asdict(change) for change in changes]})
        return
    for one in scored:
        show_scored(one)
        for place in standing[one.sha256]:
            output.say(f"{place['board']}: rank {place['rank']} of {place['systems']}")
    for change in changes:
        output.say(
            f"{change.system}, {change.place}: {change.metric} is {change.now}, and was {change.before} "
            "by an older version of m2kr"
        )


SUBCOMMANDS = {
    "build": (build_pages, ("m2kr leaderboard build my-system --out site",)),
    "validate": (
        validate,
        (
            "m2kr leaderboard validate leaderboard/submissions/my-system",
            "m2kr leaderboard validate leaderboard/submissions/* --out leaderboard/results",
        ),
    ),
}
