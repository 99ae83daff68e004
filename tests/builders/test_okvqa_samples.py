"""OK-VQA's own question files, where they are at hand."""

import json
import os
import re
from pathlib import Path

import pytest
from faulty_server import FaultyServer
from golden_tables import ledger_of, make, rows_of
from upstream_fixture import served_files, zipped

SAMPLES = os.environ.get("M2KR_UPSTREAM_SAMPLES")


@pytest.mark.skipif(not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files")
def test_every_real_okvqa_question_comes_through(tmp_path: Path) -> None:
    words = ("pear", "zebra", "tram", "gull", "ferry", "lantern", "1912", "xylograph")
    files, texts = served_files(), dict[str, dict[str, tuple[str, int]]]()
    for subset in ("train2014", "val2014"):
        stem = f"OpenEnded_mscoco_{subset}_questions"
        content = (Path(str(SAMPLES)) / "okvqa" / f"{stem}.json").read_bytes()
        files[f"/okvqa/{stem}.json.zip"] = zipped(f"{stem}.json", content)
        asked = json.loads(content)["questions"]
        annotations = [
            {
                "question_id": q["question_id"],
                "image_id": q["image_id"],
                "answers": [
                    {"answer_id": i, "answer": words[(q["question_id"] + i // 2) % len(words)]}
                    for i in (1, 2, 3)
                ],
            }
            for q in asked
        ]
        name = f"mscoco_{subset}_annotations.json"
        body = json.dumps({"annotations": annotations}).encode()
        files[f"/okvqa/{name}.zip"] = zipped(name, body)
        texts[subset] = {str(q["question_id"]): (q["question"], q["image_id"]) for q in asked}
    with FaultyServer(files) as server:
        built = make(server, tmp_path, "okvqa")
    counts = {split: facts["queries"] for split, facts in built.manifest["splits"].items()}
    assert counts == {"train": 9_009, "valid": 5_046, "test": 5_046}
    assert not [w for w in built.manifest["count_warnings"] if "_passages" not in w]
    for split, subset in (("train", "train2014"), ("valid", "val2014"), ("test", "val2014")):
        rows = rows_of(built, "queries", split)
        assert {r["question_id"]: (r["question"], r["img_key"]) for r in rows} == texts[subset]
        assert all(
            re.fullmatch(rf"{subset}/COCO_{subset}_\d{{12}}\.jpg", r["img_path"]) for r in rows
        )
        assert all(len(r["answers"]) == 3 for r in rows)
    assert not ledger_of(built, "dropped", "repaired").get("OKVQA_data/train")
