"""Exports of mini, read by the tools that they are for."""

import logging

import numpy as np
import pytest

import m2kr
from m2kr.data.load import load
from m2kr.export.formats import export

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mini(mini_root):
    return load("mini", data=mini_root)


@pytest.fixture(scope="module")
def result(mini):
    return m2kr.evaluate(mini, "bm25", metrics="hit_rate@5,mrr@10,ndcg@10,map@100", k=100)[0]


def test_mteb_loads_and_scores_it(mini, result, tmp_path, monkeypatch):
    pytest.importorskip("mteb", reason="the dependency group interop")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalDatasetLoader

    done = export([mini, load("mini", "valid", data=mini.folder.parent)], "mteb", tmp_path / "mteb")
    for split in (mini, load("mini", "valid", data=mini.folder.parent)):
        loader = RetrievalDatasetLoader(str(done.path), revision="none", split=split.split)
        data = loader.load()
        assert data["corpus"]["id"] == split.passages["passage_id"]
        assert data["corpus"]["text"] == split.passages["passage_content"]
        texts = [split.queries_view.text(row) for row in split.queries]
        assert data["queries"]["text"] == texts
        wanted = {}
        for row in split.queries_view.judgements().to_pylist():
            wanted.setdefault(row["question_id"], {})[row["passage_id"]] = int(row["relevance"])
        assert data["relevant_docs"] == wanted
    first = next(i for i, path in enumerate(mini.queries["img_path"]) if path)
    loaded = RetrievalDatasetLoader(str(done.path), revision="none", split="test").load()
    image = loaded["queries"][first]["image"].convert("RGB")
    assert np.array_equal(
        np.asarray(image), np.asarray(mini.queries_view.image(mini.queries[first]))
    )
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    scores = calculate_retrieval_scores(result.run.to_dict(), loaded["relevant_docs"], [10, 100])
    ours = m2kr.evaluate(mini, result.run, metrics="ndcg@10", ties="trec9")[0].value("ndcg@10")
    assert scores.ndcg["NDCG@10"] == pytest.approx(ours, abs=6e-5)  # it rounds


def test_trec_eval_scores_it(mini, result, tmp_path):
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="comes with ranx")
    export([mini], "trec", tmp_path / "trec", run=result.run)
    with (tmp_path / "trec/test.qrels.txt").open(encoding="utf-8") as file:
        qrels = pytrec_eval.parse_qrel(file)
    with (tmp_path / "trec/test.run.trec").open(encoding="utf-8") as file:
        run = pytrec_eval.parse_run(file)
    scores = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map_cut.100"}).evaluate(run)
    ours = m2kr.evaluate(mini, result.run, metrics="ndcg@10,map@100", ties="trec9")[0]
    for name, theirs in (("ndcg@10", "ndcg_cut_10"), ("map@100", "map_cut_100")):
        assert ours.value(name) == pytest.approx(np.mean([s[theirs] for s in scores.values()]))


def test_datasets_loads_the_parquet_files(mini, tmp_path):
    from datasets import load_dataset

    done = export([mini], "parquet", tmp_path / "plain")
    for table, rows in (("queries/test", mini.queries), ("passages/test_passages", mini.passages)):
        path = str(done.path / f"{table}.parquet")
        loaded = load_dataset(
            "parquet", data_files=path, split="train", cache_dir=str(tmp_path / "c")
        )
        assert loaded.column_names == rows.column_names
        assert loaded[:] == rows[:]


def test_mlcroissant_validates_and_reads_it(mini, tmp_path, caplog):
    croissant = pytest.importorskip("mlcroissant", reason="the dependency group interop")
    done = export([mini], "croissant", tmp_path / "croissant")
    with caplog.at_level(logging.WARNING):
        data = croissant.Dataset(jsonld=str(done.path / "croissant.json"))
    assert not data.metadata.ctx.issues.errors
    # No build holds a time, and mini has nothing to cite.
    told = data.metadata.ctx.issues.warnings
    assert all("datePublished" in warning or "citeAs" in warning for warning in told), told
    assert {s.id for s in data.metadata.record_sets} == {
        "passages-test_passages",
        "queries-test",
        "qrels-test",
    }
    records = list(data.records("queries-test"))
    assert len(records) == len(mini.queries)
    for record, row in list(zip(records, mini.queries, strict=True))[::50]:
        assert {name.partition("/")[2]: _plain(value) for name, value in record.items()} == row
    assert len(list(data.records("qrels-test"))) == len(mini.qrels)
    edition = croissant.Dataset(jsonld=str(mini.folder / "croissant.json"))
    assert not edition.metadata.ctx.issues.errors


def _plain(value):
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | np.ndarray):
        return [_plain(item) for item in value]
    return value
