"""Logs for Inspect AI: their fields, and what is not judged."""

import importlib.util
import json

import pytest
from support.answered import HARM, QUESTIONS, hostile_answers, hostile_split, score_of

from m2kr.errors import MissingError
from m2kr.rag.inspect_log import write_inspect_logs


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    home = tmp_path_factory.mktemp("logged")
    split = hostile_split(home)
    result = hostile_answers(home / "results", split)
    paths = write_inspect_logs(result, home / "logs", data=home / "data")
    return result, paths, [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def test_an_arm_is_a_log(logs):
    _, paths, values = logs
    assert len({path.name for path in paths}) == 4
    arms = [(v["eval"]["task_args"]["arm"], v["eval"]["task_args"]["k"]) for v in values]
    assert arms == [("none", 0), ("retrieved", 1), ("retrieved", 3), ("oracle", 3)]
    for value in values:
        assert value["version"] == 2 and value["status"] == "success"
        assert value["results"]["total_samples"] == len(value["samples"]) == QUESTIONS


def test_samples_hold_what_was_asked_answered_and_judged(logs):
    result, _, values = logs
    records = {(r["arm"], r["k"], r["question_id"]): r for r in result.records().to_pylist()}
    for value in values:
        arm, k = value["eval"]["task_args"]["arm"], value["eval"]["task_args"]["k"]
        for sample in value["samples"]:
            record = records[arm, k, sample["id"]]
            i = int(sample["id"][1:])
            assert sample["input"] == f"What colour is thing {i}? {HARM}"
            assert sample["output"]["completion"] == record["answer"]
            assert sample["messages"][1]["content"] == record["answer"]
            assert sample["messages"][0]["content"].count("The thing ") == k
            assert sample["target"][0] == f"colour{i}"
            expected = score_of(arm, k, i)
            told = sample["scores"].get("exact_match", {}).get("value")
            assert told == expected


def test_what_is_not_judged_has_no_mean(logs):
    _, _, values = logs
    score = next(s for s in values[1]["results"]["scores"] if s["name"] == "exact_match")
    assert (score["scored_samples"], score["unscored_samples"]) == (11, 1)
    assert set(score["metrics"]) == {"least", "most"}
    assert score["metrics"]["least"]["value"] == pytest.approx(3 / 12)
    assert score["metrics"]["most"]["value"] == pytest.approx(4 / 12)
    whole = next(s for s in values[0]["results"]["scores"] if s["name"] == "exact_match")
    assert whole["metrics"]["mean"]["value"] == pytest.approx(1 / 12)


def test_without_the_split_it_is_refused(logs, tmp_path):
    result, _, _ = logs
    with pytest.raises(MissingError):
        write_inspect_logs(result, tmp_path / "logs", data=tmp_path / "nowhere")


def test_the_command_writes_them(cli, logs, tmp_path):
    result, paths, _ = logs
    home = paths[0].parent.parent
    done = cli(
        *("export", result.path, "--format", "inspect", "--out", tmp_path / "out"),
        *("--data", home / "data", "--json"),
    )
    assert len(json.loads(done.stdout)["files"]) == 4
    refused = cli("export", result.path, "--format", "beir", "--data", home / "data", code=2)
    assert "--format inspect" in refused.stderr


def test_inspects_own_reader_opens_them(logs):
    if importlib.util.find_spec("inspect_ai") is None:
        pytest.skip("inspect_ai is not installed")
    from inspect_ai.log import read_eval_log

    for path in logs[1]:
        assert len(read_eval_log(str(path)).samples) == QUESTIONS
