"""OK-VQA's own question and annotation files, where they are at hand."""

import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from servers.faulty_server import FaultyServer
from support.golden_tables import ledger_of, make, rows_of
from support.upstream_fixture import served_files, zipped

SAMPLES = os.environ.get("M2KR_UPSTREAM_SAMPLES")


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files")
def test_all_of_the_real_okvqa_comes_through(tmp_path: Path) -> None:
    files, asked, answers = served_files(), {}, {}
    for subset in ("train2014", "val2014"):
        stem = f"OpenEnded_mscoco_{subset}_questions"
        content = (Path(str(SAMPLES)) / "okvqa" / f"{stem}.json").read_bytes()
        files[f"/okvqa/{stem}.json.zip"] = zipped(f"{stem}.json", content)
        asked[subset] = json.loads(content)["questions"]
        name = f"mscoco_{subset}_annotations.json"
        path = Path(str(SAMPLES)) / "okvqa" / f"{name}.zip"
        files[f"/okvqa/{name}.zip"] = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            for each in json.loads(archive.read(name))["annotations"]:
                answers[str(each["question_id"])] = [a["answer"] for a in each["answers"]]
    assert {len(each) for each in answers.values()} == {10}
    with FaultyServer(files) as server:
        built = make(server, tmp_path, "okvqa")
    counts = {split: facts["queries"] for split, facts in built.manifest["splits"].items()}
    assert counts == {"train": 9_009, "valid": 5_046, "test": 5_046}
    assert not [w for w in built.manifest["count_warnings"] if "_passages" not in w]
    blank = 0
    for split, subset in (("train", "train2014"), ("valid", "val2014"), ("test", "val2014")):
        rows = rows_of(built, "queries", split)
        assert [row["question_id"] for row in rows] == [
            str(q["question_id"]) for q in asked[subset]
        ]
        for row, question in zip(rows, asked[subset], strict=True):
            assert (row["question"], row["img_key"]) == (question["question"], question["image_id"])
            name = f"COCO_{subset}_{question['image_id']:012d}.jpg"
            assert (row["img_path"], row["img_file_name"]) == (f"{subset}/{name}", name)
            given = [a for a in answers[row["question_id"]] if a.strip()]
            assert row["answers"] == given
            assert Counter(given)[row["gold_answer"]] == max(Counter(given).values())
            blank += (10 - len(given)) if split != "test" else 0
        assert not ledger_of(built, "dropped", "repaired").get(f"OKVQA_data/{split}")
    assert blank == 36
    first = rows_of(built, "queries", "train")[0]
    assert (first["question_id"], first["gold_answer"]) == ("516065", "pony tail")
    assert first["answers"] == ["pony tail"] * 6 + ["braid"] * 2 + ["ponytail"] * 2
