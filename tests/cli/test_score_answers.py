"""``m2kr score-answers`` from outside: tables, JSON, files, exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

import m2kr
from m2kr.rag.gold import gold_answers


@pytest.fixture(scope="module")
def answers(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers to the questions of mini's valid split: those of every second form of words are right."""
    golds = gold_answers(m2kr.load("mini", "valid", data=mini_root))
    rows = [
        {"question_id": i, "prediction": gold.answers[0] if n % 2 else "nothing of the sort"}
        for n, (i, gold) in enumerate(golds.items())
    ]
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_table_json_and_verdicts(cli: Cli, mini_root: Path, answers: Path, tmp_path: Path) -> None:
    common = (answers, "mini", "--split", "val", "--data", mini_root)
    shown = cli("score-answers", *common).stdout
    assert "exact_match" in shown
    assert "token_f1" in shown
    assert "95 % bootstrap intervals" in shown
    assert "have no accepted answer, and are not scored" in shown
    assert "not comparable with published numbers" in shown
    out = tmp_path / "verdicts.jsonl"
    done = cli("score-answers", *common, "--scorer", "EM", "--out", out, "--json")
    told = json.loads(done.stdout)
    n = told["scored"]
    assert told["questions"] == n + told["without_gold_answers"] == 402
    score = told["scorers"]["exact_match"]["score"]
    assert score["n"] == n
    assert score["value"] == pytest.approx((n // 2) / n)
    assert score["low"] < score["value"] < score["high"]
    assert set(told["scorers"]["exact_match"]["groups"]["group"]) >= {"okvqa", "infoseek"}
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == n
    assert sum(row["score"] for row in rows) == n // 2


def test_missing_and_unknown_answers(
    cli: Cli, mini_root: Path, answers: Path, tmp_path: Path
) -> None:
    lines = answers.read_text(encoding="utf-8").splitlines(keepends=True)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(lines[2:]), encoding="utf-8")
    common = ("mini", "--split", "valid", "--data", mini_root)
    refused = cli("score-answers", few, *common, code=1).stderr
    assert "2 of" in refused
    assert "--missing-queries empty" in refused
    told = json.loads(
        cli("score-answers", few, *common, "--missing-queries", "empty", "--json").stdout
    )
    assert told["missing_answers"] == 2
    assert (
        "unknown here" in cli("score-answers", answers, "mini", "--data", mini_root, code=1).stderr
    )


ROWS: list[dict[str, Any]] = [
    {"data_id": "a", "answer": ["31"], "answer_eval": [{"wikidata": 31.0, "range": [27.9, 34.1]}]},
    {"data_id": "b", "answer": ["India"], "answer_eval": ["IN", "India"]},
    {"data_id": "c", "answer": ["1990"], "answer_eval": ["1989", "1990", "1991"]},
]
PARTS = ("val_unseen_entity", "val_unseen_entity", "val_unseen_question")


def test_files_of_gold_answers(cli: Cli, tmp_path: Path) -> None:
    gold = tmp_path / "infoseek_val.jsonl"
    rows = [row | {"data_split": part} for row, part in zip(ROWS, PARTS, strict=True)]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"a": 30, "b": "Bharat", "c": "1991"}))
    done = cli("score-answers", said, "--set", f"gold={gold}", "--json")
    infoseek = json.loads(done.stdout)["scorers"]["infoseek"]
    totals = {name: total["value"] for name, total in infoseek["totals"].items()}
    assert totals == pytest.approx(
        {"accuracy": 2 / 3, "unseen_entity": 0.5, "unseen_question": 1, "harmonic_mean": 2 / 3}
    )
    assert "harmonic mean" in cli("score-answers", said, "--set", f"gold={gold}").stdout
    annotations = tmp_path / "annotations.json"
    pears = [{"answer": answer} for answer in ["pear"] * 3 + ["fig"] * 7]
    annotations.write_text(json.dumps({"annotations": [{"question_id": 1, "answers": pears}]}))
    said.write_text(json.dumps([{"question_id": 1, "answer": "A pear."}]))
    done = cli("score-answers", said, "--set", f"gold={annotations}", "--json")
    okvqa = json.loads(done.stdout)["scorers"]["okvqa"]
    assert okvqa["score"]["value"] == pytest.approx(0.9)


def test_what_is_not_understood(cli: Cli, mini_root: Path, answers: Path, tmp_path: Path) -> None:
    common = ("--split", "valid", "--data", mini_root)
    assert "--set gold=FILE" in cli("score-answers", answers, code=2).stderr
    wrong = cli("score-answers", answers, "mini", "--set", "gold=x", code=2).stderr
    assert "one of them counts" in wrong
    wrong = cli("score-answers", answers, "mini", *common, "--scorer", "bleu", code=2).stderr
    assert "one of okvqa, infoseek" in wrong
    wrong = cli("score-answers", answers, "mini", *common, "--set", "golds=x", code=2).stderr
    assert "no setting 'golds'" in wrong
    wrong = cli("score-answers", answers, "mini", *common, "--out", answers, code=2).stderr
    assert "a file that is read" in wrong
    cli("score-answers", tmp_path / "none.jsonl", "mini", *common, code=3)
    cli("score-answers", answers, "--set", f"gold={tmp_path / 'none.json'}", code=3)
    cli("score-answers", answers, "mini", "--data", tmp_path, code=3)
    refused = cli("score-answers", answers, "mini", "--data", tmp_path, "--json", code=3)
    assert json.loads(refused.stdout)["error"] == "MissingError"


def test_plain_scorers_import_no_torch(tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text('{"question_id": "1", "answers": ["pear"]}\n')
    (tmp_path / "said.json").write_text('{"1": "pear"}')
    words = ["m2kr", "score-answers", str(tmp_path / "said.json"), "--json"]
    words += ["--set", f"gold={tmp_path / 'gold.jsonl'}"]
    for scorer in ("okvqa", "infoseek", "exact_match", "token_f1"):
        words += ["--scorer", scorer]
    code = (
        "import sys, m2kr.cli.main as main\n"
        f"sys.argv = {words!r}\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["scorers"]) == 4
    assert not {"torch", "transformers", "datasets"} & set(done.stderr.split())
