"""What readers of a board are told of odd runs, and not of honest ones like them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.mini_submission import (
    MINI,
    mini_judge,
    random_rankings,
    ranked_run,
    run_of,
    scored_on_mini,
)

from m2kr.retrieval.run import Run
from m2kr_leaderboard import anomalies
from m2kr_leaderboard.boards import Board, make_boards
from m2kr_leaderboard.checks import RunCase
from m2kr_leaderboard.scored import ScoredRun, ScoredSubmission
from m2kr_leaderboard.scoring import as_entries
from m2kr_leaderboard.site.build import build_site
from m2kr_leaderboard.system_card import SubmittedRun, TrainingData


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ScoredSubmission:
    """A run like any other's."""
    card = {"name": "first", "title": "FIRST"}
    return scored_on_mini(tmp_path_factory.mktemp("honest"), ranked_run(), card=card)


def with_right_first(share: float) -> tuple[list[list[str]], list[bool]]:
    """Rankings by chance, some with a right passage on top; and which."""
    draw, lists = np.random.default_rng(0), random_rankings()
    rights = mini_judge().queries_view.column("pos_item_ids")
    first = (draw.random(len(lists)) < share).tolist()
    for ids, right, there in zip(lists, rights, first, strict=True):
        if there:
            ids[:] = [right[0], *(one for one in ids if one != right[0])][:100]
    return lists, first


def from_judgements() -> Run:
    """A right passage is first for every query; images lacked."""
    return run_of(with_right_first(1.0)[0], images={"found": 8, "total": 10})


def pasted_in() -> Run:
    """In a third of the queries a right passage was put on top, by another scorer."""
    lists, first = with_right_first(0.3)
    scores = [
        [100.0 if there else 1 - place / 1e3, *(-np.arange(1.0, 100))]
        for place, there in enumerate(first)
    ]
    learned = {"learned_on": {"queries": MINI.parts["queries"]}}
    return run_of(lists, scores, settings={"learned": learned})


def short_and_tied() -> Run:
    """Three rankings are short, one of them empty, and in a tenth all scores are equal."""
    lists = [ids for _, ids, _ in ranked_run(3).items()]
    lists[0], lists[1], lists[2] = [], lists[1][:7], lists[2][:50]
    scores = [
        np.zeros(len(ids)) if place % 10 == 5 else -np.arange(float(len(ids)))
        for place, ids in enumerate(lists)
    ]
    return run_of(lists, scores)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScoredRun]:
    """Odd runs by name; the first one's card says on what it was trained, too."""
    card = {
        "training_data": (TrainingData("mini", "train"), TrainingData("mini", "test")),
        "zero_shot": {"mini": True},
    }
    makers = {
        "judgements": (from_judgements, card),
        "pasted": (pasted_in, None),
        "short": (short_and_tied, None),
    }
    folder = tmp_path_factory.mktemp("odd")
    return {
        name: scored_on_mini(folder / name, make(), card=facts).runs[0]
        for name, (make, facts) in makers.items()
    }


NOTES = {
    "short rankings": ("short", "3 of 1,007 rankings have fewer than 100 passages, 1 of them none"),
    "perfection": ("judgements", "a right passage stands first in 100.0% of the queries"),
    "all or nothing": (
        "pasted",
        "in 279 queries a right passage stands first, and of the other 728",
    ),
    "score jump": ("pasted", "in 279 queries the first passage's score lies far above"),
    "ties": ("short", "in 101 of 1,007 queries all passages score alike"),
    "images": ("judgements", "it was made with 2 of 10 images missing"),
    "learned": ("pasted", "its weights were learned on these very queries"),
    "trained on the test": ("judgements", "it was trained on mini (test), which is what it is"),
    "zero-shot": ("judgements", "it is called zero-shot on mini, and was trained on mini (train)"),
}


@pytest.mark.parametrize("name", NOTES)
def test_an_odd_run_is_noted_and_others_are_not(name: str, odd: dict[str, ScoredRun]) -> None:
    of, begin = NOTES[name]
    noted = {run: [n for n in scored.notes if n.startswith(begin)] for run, scored in odd.items()}
    assert {run: len(notes) for run, notes in noted.items()} == {
        run: int(run == of) for run in odd
    }, {run: scored.notes for run, scored in odd.items()}


def test_every_note_of_odd_runs_is_meant(
    odd: dict[str, ScoredRun], honest: ScoredSubmission
) -> None:
    """Nothing else is said, and nothing at all of an honest run."""
    assert sum(len(run.notes) for run in odd.values()) == len(NOTES)
    assert honest.runs[0].notes == ()


def test_scores_above_the_audits_ceiling(
    odd: dict[str, ScoredRun], honest: ScoredSubmission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceilings of other data than mini's, where texts of right passages stand in the pool again."""
    lower = replace(MINI, ceilings={"hit_rate@1": 0.9, "hit_rate@5": 1.0})
    monkeypatch.setattr(anomalies, "known_data_of", lambda _: lower)

    def notes(run: ScoredRun) -> list[str]:
        case = RunCase(run.submitted, Path(), result=run.result)
        return list(anomalies._above_ceiling(case, honest.card))

    [note] = notes(odd["judgements"])
    assert note.startswith("hit_rate@1 is 1.0000; the audit of these data found 0.9000")
    assert notes(honest.runs[0]) == []


TRAINED = {
    ("okvqa", "COCO captions"): "both have images of COCO",
    ("infoseek", "OVEN"): "InfoSeek's questions are about images of OVEN",
    ("iglue", "WIT"): "IGLUE's images and texts are WIT's",
    ("evqa", "iNat2021"): "E-VQA's images are of iNaturalist 2021 and Google Landmarks",
    ("kvqa", "M2KR"): "was trained on M2KR",
    ("kvqa", "COCO captions"): "",
    ("wit", "a crawl of the web"): "",
}


@pytest.mark.parametrize(("source", "trained"), TRAINED)
def test_zero_shot_beside_data_that_share_images(
    source: str, trained: str, honest: ScoredSubmission
) -> None:
    run = SubmittedRun(source, "test", "m2kr", "runs/x.parquet", "fp1:e", 100, "0" * 64)
    said = TRAINED[source, trained]
    for claimed in (True, False):
        facts = {"training_data": (TrainingData(trained),), "zero_shot": {source: claimed}}
        notes = list(anomalies._training(RunCase(run, Path()), replace(honest.card, **facts)))
        assert len(notes) == int(claimed and bool(said))
        assert all(said in note for note in notes)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory, honest: ScoredSubmission) -> Board:
    """Two equal runs, one that differs in a few queries, and another one."""
    lists, others = ([ids for _, ids, _ in run.items()] for run in (ranked_run(), ranked_run(2)))
    folder = tmp_path_factory.mktemp("alike")
    near = scored_on_mini(
        folder / "near", run_of(others[:10] + lists[10:]), card={"name": "near", "title": "NEAR"}
    )
    other = scored_on_mini(
        folder / "other", ranked_run(2), card={"name": "other", "title": "OTHER"}
    )
    same = replace(honest, card=replace(honest.card, name="same", title="SAME"))
    [board] = make_boards(as_entries([honest, same, near, other]))
    return board


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
