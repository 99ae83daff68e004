"""Built sources are audited: mini, the release's miniature, true files of other benchmarks."""

import json
import os
import shutil
from pathlib import Path

import pytest
from support.own_data import jsonl
from support.release_fixture import ALL, counts, made, write_release

from m2kr.audit.audit import audit
from m2kr.audit.findings import CHECKS

SAMPLES = Path(os.environ.get("M2KR_UPSTREAM_SAMPLES", "/nowhere"))
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="M2KR_UPSTREAM_SAMPLES names no folder of real files"
)


def test_mini_has_no_error_and_its_card_explains_its_warnings(mini_root, cli):
    said = json.loads(cli("audit", "mini", "--data", mini_root, "--json").stdout)
    assert said["counts"]["error"] == 0
    assert set(said["splits"]) == {"train", "valid", "test", "seen"}
    card = (mini_root / "mini" / "README.md").read_text(encoding="utf-8")
    for finding in said["findings"]:
        if finding["severity"] == "warning":
            assert f"`{finding['code']}`" in card, finding


@pytest.mark.parametrize(
    "name", [n if n in ("wit", "okvqa") else pytest.param(n, marks=pytest.mark.slow) for n in ALL]
)
def test_the_releases_miniature_is_audited(tmp_path, name):
    files = write_release(tmp_path / "files", sources=[name])
    made(name, files, tmp_path / "data", any_counts=True)
    report = audit(name, data=tmp_path / "data")
    assert sum(split.queries for split in report.splits.values()) == sum(
        n for table, n in counts(name).items() if "passages" not in table
    )
    errors = {f.code for f in report.findings if f.hit.severity == "error"}
    # What holds of few invented rows says nothing of the release; their form is the release's.
    form = {code for code in CHECKS if code.startswith(("duplicate", "no-", "unread", "missing"))}
    assert not errors & (form | {"positives-outside-corpus", "conflicting-judgements"})


@needs_samples
def test_true_rows_of_beir_are_audited(tmp_path):
    folder = tmp_path / "nfcorpus"
    (folder / "qrels").mkdir(parents=True)
    shutil.copy(SAMPLES / "beir/nfcorpus.corpus.2rows.jsonl", folder / "corpus.jsonl")
    shutil.copy(SAMPLES / "beir/nfcorpus.qrels.txt", folder / "qrels/test.txt")
    lines = (SAMPLES / "beir/nfcorpus.queries.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    jsonl(folder / "queries.jsonl", [{"_id": i, "text": text} for i, text in rows])
    report = audit(folder)
    assert report.splits["test"].queries == 323
    [lost] = [f.hit for f in report.findings if f.code == "positives-outside-corpus"]
    assert lost.total == 12_334
    assert report.splits["test"].ceilings["hit_rate@5"] < 0.2


@needs_samples
@pytest.mark.parametrize(("name", "queries"), [("nights_task4", 2120), ("webqa_task1", 2455)])
def test_true_rows_of_mbeir_are_audited(tmp_path, name, queries):
    folder, task = tmp_path / "mbeir", name.replace("_", "-")
    lines = (SAMPLES / f"mbeir/mbeir_{name}_test.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    jsonl(folder / "query/test" / f"mbeir_{name}_test.jsonl", records)
    ids = sorted({did for record in records for did in record["pos_cand_list"]})
    pool = [{"did": did, "txt": f"candidate {did}", "modality": "text"} for did in ids]
    jsonl(folder / "cand_pool/local" / f"mbeir_{name}_cand_pool.jsonl", pool)
    (folder / "qrels/test").mkdir(parents=True)
    qrels = SAMPLES / f"mbeir/qrels.m-beir-{task}.test.txt"
    shutil.copy(qrels, folder / f"qrels/test/mbeir_{name}_test_qrels.txt")
    report = audit(folder)
    split = report.splits["test"]
    assert (split.queries, split.judged, split.passages) == (queries, queries, len(ids))
    assert split.ceilings["hit_rate@1"] == 1
