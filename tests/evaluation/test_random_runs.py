"""Every metric on 10,000 random rankings: by its definition, and as trec_eval computes it."""

import math

import numpy as np
import pyarrow as pa
import pytest

from m2kr.evaluation.judgements import JudgedRun
from m2kr.evaluation.metrics import metrics, parse
from m2kr.retrieval.run import Run

QUERIES = 10_000
PASSAGES = [f"p{i}" for i in (*range(9), 10, 11, 100)]  # by text: p1, p10, p100, p11, p2
WORDS = ("", "Tin", "a tin.", "tinned", "LEAD", "lead us", "us", "bus", "İs", "x", "y", "z")
TEXTS = dict(zip(PASSAGES, WORDS, strict=True))
ANSWERS = ("tin", " Lead ", "us", "nothing", "", "İS")
CUTOFFS = (1, 3, 10)


@pytest.fixture(scope="module")
def data():
    """Rankings with ties, grades (0 and below, too), queries that the run lacks, answers."""
    rng = np.random.default_rng(20)
    run, qrels, answers = {}, {}, {}
    for i in range(QUERIES):
        order, n = rng.permutation(len(PASSAGES)), rng.integers(0, 12)
        scores = rng.integers(0, 4, n) / 2
        query = f"q{i}"
        run[query] = {PASSAGES[p]: float(s) for p, s in zip(order, scores, strict=False)}
        if i % 9 == 0:
            run[query] = {}
        order = rng.permutation(len(PASSAGES))[: rng.integers(0, 7)]
        qrels[query] = {PASSAGES[p]: int(g) for p, g in zip(order, rng.integers(-1, 4, len(order)))}  # noqa: B905
        answers[query] = [ANSWERS[a] for a in rng.integers(0, len(ANSWERS), rng.integers(0, 3))]
    return run, qrels, answers


def judge(data, ties, threshold):
    run, qrels, answers = data
    ranked = Run.from_dict(run)
    rows = [(q, p, g) for q, graded in qrels.items() for p, g in graded.items()]
    names = ("question_id", "passage_id", "relevance")
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    return JudgedRun(
        ranked.ordered(ties),
        table,
        list(answers.values()),
        lambda places: [TEXTS[p] for p in ranked.vocabulary.take(pa.array(places)).to_pylist()],
        threshold=threshold,
    )


def naive(scored, grades, answers, k, threshold, ties):
    """Every metric of one query by its definition; without an entry, it is undefined."""
    ranked = sorted(scored, key=str.encode, reverse=ties == "trec")
    ranked = sorted(ranked, key=lambda p: -scored[p])[:k]  # which keeps the order of ties
    found = {}
    right = [grades.get(p, 0) >= threshold for p in ranked]
    total = sum(g >= threshold for g in grades.values())
    if total:
        at = [i + 1 for i, r in enumerate(right) if r]
        found["hit_rate"], found["set_recall"] = float(any(right)), sum(right) / total
        found["precision"], found["mrr"] = sum(right) / k, 1 / at[0] if at else 0.0
        found["map"] = sum((n + 1) / rank for n, rank in enumerate(at)) / total
    ideal = sorted((g for g in grades.values() if g > 0), reverse=True)
    if ideal:
        gains = [max(grades.get(p, 0), 0) for p in ranked]
        dcg = lambda values: sum(g / math.log2(i + 2) for i, g in enumerate(values))  # noqa: E731
        found["ndcg"] = dcg(gains) / dcg(ideal[:k])
    if answers:
        texts = [TEXTS[p].lower() for p in ranked]
        looked_for = [a.strip().lower() for a in answers]
        found["pseudo_recall"] = float(any(a in text for a in looked_for for text in texts))
        if "" not in looked_for:
            found["pseudo_recall_nonempty"] = found["pseudo_recall"]
        words = [set(text.strip(".").split()) | {""} for text in texts]
        found["pseudo_recall_words"] = float(any(a in of for a in looked_for for of in words))
    return found


@pytest.mark.parametrize(("ties", "threshold", "ks"), [("m2kr", 1, (5,)), ("trec", 2, (3,))])
def test_by_definition(data, ties, threshold, ks):
    run, qrels, answers = data
    judged = judge(data, ties, threshold)
    for k in ks:
        expected = [naive(run[q], qrels[q], answers[q], k, threshold, ties) for q in run]
        for name in metrics():
            ours = parse(f"{name}@{k}").metric.scores(judged, k)
            theirs = np.array([one.get(name, np.nan) for one in expected])
            assert np.allclose(ours, theirs, rtol=0, atol=1e-12, equal_nan=True), (name, k)
            assert 0 < np.nanmean(ours) < 1


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [1, 2])
def test_as_trec_eval_computes_it(data, threshold):
    trec = pytest.importorskip("pytrec_eval", reason="comes with mteb, of the group interop")
    run, qrels, _ = data
    cutoffs = ",".join(map(str, CUTOFFS))
    stems = {"success": "hit_rate", "P": "precision", "recall": "set_recall"}
    stems |= {"map_cut": "map", "ndcg_cut": "ndcg"}
    measures = {f"{stem}.{cutoffs}" for stem in stems} | {"recip_rank"}
    evaluator = trec.RelevanceEvaluator(qrels, measures, relevance_level=threshold)
    theirs = evaluator.evaluate({q: scored for q, scored in run.items() if scored})
    judged = judge(data, "trec9", threshold)
    pairs = [(f"{stem}_{k}", ours, k) for stem, ours in stems.items() for k in CUTOFFS]
    for measure, name, k in [*pairs, ("recip_rank", "mrr", 1000)]:
        for query, ours in zip(run, parse(f"{name}@{k}").metric.scores(judged, k), strict=True):
            if not np.isnan(ours):
                expected = theirs[query][measure] if run[query] else 0.0
                assert ours == pytest.approx(expected, abs=1e-9), (measure, query)
