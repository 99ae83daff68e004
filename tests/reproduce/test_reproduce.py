"""Published figures computed anew on the miniature release: verdicts, what is done again, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from support.commands import call

from m2kr.building.registry import builder
from m2kr.evaluation.result import Result


def reproduction(home: Path) -> dict[str, object]:
    return json.loads((home / "results/reproduce/paper/reproduction.json").read_text())


def encoded(home: Path) -> int:
    path = home / "encoded"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_data_rankings_and_verdicts_come_by_one_command(home, photos, figures):
    paper = figures({"okvqa": {"pseudo_recall@5": 100, "hit_rate@1": "0.5%"}})
    done = call("reproduce", paper, "--images", photos, code=1)
    (path,) = (home / "results/reproduce/paper").glob("okvqa.test.Words.*.json")
    ours = Result.load(path)
    told = reproduction(home)
    for figure in told["figures"]:
        value = 100 * ours.value(figure["metric"])
        assert figure["ours"] == {"exact": round(value, 2)}
        assert figure["difference"] == round(value - figure["published"], 2)
        near = abs(value - figure["published"]) <= 0.3
        assert figure["verdict"] == ("reproduced" if near else "differs")
        assert "row counts were not checked" in figure["deviations"][0]
    assert "differs *" in done.stdout
    assert "95 % interval over queries" in done.stdout
    # What is right now is reproduced, and nothing is computed for it.
    count = encoded(home)
    right = {m: 100 * ours.value(m) + 0.29 for m in ("pseudo_recall@5", "hit_rate@1")}
    again = call("reproduce", figures({"okvqa": right}), "--images", photos)
    assert encoded(home) == count > 0
    assert f"exact search is done: {path.name}" in again.stdout
    assert {f["verdict"] for f in reproduction(home)["figures"]} == {"reproduced"}
    markdown = (home / "results/reproduce/paper/reproduction.md").read_text()
    assert "| okvqa | PR@5 |" in markdown
    assert "reproduced *" in markdown
    # Another setting is another result, and told.
    call("reproduce", paper, "--images", photos, "--set", "width=1")
    assert len(list((home / "results/reproduce/paper").glob("okvqa.test.Words.*.json"))) == 2
    assert "width=1" in reproduction(home)["figures"][0]["deviations"]
    count = encoded(home)
    # Another file of the retriever's is another retriever, whatever its settings say.
    (home / "words.py").write_text((home / "words.py").read_text() + "# edited\n")
    call("reproduce", paper, "--images", photos)
    assert encoded(home) > count
    # One that doesn't say what decides its rows is asked each time.
    (home / "words.py").write_text((home / "words.py").read_text().replace("cache_key", "other"))
    for _ in range(2):
        count = encoded(home)
        call("reproduce", paper, "--images", photos)
        assert encoded(home) > count
    plan = json.loads(call("reproduce", paper, "--plan", "--json").stdout)["plans"][0]
    assert plan["sources"][0]["built"] is True


def test_one_source_that_cannot_be_run_leaves_the_others(home, photos, figures, monkeypatch):
    monkeypatch.setattr(type(builder("okvqa")), "image_archives", ())  # no network is asked
    shutil.rmtree(photos / "val2014")
    paper = figures({"okvqa": {"hit_rate@5": 50}, "evqa": {"hit_rate@5": 50}})
    done = call("reproduce", paper, "--images", photos, "--json", code=3)
    failed = json.loads(done.stdout)["reproductions"][0]["failed"]
    assert set(failed) == {"okvqa"}
    assert "5 of 5 images can't be had" in failed["okvqa"]["what"]
    assert "m2kr images okvqa --split test --images" in failed["okvqa"]["fix"]
    verdicts = {f["source"]: f["verdict"] for f in reproduction(home)["figures"]}
    assert verdicts["okvqa"] == "not run"
    assert verdicts["evqa"] in ("differs", "reproduced")


def test_an_unknown_source_is_refused_before_anything_is_done(home, figures):
    paper = figures({"okvqa": {"hit_rate@5": 50}, "nosuch": {"hit_rate@5": 50}})
    call("reproduce", paper, code=2)
    assert not (home / "data").exists()


def test_data_that_are_not_there_are_told_by_source(home, figures):
    paper = figures({"mini": {"hit_rate@5": 50}, "okvqa": {"hit_rate@5": 9}}, release={"from": "."})
    done = call("reproduce", paper, "--json", code=3)
    failed = json.loads(done.stdout)["reproductions"][0]["failed"]
    assert "no built split 'test'" in failed["mini"]["what"]
    assert failed["okvqa"]


def test_some_sources_alone(home, photos, figures):
    paper = figures({"okvqa": {"hit_rate@5": 50}, "evqa": {"hit_rate@5": 50}})
    call("reproduce", paper, "--sources", "E-VQA", "--images", photos, code=1)
    assert [figure["source"] for figure in reproduction(home)["figures"]] == ["evqa"]
    call("reproduce", paper, "--sources", "wit", code=2)


@pytest.mark.parametrize(
    "words", [(), ("preflmr-vit-l", "--suite", "paper-baselines"), ("nosuch",)]
)
def test_what_is_no_target_is_refused_with_those_that_are(words):
    assert "preflmr-vit-l" in call("reproduce", *words, code=2).output
