"""Scoring with pseudo recall beside a plain loop from its definition: equal, and how much faster."""

import time

import numpy as np
import pytest
from datasets import Dataset
from support.own_process import WHOLE
from support.toys import ToySplit

from m2kr.data.records import Passages, Queries
from m2kr.evaluation.judge_file import JudgeFile
from m2kr.evaluation.metrics import GRID, choose
from m2kr.evaluation.scoring import score_run
from m2kr.export.judge import write_judge_file
from m2kr.retrieval.run import Run

WORDS = 150  # 690 characters, as of the passages of OK-VQA


def plain(ranked, texts, answers):
    """Per query and cut-off 1 if any of the top K texts holds any answer, else 0; NaN without answers."""
    found = []
    for rows, accepted in zip(ranked, answers, strict=True):
        hits = [any(a.strip().lower() in texts[row].lower() for a in accepted) for row in rows]
        found.append([float(any(hits[:k])) if accepted else np.nan for k in GRID])
    return np.array(found)


def made_up(queries, passages):
    """Texts of Zipf words, and answers as VQA has them: mostly rare ones, some short, a few blank."""
    rng = np.random.default_rng(0)
    syllables = [c + v for c in "bcdfghjklmnprstvz" for v in "aeiou"]
    words = [*map(str, range(30)), *syllables, *(a + b for a in syllables for b in syllables)]
    words += [f"{a}{b}{c}" for a in syllables for b in syllables[::3] for c in syllables[::2]]
    words = np.array(words, object)
    odds = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    texts = []
    for _ in range(passages):
        drawn = words[np.searchsorted(odds / odds[-1], rng.random(WORDS))]
        name = ("Ltd", "café", "– ’t")[rng.choice(3, p=[0.86, 0.04, 0.1])]  # as of MS MARCO's
        texts.append(f"{' '.join(drawn)} {name}.".capitalize())
    answers = []
    for _ in range(queries):
        ranks = (len(words) ** rng.uniform(0.7, 1, rng.integers(1, 6))).astype(int) - 1
        accepted = words[ranks].tolist()
        if rng.random() < 0.5:
            accepted.append(f"{accepted[0]} {words[rng.integers(len(words))]} Ltd")
        if rng.random() < 0.1:
            accepted.append(str(words[rng.integers(30 + len(syllables))]))
        answers.append([" "] if rng.random() < 0.002 else [] if rng.random() < 0.01 else accepted)
    return texts, answers


def spent(work, times=1):
    """What it gives, and the CPU seconds it takes at best."""
    best = np.inf
    for _ in range(times):
        began = time.process_time()
        given = work()
        best = min(best, time.process_time() - began)
    return given, best


@pytest.mark.slow
def test_scoring_is_quick_and_equal(tmp_path):
    queries, passages, k = (5120, 115_000, 500) if WHOLE else (900, 20_000, 500)
    texts, answers = made_up(queries, passages)
    ids = [f"p{i:06}" for i in range(passages)]
    rng = np.random.default_rng(1)
    names = [f"q{i}" for i in range(queries)]
    table = {
        "question_id": names,
        "pos_item_ids": [[ids[i] for i in rng.integers(0, passages, 3)] for _ in names],
        "answers": answers,
        "kind": ["a"] * queries,
    }
    pool = Dataset.from_dict({"passage_id": ids, "passage_content": texts})
    parts = {name: name for name in ("queries", "judgements", "pool", "eval")}
    split = ToySplit(Queries(Dataset.from_dict(table)), Passages(pool), pool, None, parts)
    ranked = np.stack([rng.choice(passages, k, replace=False) for _ in names])
    scores = -np.tile(np.arange(k, dtype=float), (queries, 1))
    run = Run.from_rows(names, pool.data.column("passage_id"), ranked, scores)
    chosen = choose([f"pseudo_recall@{depth}" for depth in GRID], k)

    rows = ranked.tolist()
    wanted, by_loop = spent(lambda: plain(rows, texts, answers))
    direct, by_texts = spent(lambda: score_run(split, run, chosen, k), times=3)
    path, making = spent(lambda: write_judge_file(split, tmp_path / "x.judge.parquet"))
    judge, loading = spent(lambda: JudgeFile.load(path))
    by_file, first = spent(lambda: score_run(judge, run, chosen, k))
    by_file, later = spent(lambda: score_run(judge, run, chosen, k), times=5)
    _, everything = spent(lambda: score_run(split, run, choose("default", k), k))
    size = path.stat().st_size
    print(
        f"{queries:,} x {k} over {passages:,}: plain loop {by_loop:.2f} s, ours {by_texts:.2f} s "
        f"(1/{by_loop / by_texts:.1f}; all default metrics {everything:.2f} s), judge file {later:.3f} s "
        f"(1/{by_loop / later:.0f}; the first run {first:.2f} s, loading {loading:.2f} s); "
        f"it is {size / 1e6:.1f} MB, made in {making:.1f} s"
    )
    for place, depth in enumerate(GRID):
        for given in (direct, by_file):
            got = given.per_query[f"pseudo_recall@{depth}"]
            assert np.array_equal(got, wanted[:, place], equal_nan=True)
    assert by_texts <= by_loop / 5
    assert later <= by_loop / 50
    assert size <= 50_000_000
