"""Ours against ranx on random data."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from m2kr.evaluation.judgements import JudgedRun
from m2kr.evaluation.metrics import parse
from m2kr.retrieval.run import Run


@pytest.fixture(scope="module")
def data():
    """60 queries x up to 30 results out of 80 passages, graded judgements, distinct scores."""
    rng = np.random.default_rng(11)
    ranking, qrels = {}, {}
    for q in range(60):
        retrieved = rng.choice(80, rng.integers(1, 30), replace=False)
        ranking[f"q{q:02}"] = {
            f"p{p}": float(s) for p, s in zip(retrieved, rng.random(30), strict=False)
        }
        right = rng.choice(80, rng.integers(1, 12), replace=False)
        qrels[f"q{q:02}"] = {
            f"p{p}": int(g) for p, g in zip(right, rng.integers(1, 4, 12), strict=False)
        }
    return ranking, qrels


def judge(ranking, qrels):
    rows = [(q, p, g) for q, graded in qrels.items() for p, g in graded.items()]
    table = pa.table(
        dict(zip(("question_id", "passage_id", "relevance"), zip(*rows, strict=True), strict=True))
    )
    return JudgedRun(Run.from_dict(ranking), table, [[] for _ in ranking], lambda places: [])


@pytest.mark.slow  # ranx compiles its own containers for this, a minute in a fresh environment
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("hit_rate@5", "hit_rate@5"),
        ("set_recall@10", "recall@10"),
        ("mrr@10", "mrr@10"),
        ("ndcg@10", "ndcg@10"),
        ("map@100", "map@100"),
        ("precision@5", "precision@5"),
    ],
)
def test_ours_equal_ranx(data, ours, theirs):
    ranx = pytest.importorskip("ranx")
    ranking, qrels = data
    expected = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(ranking), theirs, return_mean=False)
    chosen = parse(ours)
    assert np.allclose(chosen.metric.compute(judge(ranking, qrels), chosen.k), expected, atol=1e-12)


def test_the_traps_are_avoided():
    """Ties by id, empty lists, queries without right passages, right passages not retrieved."""
    ranking = {"tie": {"b": 1.0, "a": 1.0}, "empty": {}, "unjudged": {"a": 1.0}, "half": {"a": 1.0}}
    qrels = {"tie": {"b": 1}, "empty": {"a": 1}, "half": {"a": 1, "z": 1}, "other": {"a": 1}}
    judged = judge(ranking, qrels)
    found = {
        n: parse(n).metric.compute(judged, parse(n).k) for n in ("ndcg@10", "map@10", "precision@1")
    }
    half = 1 / (1 + 1 / np.log2(3))
    assert np.allclose(found["ndcg@10"], [1 / np.log2(3), 0, np.nan, half], equal_nan=True)
    assert np.allclose(found["map@10"], [0.5, 0, np.nan, 0.5], equal_nan=True)
    assert np.allclose(found["precision@1"], [0, 0, np.nan, 1], equal_nan=True)


def test_grades_enter_ndcg_and_the_ideal_is_sorted():
    judged = judge({"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1, "b": 3, "c": 2}})
    gain = 1 + 3 / np.log2(3)
    ideal = 3 + 2 / np.log2(3) + 1 / np.log2(4)
    assert parse("ndcg@10").metric.compute(judged, 10).tolist() == pytest.approx([gain / ideal])


def test_without_judged_queries_all_is_undefined():
    judged = judge({"q": {"a": 1.0}}, {"other": {"a": 1}})
    assert np.isnan(parse("map@10").metric.compute(judged, 10)).all()


def test_no_metric_loads_ranx():
    code = """
import sys
sys.modules["ranx"] = None
import pyarrow as pa
from m2kr.evaluation.judgements import JudgedRun
from m2kr.evaluation.metrics import choose
from m2kr.retrieval.run import Run
table = pa.table({"question_id": ["q"], "passage_id": ["a"], "relevance": [1]})
judged = JudgedRun(Run.from_dict({"q": {"a": 1}}), table, [[]], lambda places: [])
for one in choose("full", 500):
    one.metric.compute(judged, one.k)
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
