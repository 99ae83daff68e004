"""Folders of every form and of odd ones: what is wrong is counted, and what can't be audited is one error."""

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.audit_folder import Folder, clean_folder, picture, png
from support.own_data import jsonl

import m2kr
from m2kr.audit.audit import AuditReport, audit
from m2kr.audit.findings import Finding
from m2kr.errors import InputError, M2KRError, MissingError, UsageError

CLEAN = clean_folder()


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return CLEAN.write(tmp_path / "bench")


def found(report: AuditReport, code: str) -> Finding:
    return next(f for f in report.findings if f.code == code)


def codes(report: AuditReport) -> set[str]:
    return {f.code for f in report.findings}


def sizes(report: AuditReport) -> dict[str, tuple[int, int, int]]:
    return {name: (s.queries, s.judged, s.passages) for name, s in report.splits.items()}


BOTH = {"test": (40, 40, 120), "train": (40, 40, 120)}


def test_judgements_without_a_header_in_trec_form_and_packed(beir):
    for split in ("test", "train"):
        path = beir / "qrels" / f"{split}.tsv"
        rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        path.unlink()
        if split == "test":
            path.write_text("".join(f"{q}\t{p}\t{g}\n" for q, p, g in rows))
        else:
            (beir / "qrels" / "train.txt").write_text(
                "".join(f"{q} 0 {p} {g}\n" for q, p, g in rows)
            )
    for name in ("corpus", "queries"):
        path = beir / f"{name}.jsonl"
        path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    report = audit(beir)
    assert sizes(report) == BOTH
    assert codes(report) == set()


def test_ids_that_are_whole_numbers(beir):
    for name, key in (("corpus", "_id"), ("queries", "_id")):
        path = beir / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        jsonl(path, [row | {key: int(row[key][1:])} for row in rows])
    for path in (beir / "qrels").iterdir():
        path.write_text(path.read_text().replace("q", "").replace("p", "").replace("uery", "query"))
    for path in (beir / "qrels").iterdir():
        _head, *rows = path.read_text().splitlines()
        path.write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    assert sizes(audit(beir)) == BOTH


@pytest.mark.parametrize("text", ["", "query-id\tcorpus-id\tscore\n"])
def test_judgements_that_are_empty(beir, text):
    (beir / "qrels" / "test.tsv").write_text(text)
    report = audit(beir)
    assert sizes(report)["test"] == (0, 0, 120)
    assert found(report, "no-queries").hit.where == "test"


def test_no_judgements_at_all(beir):
    for path in (beir / "qrels").iterdir():
        path.unlink()
    report = audit(beir)
    assert sizes(report) == {"test": (80, 0, 120)}
    assert found(report, "no-judgements").hit.severity == "warning"  # there are answers
    assert report.splits["test"].ceilings == {}


def test_one_file_of_judgements_beside_the_corpus(beir):
    rows = (beir / "qrels" / "test.tsv").read_bytes()
    for path in (beir / "qrels").iterdir():
        path.unlink()
    (beir / "qrels").rmdir()
    (beir / "qrels.tsv").write_bytes(rows)
    assert sizes(audit(beir)) == {"test": (40, 40, 120)}


def test_no_passages(beir):
    (beir / "corpus.jsonl").write_bytes(b"")
    report = audit(beir)
    assert found(report, "no-passages").hit.severity == "error"
    assert report.splits["test"].ceilings["hit_rate@5"] == 0


@pytest.mark.parametrize(
    ("data", "least"),
    [
        (b'\xff\xfe{\x00"\x00', 1),  # UTF-16
        (b'{"_id": "x", "text": "caf\xe9"}\n', 1),
        (b'\x00\x00\x00\n[1]\nnull\n"x"\n', 4),
        (b"\x1f\x8b\x08\x00broken", 1),
    ],
)
def test_bytes_that_are_no_records(beir, data, least):
    (beir / "corpus.jsonl").write_bytes(data)
    report = audit(beir)
    faults = [f for f in report.findings if f.code == "unreadable-records"]
    assert sum(f.hit.count for f in faults) >= least
    assert all("corpus.jsonl" in f.hit.examples[0] for f in faults)


def test_a_file_that_is_cut_short(beir):
    whole = gzip.compress((beir / "corpus.jsonl").read_bytes())
    (beir / "corpus.jsonl").write_bytes(whole[: len(whole) // 2])
    report = audit(beir)
    assert "the rest of the file was not read" in found(report, "unreadable-records").hit.effect
    assert 0 <= report.splits["test"].passages < 120


@pytest.mark.parametrize("name", ["corpus", "queries"])
def test_a_file_that_is_not_there_is_one_error(beir, name):
    (beir / f"{name}.jsonl").unlink()
    with pytest.raises(MissingError, match=f"no file of {name}"):
        audit(beir)


def test_two_files_that_may_be_the_corpus_are_one_error(beir):
    (beir / "corpus.jsonl.gz").write_bytes(gzip.compress((beir / "corpus.jsonl").read_bytes()))
    with pytest.raises(UsageError, match=r"corpus.jsonl, corpus.jsonl.gz"):
        audit(beir)


def test_judgements_in_a_form_that_is_not_read_are_told(beir):
    (beir / "qrels" / "dev.json").write_text('{"q1": {"p1": 1}}')
    report = audit(beir)
    assert "dev.json" in found(report, "unreadable-records").hit.examples[0]
    assert "valid" in report.splits


@pytest.mark.parametrize("name", ["", "no-such-source"])
def test_a_name_of_nothing_is_one_error(name, tmp_path):
    with pytest.raises(UsageError, match=r"empty|no source 'no-such-source', and no folder"):
        audit(name, data=tmp_path)


def test_a_folder_of_no_known_form_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(MissingError, match=r"corpus.jsonl.*mbeir_.*_passages_.*corpus/"):
        audit(tmp_path)
    with pytest.raises(MissingError, match="no such folder"):
        audit(tmp_path / "nowhere")


def test_a_built_edition_says_how_it_is_audited(mini_root):
    with pytest.raises(InputError, match="m2kr audit mini --edition mini"):
        audit(mini_root / "mini")


def test_a_name_of_a_source_and_of_a_folder_is_refused(mini_root, beir, monkeypatch):
    monkeypatch.chdir(beir.parent)
    beir.rename(beir.parent / "mini")
    with pytest.raises(M2KRError, match=r"m2kr audit ./mini"):
        audit("mini", data=mini_root)
    assert audit("./mini", data=mini_root).kind == "BEIR folder"
    assert audit("mini", ["valid"], edition="mini", data=mini_root).kind == "built source"


def test_splits_are_chosen_and_unknown_ones_named(beir):
    assert set(audit(beir, ["test"]).splits) == {"test"}
    with pytest.raises(MissingError, match="test, train"):
        audit(beir, ["dev"])


# --- the other forms --------------------------------------------------------------------------------


def mteb(folder: Path, bench: Folder, *, card: bool, images: bool = False) -> Path:
    """The benchmark as MTEB's tasks lie on the hub: Parquet by config and split."""
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {
        "corpus": {"corpus": bench.corpus},
        "queries": {
            "queries": [{k: v for k, v in q.items() if k != "image"} for q in bench.queries]
        },
        "data": {
            split: [{"query-id": q, "corpus-id": p, "score": g} for q, p, g in of]
            for split, of in bench.qrels.items()
        },
    }
    if images:
        for query, original in zip(rows["queries"]["queries"], bench.queries, strict=True):
            data = bench.images.get(original.get("image", ""))
            query["image"] = {"bytes": data, "path": None} if data else None
    for config, splits in rows.items():
        for split, records in splits.items():
            path = folder / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(records), path)
    if card:
        configs = "".join(
            f"- config_name: {'default' if config == 'data' else config}\n  data_files:\n"
            + "".join(f"  - split: {split}\n    path: {config}/{split}-*\n" for split in splits)
            for config, splits in rows.items()
        )
        (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# A task\n")
    return folder


@pytest.mark.parametrize("card", [True, False])
def test_mteb(tmp_path, card):
    report = audit(mteb(tmp_path / "task", CLEAN, card=card, images=True))
    assert report.kind == "MTEB folder"
    assert sizes(report) == BOTH
    assert codes(report) == set()


def test_images_in_the_records_are_looked_at(tmp_path):
    bench = copy.deepcopy(CLEAN)
    bench.images["images/3.png"] = bench.images["images/5.png"]
    bench.images["images/7.png"] = png(picture(9).resize((90, 90)))
    bench.images["images/41.png"] = b"no image"
    report = audit(mteb(tmp_path / "task", bench, card=True, images=True))
    assert {"near-duplicate-images", "broken-images"} <= codes(report)


def oven(folder: Path, judgements: int, lost: int) -> AuditReport:
    """MTEB's OVEN: 24,471 judged ids, 21,689 of which the corpus lacks."""
    ids = [f"Q{i}" for i in range(24_471)]
    here = ids[21_689:]
    of_lost, of_here = judgements - (judgements - lost), judgements - lost
    judged = [ids[i % 21_689] for i in range(of_lost)] + [
        here[i % len(here)] for i in range(of_here)
    ]
    asked = [f"q{i}" for i in range(len(judged))]
    corpus = pa.table({"id": here, "text": [f"the entity {i} of the corpus" for i in here]})
    queries = pa.table({"id": asked, "text": [f"which one is number {q}" for q in asked]})
    qrels = pa.table({"query-id": asked, "corpus-id": judged, "score": [1] * len(asked)})
    for name, table in (("corpus", corpus), ("queries", queries), ("qrels", qrels)):
        (folder / name).mkdir(parents=True)
        pq.write_table(table, folder / name / "test-00000-of-00001.parquet")
    return audit(folder)


def test_ovens_absent_ids_are_counted_and_the_ceiling_said(tmp_path):
    report = oven(tmp_path / "oven", 24_471, 21_689)
    finding = found(report, "positives-outside-corpus").hit
    assert finding.severity == "error"
    assert "21,689 of 24,471 judged ids are absent" in finding.effect
    assert "hit_rate is at most 0.114" in finding.effect
    assert report.splits["test"].ceilings["hit_rate@500"] == pytest.approx(1 - 21_689 / 24_471)


@pytest.mark.slow
def test_oven_in_its_whole_size(tmp_path):
    finding = found(oven(tmp_path / "oven", 492_654, 442_650), "positives-outside-corpus").hit
    assert (finding.count, finding.total) == (442_650, 492_654)
    assert "hit_rate is at most 0.101" in finding.effect
    assert "21,689 of 24,471 judged ids are absent" in finding.effect


def mbeir(folder: Path, dataset: str, *, split: str = "test") -> None:
    pool = [{"did": f"1:{i}", "txt": f"text number {i} of {dataset}"} for i in range(40)]
    queries = [
        {
            "qid": f"1:{i}",
            "query_txt": f"which is {i}",
            "query_img_path": None,
            "query_modality": "text",
            "pos_cand_list": [f"1:{i}", "1:999"],
            "task_id": 1,
        }
        for i in range(10)
    ]
    jsonl(folder / "query" / split / f"mbeir_{dataset}_{split}.jsonl", queries)
    jsonl(folder / "cand_pool" / "local" / f"mbeir_{dataset}_cand_pool.jsonl", pool)


def test_mbeir_with_several_data_sets(tmp_path):
    mbeir(tmp_path, "one_task1")
    mbeir(tmp_path, "two_task1", split="val")
    report = audit(tmp_path)
    assert report.kind == "M-BEIR folder"
    assert set(report.splits) == {"one_task1/test", "two_task1/valid"}
    hits = [f.hit for f in report.findings if f.code == "positives-outside-corpus"]
    assert [(h.count, h.total) for h in hits] == [(10, 20)] * 2
    assert set(audit(tmp_path, ["val"]).splits) == {"two_task1/valid"}


def test_ret_m2kr(tmp_path):
    passages = [{"passage_id": f"p{i}", "passage_text": f"the text number {i}"} for i in range(30)]
    queries = [
        {"data_id": f"q{i}", "question": f"what is {i}", "instruction": "Find it", "image_path": None,
         "passage_id": f"p{i}", "answer": [str(i)]}
        for i in range(10)
    ]  # fmt: skip
    jsonl(tmp_path / "okvqa" / "okvqa_passages_test.jsonl", passages)
    jsonl(tmp_path / "okvqa" / "okvqa_test.jsonl", queries)
    report = audit(tmp_path)
    assert (report.kind, sizes(report)) == ("ReT-M2KR folder", {"test": (10, 10, 30)})


def test_splits_with_corpora_of_their_own(tmp_path):
    bench = mteb(tmp_path / "task", CLEAN, card=False)
    whole = pq.read_table(bench / "corpus" / "corpus-00000-of-00001.parquet")
    (bench / "corpus" / "corpus-00000-of-00001.parquet").unlink()
    pq.write_table(whole, bench / "corpus" / "test-00000-of-00001.parquet")
    pq.write_table(whole.slice(0, 90), bench / "corpus" / "train-00000-of-00001.parquet")
    report = audit(bench)
    assert "from 90 to 120 passages" in found(report, "unequal-corpora").hit.effect


# --- neighbours -------------------------------------------------------------------------------------


def test_two_files_of_one_split_stay_apart_and_what_is_no_judgement_is_left(beir):
    (beir / "qrels" / "train.tsv").rename(beir / "qrels" / "dev.tsv")
    rows = (beir / "qrels" / "dev.tsv").read_text()
    (beir / "qrels" / "valid.tsv").write_text(rows)
    (beir / "qrels" / "README.md").write_text("# Judgements\n")
    report = audit(beir)
    assert sizes(report) == dict.fromkeys(("test", "dev", "valid"), (40, 40, 120))
    assert set(audit(beir, ["dev", "test"]).splits) == {"dev", "test"}


def test_each_split_asked_for_must_be_there(beir):
    with pytest.raises(MissingError, match="no split 'dev'"):
        audit(beir, ["test", "dev"])


def test_a_query_that_an_import_refuses_keeps_its_positives(tmp_path):
    mbeir(tmp_path, "one_task1")
    path = tmp_path / "query" / "test" / "mbeir_one_task1_test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["answer"] = "one;two"  # one answer or several?
    rows[1]["query_txt"] = ""
    rows[2]["pos_cand_list"] = {"1:2": "good"}
    jsonl(path, rows)
    report = audit(tmp_path)
    assert sizes(report) == {"test": (10, 9, 40)}
    assert found(report, "empty-queries").hit.count == 1
    refused = [f.hit for f in report.findings if f.code == "unreadable-records"]
    assert sum(hit.count for hit in refused) == 2


def test_files_of_mbeir_without_their_pool_are_left_out_with_a_warning(tmp_path, caplog):
    mbeir(tmp_path, "one_task1")
    union = tmp_path / "query" / "union_train" / "mbeir_union_up_train.jsonl"
    jsonl(union, [{"qid": "1:1", "query_txt": "x", "pos_cand_list": ["1:1"]}])
    assert set(audit(tmp_path).splits) == {"test"}
    assert "mbeir_union_up_train.jsonl" in caplog.text


def test_endless_sorts_of_faults_are_a_few_findings(beir):
    rows = [{"_id": f"x{i}", "title": [i], "text": {f"k{i}": i}} for i in range(50)]
    with (beir / "corpus.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    for i in range(60):
        with (beir / "qrels" / "test.tsv").open("a") as file:
            file.write(f"q1\tp1\tgrade {'very ' * i}good\n")
    faults = [f for f in audit(beir).findings if f.code == "unreadable-records"]
    assert 1 < len(faults) <= 21


@pytest.mark.parametrize("form", ["beir", "mteb"])
def test_what_m2kr_exports_is_audited_as_its_source_is(tmp_path, cli, form):
    passages = [{"id": f"p{i}", "title": f"T{i}", "text": f"text number {i}"} for i in range(30)]
    queries = [
        {"id": f"q{i}", "question": f"what is {i}", "positives": [f"p{i}", f"p{i + 1}"]}
        for i in range(12)
    ]
    m2kr.from_records(passages, queries, name="own", data=tmp_path)
    cli("export", "own", "--format", form, "--out", tmp_path / form, "--data", tmp_path)
    exported, source = audit(tmp_path / form), audit("own", data=tmp_path)
    assert exported.kind.lower().startswith(form)
    assert sizes(exported) == sizes(source) == {"test": (12, 12, 30)}
    assert exported.splits["test"].ceilings == source.splits["test"].ceilings
