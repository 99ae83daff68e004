"""Bring your own: 20 passages and 5 photos, to a table in 5 lines of Python or 2 commands."""

import json
from pathlib import Path

import pytest
from conftest import Cli
from PIL import Image
from support.commands import call

import m2kr
from m2kr.building.publish import remove
from m2kr.errors import UsageError
from m2kr.paths import editions

FILES = ("--passages", "passages.jsonl", "--queries", "queries.jsonl", "--images", "photos")
DATA = ("--data", "data")
COLOURS = ("red", "green", "blue", "white", "black")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own data, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (64, 48), colour).save(tmp_path / "photos" / f"{colour}.jpg")
    passages = [
        {"id": f"p{i}", "text": f"Note {i} on {c} paint."} for i, c in enumerate(COLOURS * 4)
    ]
    queries = [
        {
            "id": f"q-{colour}",
            "question": f"Which note is on {colour} paint?",
            "image": f"{colour}.jpg",
            "positives": [f"p{i}", f"p{i + 5}", f"p{i + 10}", f"p{i + 15}"],
        }
        for i, colour in enumerate(COLOURS)
    ]
    for name, rows in (("passages", passages), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def test_five_lines_of_python(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2KR_DATA", str(own / "data"))
    passages = [json.loads(line) for line in (own / "passages.jsonl").open()]
    queries = [json.loads(line) for line in (own / "queries.jsonl").open()]

    split = m2kr.from_records(passages, queries, images="photos")
    results = m2kr.evaluate(split, ["bm25", "random"])
    table = str(results)

    assert results[0].value("hit_rate@1") == 1.0
    assert "mine/test" in table
    assert "bm25" in table
    assert split.images.open("red.jpg").size == (64, 48)
    assert split.queries[0]["pos_item_contents"][0] == "Note 0 on red paint."


def test_two_commands(own: Path, cli: Cli) -> None:
    cli("import", "paints", *FILES, *DATA, cwd=own)
    shown = cli("eval", "paints", "-r", "bm25", *DATA, cwd=own).stdout
    assert "paints/test" in shown
    assert "1.000" in shown
    (path,) = (own / "results").glob("paints.test.bm25.*.json")
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved["counts"]["queries"] == 5


def test_without_judgements_it_is_searched_not_scored(own: Path) -> None:
    lines = (own / "queries.jsonl").read_text().splitlines()
    bare = [{k: v for k, v in json.loads(line).items() if k != "positives"} for line in lines]
    (own / "queries.jsonl").write_text("".join(json.dumps(r) + "\n" for r in bare))
    call("import", "paints", *FILES, *DATA)
    refused = call("eval", "paints", "-r", "bm25", *DATA, code=3)
    assert "judgements" in refused.stderr


def test_images_that_moved_are_named_before_any_work(own: Path) -> None:
    call("import", "paints", *FILES, *DATA)
    (own / "photos" / "red.jpg").unlink()
    refused = call("eval", "paints", "-r", "image_concepts", *DATA, code=3)
    assert "red.jpg" in refused.stderr
    assert "4 of 5" in refused.stderr


def test_images_are_counted_checked_and_a_source_can_be_removed(own: Path) -> None:
    (own / "photos" / "red.jpg").unlink()
    (own / "photos" / "blue.jpg").write_bytes(b"no image")
    refused = call("import", "paints", *FILES, "--relevance-threshold", 2, *DATA, code=1)
    assert "the highest grade is 1" in refused.stderr
    shown = call("import", "paints", *FILES, *DATA).stdout
    assert "images of test: 4 of 5 found" in shown
    assert "missing: red.jpg" in shown
    assert "next: m2kr eval paints" in shown

    told = json.loads(call("images", "Paints", *DATA, "--json").stdout)
    counts = told["splits"]["test"]
    assert [counts[n] for n in ("needed", "ok", "damaged", "missing")] == [5, 3, 1, 1]

    call("remove", "paints", *DATA)
    assert not (own / "data" / "paints").exists()
    refused = call("remove", "paints", *DATA, code=2)
    assert "there is no source 'paints'" in refused.stderr


def test_removing_takes_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    texts = ("one", "two", "three")
    splits = [m2kr.from_records({"p": t}, {"q": "?"}, data=tmp_path) for t in texts]
    other = m2kr.from_records(
        {"p": "x"}, {"q": "?"}, edition=splits[0].edition, name="other", data=tmp_path
    )
    opened = splits[0].passages
    with pytest.raises(UsageError, match=splits[1].edition):
        remove("mine", tmp_path)
    gone = remove("mine", tmp_path, edition=splits[0].edition)
    assert [each.folder for each in gone] == [splits[0].folder]
    assert opened["passage_content"][:] == ["one"]  # maps stay
    assert other.query("q")["question"] == "?"
    assert "OTHER_data" in (other.folder / "README.md").read_text()
    assert "MINE_data" not in (other.folder / "README.md").read_text()
    (splits[1].folder / "MINE_manifest.json").write_text("{")
    assert {each.folder for each in remove("mine", tmp_path, every=True)} == {
        split.folder for split in splits[1:]
    }
    assert [edition.name for edition in editions(tmp_path)] == [other.edition]
    assert not any(split.folder.exists() for split in splits[1:])
    with pytest.raises(UsageError, match="no source 'mine'"):
        remove("mine", tmp_path)


def test_all_is_every_edition_of_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    queries = {"q": {"text": "tin", "positives": ["p"]}}
    for text in ("tin melts", "zinc boils"):
        m2kr.from_records({"p": text}, queries, data=tmp_path)
    m2kr.from_records({"p": "tin"}, queries, name="own", data=tmp_path)
    m2kr.from_records({"p": "tin"}, queries, name="taught", split="train", data=tmp_path)
    done = call("eval", "all", "-r", "random", "--data", tmp_path, "--json")
    assert "left out: taught (taught): there is no split 'test'" in done.stderr
    results = json.loads(done.stdout)["results"]
    assert [r["source"] for r in results] == ["mine", "mine", "own"]
    assert len({r["fingerprints"]["eval"] for r in results}) == 3
    assert len(list((tmp_path / "results").glob("*.json"))) == 3
    nowhere = ("eval", "all", "-r", "random", "--split", "valid", "--data", tmp_path)
    assert "nothing that is built has a split 'valid'" in call(*nowhere, code=2).stderr
