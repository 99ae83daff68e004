"""Submissions made of results: what they hold, what stays open, and what is refused."""

import functools
from pathlib import Path

import numpy as np
import pytest
from support.command_line import CommandLine

from m2kr.errors import InputError, UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.result import Result
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr_leaderboard.card_reader import read_card
from m2kr_leaderboard.init import init_submission
from m2kr_leaderboard.known_data import known_split
from m2kr_leaderboard.recompute import recompute
from m2kr_leaderboard.submission import open_submission
from m2kr_leaderboard.system_card import SubmittedRun, TrainingData

EVAL = "fp1:fa4fb100777ed6f721fdaf0528041446a5ebd61705e88c6d4395d72515be9def"
SAID = {
    "authors": "Ada Lovelace; Engine Group",
    "contact": "ada@example.org",
    "licence": "Apache-2.0",
    "parameters": "12",
    "training_data": "okvqa:train, a crawl",
}


@functools.cache
def _run(seed: int, k: int) -> Run:
    split = known_split(SubmittedRun("mini", "test", "mini", "", EVAL, k, "")).split
    passages = split.passages_view.ids.to_pylist()
    rng = np.random.default_rng(seed)
    queries = split.queries_view.ids.to_pylist()
    ids = [[passages[i] for i in rng.choice(len(passages), k, replace=False)] for _ in queries]
    scores = [np.sort(rng.random(k))[::-1].tolist() for _ in queries]
    secret = {
        "arguments": {"checkpoint": "/home/ada/secret"},
        "modalities": {"query": ["text"], "passage": ["text"]},
    }
    return Run.from_lists(queries, ids, scores, name="made", metadata=secret)


@functools.cache
def _scored(seed: int, k: int) -> Result:
    split = known_split(SubmittedRun("mini", "test", "mini", "", EVAL, k, "")).split
    return evaluate_split(split, RunRetriever(_run(seed, k), "made"), k=k)


def _result(folder: Path, seed: int = 0, k: int = 120) -> Path:
    return _scored(seed, k).save(folder)


def test_what_results_say_is_in_the_card_and_holds(tmp_path: Path) -> None:
    folder, lacking = init_submission([_result(tmp_path / "results")], tmp_path / "made", SAID)
    assert not lacking
    with_all = open_submission(folder)
    card = with_all.card
    assert card.name == "made"
    assert card.authors == ("Ada Lovelace", "Engine Group")
    assert card.training_data == (TrainingData("okvqa", "train"), TrainingData("a crawl"))
    assert card.zero_shot == {"mini": True}
    (run,) = card.runs
    assert run.k == 120
    assert {"hit_rate@1", "hit_rate@5"} <= run.scores.keys()
    scored = recompute(with_all).runs[0]
    for metric, claimed in run.scores.items():
        assert scored.result.value(metric) == pytest.approx(claimed, abs=1e-12)


def test_nothing_of_the_submitters_machine_is_in_it(tmp_path: Path) -> None:
    folder, _ = init_submission([_result(tmp_path / "results")], tmp_path / "made", SAID)
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"secret" not in content
            assert str(tmp_path).encode() not in content


def test_what_nobody_says_is_open_and_not_made_up(tmp_path: Path) -> None:
    results = [_result(tmp_path / "results")]
    _, lacking = init_submission(results, tmp_path / "made", {"parameters": "unknown"})
    text = "\n".join(lacking)
    for field in ("authors", "contact", "licence", "training_data", "zero_shot"):
        assert field in text


def test_a_run_is_cut_with_its_claims(tmp_path: Path) -> None:
    results = [_result(tmp_path / "results")]
    folder, _ = init_submission(results, tmp_path / "made", SAID | {"k": "100"})
    (run,) = read_card(folder / "system.yaml").runs
    assert run.k == 100
    assert run.run_sha256 == _run(0, 120).top(100).sha256()
    recompute(open_submission(folder))


def test_two_results_of_one_split_are_refused(tmp_path: Path) -> None:
    results = [_result(tmp_path / "results", seed) for seed in (0, 1)]
    with pytest.raises(InputError, match="two results of mini/test"):
        init_submission(results, tmp_path / "made", SAID)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "settings",
    [{"autors": "x"}, {"k": "0"}, {"k": "501"}, {"kind": "dense"}, {"parameters": "1e9"},
     {"zero_shot": "yes"}, {"query_modalities": "sound"}, {"name": "other"}],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, settings: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        init_submission([_result(tmp_path / "results")], tmp_path / "made", SAID | settings)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["My System", "über", "con", "-x"])
def test_a_folder_that_is_no_systems_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        init_submission([_result(tmp_path / "results")], tmp_path / name, SAID)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(UsageError, match="there already"):
        init_submission([_result(tmp_path / "results")], tmp_path / "made", SAID)


def test_the_command_says_what_is_open(tmp_path: Path) -> None:
    _result(tmp_path / "results")
    done = CommandLine().run(["submit", "init", "results", "--out", "made"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "contact" in done.stdout
    assert "m2kr submit check made" in done.stdout
