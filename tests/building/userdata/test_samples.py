"""Imports of other projects' true judgements: counts and rows. The files are not ours to commit."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from support.own_data import jsonl

import m2kr
from m2kr.building.userdata.importer import import_files
from m2kr.building.userdata.qrels import qrels_file, read_qrels
from m2kr.data.load import load

SAMPLES = Path(os.environ.get("M2KR_UPSTREAM_SAMPLES") or "/nowhere")
pytestmark = pytest.mark.skipif(
    not os.environ.get("M2KR_UPSTREAM_SAMPLES"),
    reason="M2KR_UPSTREAM_SAMPLES names no folder of real files",
)


def tsv(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def imported(name: str, data: Path, **files) -> m2kr.Split:
    built = import_files(name, data=data, **files)
    return load(name, "test", edition=built.folder.name, data=data)


def graded(split: m2kr.Split) -> dict[tuple[str, str], float]:
    rows = split.queries_view.judgements().to_pylist()
    return {(r["question_id"], r["passage_id"]): r["relevance"] for r in rows}


def test_nfcorpus_keeps_its_grades(tmp_path):
    judged = [
        line.split() for line in (SAMPLES / "beir/nfcorpus.qrels.txt").read_text().splitlines()
    ]
    true = (SAMPLES / "beir/nfcorpus.corpus.2rows.jsonl").read_text().splitlines()
    corpus = {row["_id"]: row for row in map(json.loads, true)}
    others = dict.fromkeys(d for _, _, d, _ in judged if d not in corpus)
    jsonl(tmp_path / "n/corpus.jsonl", [*corpus.values(), *({"_id": d, "text": d} for d in others)])
    queries = tsv(SAMPLES / "beir/nfcorpus.queries.tsv")
    jsonl(tmp_path / "n/queries.jsonl", [{"_id": q, "text": text} for q, text in queries])
    (tmp_path / "n/qrels").mkdir()
    lines = [f"{q}\t{d}\t{grade}\n" for q, _, d, grade in judged]
    (tmp_path / "n/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))

    split = imported("nfcorpus", tmp_path, layout="beir", folder=tmp_path / "n")
    assert len(split.queries) == 323
    assert Counter(graded(split).values()) == {1: 11_758, 2: 576}
    assert graded(split) == {(q, d): float(grade) for q, _, d, grade in judged}
    first = split.query("PLAIN-2")
    assert first["question"] == "Do Cholesterol Statin Drugs Cause Breast Cancer?"
    assert first["pos_item_ids"][:3] == ["MED-2427", "MED-10", "MED-2429"]
    assert first["pos_item_grades"][:3] == [2, 2, 2]
    assert first["pos_item_contents"][1].startswith("Statin Use and Breast Cancer Survival")


@pytest.mark.parametrize(
    ("dataset", "queries", "judgements", "row"),
    [
        (
            "nights_task4",
            2_120,
            2_120,
            ("4:1", "", "mbeir_images/nights_images/ref/000/032.jpg", ["4:12043"]),
        ),
        (
            "webqa_task1",
            2_455,
            5_002,
            (
                "2:2513",
                "If LibreOffice Writer was a standalone Java application, what would most users run it on?",
                None,
                ["2:405886", "2:405887"],
            ),
        ),
    ],
)
def test_mbeir(tmp_path, dataset, queries, judgements, row):
    source = SAMPLES / f"mbeir/mbeir_{dataset}_test.jsonl"
    qrels = (SAMPLES / f"mbeir/qrels.m-beir-{dataset.replace('_', '-')}.test.txt").read_text()
    records = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    folder = tmp_path / "M-BEIR"
    ids = dict.fromkeys(i for record in records for i in record["pos_cand_list"])
    pool = [{"did": i, "txt": f"Text of {i}.", "modality": "text"} for i in ids]
    jsonl(folder / f"cand_pool/local/mbeir_{dataset}_cand_pool.jsonl", pool)
    (folder / "query/test").mkdir(parents=True)
    (folder / "query/test" / source.name).write_bytes(source.read_bytes())
    splits = [imported("plain", tmp_path, layout="mbeir", folder=folder)]
    task = dataset[-1]
    for columns, text in (("four", qrels), ("five", qrels.replace("\n", f" {task}\n"))):
        path = folder / f"qrels/test/mbeir_{dataset}_test_qrels.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        splits.append(imported(columns, tmp_path, layout="mbeir", folder=folder))
    for split in splits:
        assert len(split.queries) == queries
        assert len(graded(split)) == len(split.qrels) == judgements
        assert set(graded(split).values()) == {1}
        assert split.fingerprints == splits[0].fingerprints
        found = split.query(row[0])
        columns = ("question_id", "question", "img_path", "pos_item_ids")
        assert tuple(found[c] for c in columns) == row


def test_msmarco_dev_small(tmp_path):
    judged = tsv(SAMPLES / "msmarco/qrels.dev.small.tsv")
    passages = jsonl(
        tmp_path / "p.jsonl", [{"id": p, "text": p} for p in dict.fromkeys(j[2] for j in judged)]
    )
    queries = tmp_path / "q.tsv"
    text = (SAMPLES / "msmarco/queries.dev.small.tsv").read_text(encoding="utf-8")
    queries.write_text("qid\tquery\n" + text, encoding="utf-8")
    qrels = SAMPLES / "msmarco/qrels.dev.small.tsv"
    split = imported("msm", tmp_path, passages=passages, queries=queries, qrels=qrels)
    assert (len(split.queries), len(graded(split))) == (6_980, 7_437)
    assert split.query("1048585")["question"] == "what is paula deen's brother"
    assert split.query("2")["question"] == " Androgen receptor define"
    assert split.query("300674")["pos_item_ids"] == ["7067032"]
    assert "pos_item_grades" not in split.queries.column_names


def test_trec_evals_comments():
    plain, commented = (
        read_qrels(qrels_file(SAMPLES / "trec_eval" / name))
        for name in ("qrels.test", "qrels.test.with-comments")
    )
    assert sum(len(entry.grades) for entry in plain.values()) == 561
    changed = {q: dict(entry.grades) for q, entry in commented.items()}
    assert changed == {q: entry.grades for q, entry in plain.items()}


def test_grades_up_to_50():
    judged = read_qrels(qrels_file(SAMPLES / "ir_measures/compat.qrels"))
    grades = Counter(grade for entry in judged.values() for grade in entry.grades.values())
    assert grades == {1: 42, 2: 49, 3: 37, 4: 28, 10: 1, 20: 2, 30: 2, 40: 2, 50: 3}
