"""Results are kept for good: nothing that is there changes, and what a kill leaves is no entry."""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import call

from m2kr.errors import InputError
from m2kr_leaderboard.results import ResultStore
from m2kr_leaderboard.scoring import packaged_submissions
from m2kr_leaderboard.submission import open_submission

M2KR = Path(sys.executable).with_name("m2kr")
BM25 = next(path for path in packaged_submissions() if path.name == "bm25")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


@pytest.fixture(scope="module")
def scored_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one system."""
    store = tmp_path_factory.mktemp("kept") / "results"
    call("leaderboard", "validate", BM25, "--out", store)
    return store


@pytest.fixture
def store(scored_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scored_once, tmp_path / "results"))


def entry_of(store: Path) -> Path:
    [path] = store.glob("bm25/*/*/entry.json")
    return path


def changed_copy(tmp_path: Path, old: str, new: str) -> Path:
    copy = Path(shutil.copytree(BM25, tmp_path / "bm25"))
    card = copy / "system.yaml"
    text = card.read_text(encoding="utf-8")
    assert old in text
    card.write_text(text.replace(old, new, 1), encoding="utf-8")
    return copy


def test_the_same_submission_is_kept_once_and_as_it_was_scored(store: Path) -> None:
    before = contents(store)
    facts = json.loads(entry_of(store).read_text(encoding="utf-8"))
    assert facts["submission_sha256"] == open_submission(BM25).sha256
    assert len(facts["date"]) == 10
    call("leaderboard", "validate", BM25, "--out", store)
    assert contents(store) == before
    [result] = entry_of(store).parent.glob("mini.test.*.json")
    shown = json.loads(call("submit", "check", BM25, "--json").stdout)
    kept = json.loads(result.read_text(encoding="utf-8"))["metrics"]
    assert shown["runs"][0]["metrics"] == {name: one["value"] for name, one in kept.items()}


def test_another_version_is_another_entry_and_other_content_needs_one(
    store: Path, tmp_path: Path
) -> None:
    before = contents(store)
    other = changed_copy(tmp_path / "note", 'title: "BM25"', 'title: "BM25 again"')
    said = call("leaderboard", "validate", other, "--out", store, code=1).stderr
    assert "own-version" in said
    assert "change the version" in said
    assert contents(store) == before
    newer = changed_copy(tmp_path / "version", 'version: "0.1.0"', 'version: "0.2.0"')
    call("leaderboard", "validate", newer, "--out", store)
    after = contents(store)
    assert before.items() <= after.items()
    assert len(list(store.glob("bm25/*/*/entry.json"))) == 2
    history = ResultStore(store).history({open_submission(newer).sha256})
    assert [one.card.version for one in history] == ["0.1.0"]


def test_a_newer_version_takes_the_older_ones_place_on_the_board(tmp_path: Path) -> None:
    newer = changed_copy(tmp_path, 'version: "0.1.0"', 'version: "0.2.0"')
    call("leaderboard", "build", newer, "--out", tmp_path / "site")
    table = (tmp_path / "site/data/results.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(table.splitlines()) if row["system"] == "bm25"]
    assert [row["version"] for row in rows] == ["0.2.0"]
    page = (tmp_path / "site/systems/bm25.html").read_text(encoding="utf-8")
    history = page.partition('id="history"')[2]
    assert ">0.2.0<" in history
    assert ">0.1.0<" in history


def test_a_newer_harness_scores_anew_and_says_what_changed(store: Path) -> None:
    entry = entry_of(store)
    older = entry.parent.with_name("0.0.9")
    entry.parent.rename(older)
    facts = json.loads((older / "entry.json").read_text(encoding="utf-8"))
    (older / "entry.json").write_text(json.dumps(facts | {"harness": "0.0.9"}), encoding="utf-8")
    [path] = older.glob("mini.test.*.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    right = result["metrics"]["hit_rate@5"]["value"]
    result["metrics"]["hit_rate@5"]["value"] = right + 0.25
    path.write_text(json.dumps(result), encoding="utf-8")
    before = contents(store)
    said = json.loads(call("leaderboard", "validate", BM25, "--out", store, "--json").stdout)
    assert said["changes"] == [
        {
            "system": "bm25",
            "place": "mini/test",
            "metric": "hit_rate@5",
            "before": right + 0.25,
            "now": right,
        }
    ]
    assert before.items() < contents(store).items()


def _cut(entry: Path) -> Path:
    entry.write_bytes(entry.read_bytes()[:100])
    return entry


def _other_run(entry: Path) -> Path:
    [path] = entry.parent.glob("mini.test.*.json")
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(facts | {"run_sha256": "0" * 64}), encoding="utf-8")
    return path


def _no_scores(entry: Path) -> Path:
    [path] = entry.parent.glob("*.queries.parquet")
    path.unlink()
    return path.with_name(path.name.replace(".queries.parquet", ".json"))


def _broken_card(entry: Path) -> Path:
    card = entry.with_name("system.yaml")
    card.write_text("name: [", encoding="utf-8")
    return entry.parent


@pytest.mark.parametrize("damage", [_cut, _other_run, _no_scores, _broken_card])
def test_a_damaged_entry_is_named_and_never_shown(store: Path, damage) -> None:
    named = damage(entry_of(store))
    with pytest.raises(InputError, match="damaged") as raised:
        ResultStore(store).history(())
    assert str(named) in str(raised.value)
    with pytest.raises(InputError, match="damaged"):
        ResultStore(store).find(open_submission(BM25))


def test_what_a_killed_writer_left_is_no_entry(store: Path) -> None:
    entry = entry_of(store)
    half = entry.parent.with_name(".0.1.0.tmp-1")
    entry.parent.rename(half)
    assert ResultStore(store).history(()) == []
    call("leaderboard", "validate", BM25, "--out", store)
    assert [one.card.name for one in ResultStore(store).history(())] == ["bm25"]


def test_the_results_that_m2kr_brings_along_are_those_of_its_submissions() -> None:
    lacking = [p.name for p in packaged_submissions() if not ResultStore().find(open_submission(p))]
    assert not lacking, (
        "m2kr leaderboard validate leaderboard/submissions/* --out leaderboard/results"
    )


@pytest.mark.slow
def test_killed_at_any_moment_or_raced_it_ends_with_the_whole_entry(tmp_path: Path) -> None:
    store = tmp_path / "results"
    words = [M2KR, "leaderboard", "validate", BM25, "--out", store]
    for wait in (1.0, 2.0, 2.5, 2.7, 2.9, 3.1):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        time.sleep(wait)
        process.kill()
        process.wait()
        for one in ResultStore(store).history(()):
            assert len(one.runs) == 1
    raced = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in raced] == [0, 0]
    assert len(list(store.glob("bm25/*/[!.]*/entry.json"))) == 1
    assert len(ResultStore(store).history(())) == 1
