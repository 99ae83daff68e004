"""Submissions made of results: what they hold, what stays open, and what is refused."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
from m2kr_leaderboard.problems import SubmissionRefused
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
    made = init_submission([_result(tmp_path / "results")], tmp_path / "made", SAID)
    assert made.new
    assert not made.lacking
    with_all = open_submission(made.folder)
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
    folder = init_submission([_result(tmp_path / "results")], tmp_path / "made", SAID).folder
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"secret" not in content
            assert str(tmp_path).encode() not in content


def test_what_nobody_says_is_open_and_not_made_up(tmp_path: Path) -> None:
    results = [_result(tmp_path / "results")]
    made = init_submission(results, tmp_path / "made", {"parameters": "unknown"})
    text = "\n".join(map(str, made.lacking))
    for field in ("authors", "contact", "licence", "training_data", "zero_shot"):
        assert field in text


def test_a_run_is_cut_with_its_claims(tmp_path: Path) -> None:
    results = [_result(tmp_path / "results")]
    folder = init_submission(results, tmp_path / "made", SAID | {"k": "100"}).folder
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


def test_something_else_than_a_submission_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="there already"):
        init_submission([_result(tmp_path / "results")], tmp_path / "made", SAID)
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["thesis.tex"]


def _as_of(result: Path, source: str, **retriever: Any) -> Path:
    """A result as if it were of another source, with other facts of its retriever."""
    facts = json.loads(result.read_text(encoding="utf-8"))
    facts |= {"source": source, "retriever": facts["retriever"] | retriever}
    made = result.with_name(f"{source}.json")
    made.write_text(json.dumps(facts), encoding="utf-8")
    return made


@pytest.mark.parametrize(
    ("retriever", "named"),
    [
        ({"name": "other"}, 'name is "made" and "other"'),
        ({"label": "tuned"}, 'label is "" and "tuned"'),
        ({"settings": {"k1": 1.2}}, "settings.k1 is null and 1.2"),
        ({"settings": {"weights_sha256": "ab"}}, "settings.weights_sha256"),
        ({"arguments": {"checkpoint": "other"}}, "arguments.checkpoint"),
    ],
)
def test_results_of_two_systems_are_not_one_submission(
    retriever: dict[str, Any], named: str, tmp_path: Path
) -> None:
    one = _result(tmp_path / "results")
    other = _as_of(one, "okvqa", **retriever)
    with pytest.raises(InputError, match="not of one system") as error:
        init_submission([one, other], tmp_path / "made", SAID)
    for text in (named, one.name, "mini/test", "okvqa.json", "okvqa/test"):
        assert text in str(error.value)
    assert not (tmp_path / "made").exists()


def test_what_each_source_has_of_its_own_sets_no_systems_apart(tmp_path: Path) -> None:
    one = _result(tmp_path / "results")
    own = {"settings": {"instructions": ["look:"], "learned": {"weights": [0.3]}}}
    other = _as_of(one, "okvqa", **own)
    made = init_submission([one, other], tmp_path / "made", SAID)
    assert [run.source for run in read_card(made.folder / "system.yaml").runs] == ["mini", "okvqa"]


def test_fused_runs_are_told_apart_by_weight_and_maker_not_by_file(tmp_path: Path) -> None:
    one = _result(tmp_path / "results")

    def fused(source: str, weight: float, k1: float) -> Path:
        run = f"run:{source}.parquet"
        member = {"sha256": source, "settings": {"k1": k1}}
        return _as_of(one, source, settings={"weights": {run: weight}, "members": {run: member}})

    first = fused("okvqa", 0.3, 1.5)
    init_submission([first, fused("evqa", 0.3, 1.5)], tmp_path / "made", SAID)
    for weight, k1 in ((0.4, 1.5), (0.3, 1.2)):
        with pytest.raises(InputError, match="not of one system"):
            init_submission([first, fused("evqa", weight, k1)], tmp_path / "other", SAID)


def test_what_a_person_wrote_stays_when_the_runs_are_new(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    init_submission([_result(tmp_path / "results")], folder, SAID | {"version": "2"})
    (folder / "README.md").write_text("how I made it\n")
    card = folder / "system.yaml"
    text = card.read_text(encoding="utf-8")
    text = text.replace('title: "made"', "title: Right   # as in the paper\n\n# ask Bob")
    text = text.replace('- "text"\nparameters', '- "text"\n  - "image"\nparameters')
    text = text.replace("mini: true", "mini: false")
    card.write_text(text, encoding="utf-8")
    before = read_card(card)

    again = init_submission([_result(tmp_path / "newer", 1)], folder, {"hardware": "a pocket"})
    after = read_card(card)
    assert (after.title, after.version, after.authors) == ("Right", "2", before.authors)
    assert after.passage_modalities == ("text", "image")
    assert after.zero_shot == {"mini": False}
    assert after.hardware == "a pocket"
    assert after.runs[0].run_sha256 == _run(1, 120).top(120).sha256()
    assert (folder / "README.md").read_text() == "how I made it\n"
    assert "# as in the paper\n\n# ask Bob\n" in card.read_text(encoding="utf-8")
    assert not again.new
    kept = "\n".join(again.kept)
    assert "passage_modalities (text, image; the results say text)" in kept
    assert {"title", "authors", "README.md"} <= set(again.kept)
    assert any("run mini/test: other rankings" in line for line in again.changed)
    assert any(line.startswith("hardware: ") for line in again.changed)
    recompute(open_submission(folder))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []

    same = init_submission([_result(tmp_path / "newer", 1)], folder)
    assert not same.changed


def test_a_field_that_is_open_is_filled_and_a_runs_source_is_added(tmp_path: Path) -> None:
    folder, result = tmp_path / "made", _result(tmp_path / "results")
    init_submission([result], folder, {"parameters": "12"})
    other = _as_of(result, "okvqa")
    made = init_submission([other], folder, {k: v for k, v in SAID.items() if k != "parameters"})
    card = read_card(folder / "system.yaml")
    assert card.parameters == 12
    assert card.contact == SAID["contact"]
    assert [run.source for run in card.runs] == ["mini", "okvqa"]
    assert card.zero_shot == {"mini": True, "okvqa": False}  # as the training data say
    assert "run mini/test (none of the results is of it)" in made.kept
    with pytest.raises(InputError, match="not of the system that made its run of mini/test"):
        init_submission([_as_of(result, "okvqa", label="tuned")], folder)


def test_a_claim_that_new_training_data_contradict_goes(tmp_path: Path) -> None:
    folder, result = tmp_path / "made", _result(tmp_path / "results")
    init_submission([result], folder, SAID)
    made = init_submission([result], folder, {"training_data": "mini:seen"})
    assert read_card(folder / "system.yaml").zero_shot == {"mini": False}
    assert "zero_shot: mini true -> mini false" in made.changed


def test_a_card_that_is_no_yaml_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    init_submission([_result(tmp_path / "results")], folder, SAID)
    (folder / "system.yaml").write_text("title: [half", encoding="utf-8")
    with pytest.raises(SubmissionRefused, match="no YAML"):
        init_submission([_result(tmp_path / "results")], folder, SAID)
    assert (folder / "system.yaml").read_text() == "title: [half"


def test_a_wrong_setting_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from m2kr.cli.main import app\n"
        "try:\n"
        f"    app(['submit', 'init', {str(tmp_path)!r}, '--out', 'made', '--set', 'autors=x'])\n"
        "except SystemExit as ended:\n"
        "    print(ended.code, *({'numpy', 'pyarrow', 'torch', 'datasets'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "there is no setting 'autors'" in done.stderr
    assert done.stdout.split() == ["2"], done.stdout


def test_the_commands_say_what_is_next(tmp_path: Path) -> None:
    _result(tmp_path / "results")
    said = [word for key, value in SAID.items() for word in ("--set", f"{key}={value}")]
    line = CommandLine()

    def told(*words: str) -> str:
        done = line.run(["submit", *words], tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    opened = told("init", "results", "--out", "made")
    assert "contact" in opened
    assert "next: m2kr submit check made" in opened
    made = json.loads(told("init", "results", "--out", "made", *said, "--json"))
    assert made["next"] == "m2kr submit check made"
    assert (made["new"], made["lacking"]) == (False, [])
    checked = told("check", "made")
    facts = _scored(0, 120).metrics["hit_rate@5"]
    assert f"[{facts['low']:.4f}, {facts['high']:.4f}]" in checked
    assert "next: m2kr submit pack made --out made.zip" in checked
    packed = json.loads(told("pack", "made", "--out", "made.zip", "--json"))
    assert packed["bytes"] == (tmp_path / "made.zip").stat().st_size
    assert packed["next"] == "m2kr leaderboard validate made.zip"
