"""What readers of a board are told of odd runs, and not of honest ones like them."""

from pathlib import Path

import pytest
from support.mini_submission import ranked_run, run_of, scored_on_mini

from m2kr.retrieval.run import Run
from m2kr_leaderboard.boards import Board, make_boards
from m2kr_leaderboard.scoring import as_entries
from m2kr_leaderboard.site.build import build_site


def board_of(folder: Path, **runs: Run) -> Board:
    """The board of some systems, each titled by its name in capitals."""
    scored = [
        scored_on_mini(folder / name, run, card={"name": name, "title": name.upper()})
        for name, run in runs.items()
    ]
    [board] = make_boards(as_entries(scored))
    return board


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """Two equal runs, one that differs in a few queries, and another one."""
    first, other = ranked_run(1), ranked_run(2)
    lists, others = ([ids for _, ids, _ in run.items()] for run in (first, other))
    near = run_of(others[:10] + lists[10:])
    return board_of(
        tmp_path_factory.mktemp("alike"), first=first, same=first, near=near, other=other
    )


def test_runs_that_are_nearly_the_same_say_so(alike: Board, tmp_path: Path) -> None:
    notes = {row.entry.card.name: row.notes for row in alike.rows}
    assert "its rankings are those of SAME" in notes["first"]
    assert "its rankings are those of FIRST" in notes["same"]
    assert {n.partition(":")[0] for n in notes["near"]} == {
        "it ranks nearly as FIRST does",
        "it ranks nearly as SAME does",
    }
    assert notes["other"] == ()
    site = build_site([alike], [], tmp_path / "site")
    page = (site / "systems" / "same.html").read_text(encoding="utf-8")
    assert "its rankings are those of FIRST" in page
    assert "its rankings" not in (site / "systems" / "other.html").read_text(encoding="utf-8")
    assert "its rankings are those of FIRST" in (site / "data/results.json").read_text("utf-8")
    board = (site / f"boards/{alike.key}.html").read_text(encoding="utf-8")
    assert 'systems/same.html#notes">2 notes<' in board and "other.html#notes" not in board
