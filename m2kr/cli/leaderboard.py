"""``m2kr leaderboard``: Build the leaderboard's site, and check what is handed in to it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2kr.cli import options, output
from m2kr.cli.submit import scored_facts, show_scored

if TYPE_CHECKING:
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

    All are checked and scored first; nothing is written if one has a fault. Two builds from the same
    submissions are byte-equal.
    """
    from m2kr_leaderboard.boards import make_boards
    from m2kr_leaderboard.claims import load_claims
    from m2kr_leaderboard.scoring import as_entries, packaged_submissions, score_all
    from m2kr_leaderboard.site.build import build_site

    given = list(submissions or ())
    with output.Bars() as bars:
        scored = score_all([*packaged_submissions(), *given], data, progress=bars)
        boards = make_boards(as_entries(scored))
        path = build_site(boards, load_claims(), out, progress=bars)
    output.say(f"{len(boards)} boards: open {path / 'index.html'}")


def validate(
    submissions: Annotated[
        list[Path], typer.Argument(help="Submissions: folders, or what was packed of them.")
    ],
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Check submissions as m2kr submit check does, all of them, and show what the board would."""
    from m2kr_leaderboard.scoring import score_all

    with output.Bars() as bars:
        scored: list[ScoredSubmission] = score_all(submissions, data, progress=bars)
    if json:
        output.emit({"submissions": [scored_facts(one) for one in scored]})
        return
    for one in scored:
        show_scored(one)


SUBCOMMANDS = {
    "build": (build_pages, ("m2kr leaderboard build my-system --out site",)),
    "validate": (validate, ("m2kr leaderboard validate leaderboard/submissions/my-system",)),
}
