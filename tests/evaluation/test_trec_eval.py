"""Our numbers against trec_eval's own test outputs and others' judgements, where those files are."""

import math
import os
from collections import defaultdict
from pathlib import Path

import pytest
from support.scores import score
from support.toys import toy_split

from m2kr.retrieval.run import Run

SAMPLES = os.environ.get("M2KR_UPSTREAM_SAMPLES", "")
pytestmark = pytest.mark.skipif(
    not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of upstream samples"
)
TREC = Path(SAMPLES) / "trec_eval"
# trec_eval's names and ours; `map` and others without a cut-off are over whole lists of up to 1,000.
OURS = {"P": "precision", "recall": "set_recall", "map_cut": "map", "ndcg_cut": "ndcg"}
OURS |= {"success": "hit_rate"}
WHOLE = {"map": "map@1000", "ndcg": "ndcg@1000", "recip_rank": "mrr@1000"}


def qrels_of(path):
    """{query: {passage: grade}}, without comment lines."""
    found = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            query, _, passage, grade = line.split()
            found[query][passage] = int(grade)
    return found


def split_of(qrels, run):
    passages = {p for graded in qrels.values() for p in graded}
    passages |= {p for _, ids, _ in run.items() for p in ids}
    right = {q: {p: g for p, g in graded.items() if g > 0} for q, graded in qrels.items()}
    queries = {q: ("?", list(graded), [], None, None) for q, graded in right.items()}
    grades = {q: list(map(float, graded.values())) for q, graded in right.items()}
    return toy_split(passages=dict.fromkeys(passages, "-"), queries=queries, grades=grades)


def our_name(theirs):
    stem, _, k = theirs.rpartition("_")
    return WHOLE.get(theirs) or (f"{OURS[stem]}@{k}" if stem in OURS else None)


@pytest.mark.parametrize("qrels", ["qrels.test", "qrels.test.with-comments"])
@pytest.mark.parametrize(
    ("run", "output"),
    [
        ("results.test", "out.test"),
        ("results.test", "out.test.a"),
        ("results.test", "out.test.aq"),
        ("results.trunc", "out.test.aqc"),
    ],
)
def test_every_measure_equals_trec_eval_to_four_decimals(run, output, qrels, caplog):
    ranked = Run.load(TREC / run)
    assert not caplog.records  # their rank columns are in order
    lines = (TREC / output).read_text(encoding="utf-8").splitlines()
    expected = {}
    for name, query, value in (line.split() for line in lines):
        if ours := our_name(name):
            expected[query, ours] = float(value)
    names = sorted({ours for _, ours in expected})
    assert len(names) == (11 if output == "out.test" else 40)
    split = split_of(qrels_of(TREC / qrels), ranked)
    found = score(split, ranked, names, ties="trec", missing_queries="empty")
    rows = {query: row for row, query in enumerate(found.query_ids)}
    for (query, ours), value in expected.items():
        got = found.value(ours) if query == "all" else found.scores[ours][rows[query]]
        assert got == pytest.approx(value, abs=5.1e-5), (query, ours)
    assert found.counts.get("queries_not_in_run", 0) == (1 if run == "results.trunc" else 0)


def naive(ranking, grades, k, threshold):
    """Every metric by its definition, for one query."""
    ranked = sorted(ranking, key=lambda p: (ranking[p], p.encode()), reverse=True)[:k]
    gains = [grades.get(p, 0) for p in ranked]
    right = [g >= threshold for g in gains]
    total = sum(g >= threshold for g in grades.values())
    ideal = sorted((g for g in grades.values() if g > 0), reverse=True)[:k]
    dcg = lambda values: sum(g / math.log2(i + 2) for i, g in enumerate(values) if g > 0)  # noqa: E731
    first = next((i for i, r in enumerate(right) if r), None)
    return {
        "hit_rate": float(any(right)),
        "mrr": 0.0 if first is None else 1 / (first + 1),
        "precision": sum(right) / k,
        "set_recall": sum(right) / total,
        "map": sum(sum(right[: i + 1]) / (i + 1) for i, r in enumerate(right) if r) / total,
        "ndcg": dcg(gains) / dcg(ideal),
    }


@pytest.mark.parametrize("threshold", [1, 2])
def test_graded_judgements_of_ir_measures(threshold):
    folder = Path(SAMPLES) / "ir_measures"
    run, qrels = Run.load(folder / "compat.run"), qrels_of(folder / "compat.qrels")
    assert sum(map(len, qrels.values())) == 311
    split = split_of(qrels, run)
    split.manifest["relevance_threshold"] = threshold
    for k in (1, 5, 10, 100, 1000):
        expected = [naive(run.to_dict()[q], qrels[q], k, threshold) for q in qrels]
        found = score(split, run, [f"{name}@{k}" for name in expected[0]], ties="trec")
        for name in expected[0]:
            assert found.scores[f"{name}@{k}"].tolist() == pytest.approx(
                [one[name] for one in expected]
            )


def test_grades_of_nfcorpus_are_gains():
    qrels = qrels_of(Path(SAMPLES) / "beir" / "nfcorpus.qrels.txt")
    assert sum(map(len, qrels.values())) == 12_334
    best = {q: {p: -g for p, g in graded.items()} for q, graded in qrels.items()}
    worst_first = Run.from_dict(best)
    found = score(split_of(qrels, worst_first), worst_first, "ndcg@10,hit_rate@1", ties="trec")
    expected = [naive(best[q], qrels[q], 10, 1)["ndcg"] for q in qrels]
    assert found.scores["ndcg@10"].tolist() == pytest.approx(expected)
    assert found.value("ndcg@10") < 1 == found.value("hit_rate@1")


def test_msmarco_dev_by_ranks_and_by_scores(tmp_path):
    """All judgements of MS MARCO's dev set, as a run in the leaderboard's form and in TREC's."""
    qrels = qrels_of(Path(SAMPLES) / "msmarco" / "qrels.dev.small.tsv")
    assert (len(qrels), sum(map(len, qrels.values()))) == (6_980, 7_437)
    pids = sorted(passage for graded in qrels.values() for passage in graded)
    ranking = {}
    for number, query in enumerate(qrels):
        wrong = [pids[(number * 7 + i) % len(pids)] for i in range(number % 12)]
        ranking[query] = list(dict.fromkeys([p for p in wrong if p not in qrels[query]]))
        ranking[query] += list(qrels[query])
    rows = [(q, p, rank) for q, ids in ranking.items() for rank, p in enumerate(ids, 1)]
    (tmp_path / "ranks.tsv").write_text("".join(f"{q}\t{p}\t{r}\n" for q, p, r in rows))
    (tmp_path / "run.trec").write_text("".join(f"{q} Q0 {p} {r} {-r} me\n" for q, p, r in rows))
    expected = [
        next((1 / r for r, p in enumerate(ids, 1) if p in qrels[q] and r <= 10), 0)
        for q, ids in ranking.items()
    ]
    for name in ("ranks.tsv", "run.trec"):
        run = Run.load(tmp_path / name)
        found = score(split_of(qrels, run), run, "mrr@10")
        assert found.value("mrr@10") == pytest.approx(sum(expected) / len(expected), abs=1e-12)
