"""What recomputing a submission of ten sources costs, in a process of its own so that its peak is its own.

    python recompute_cost.py STEP FOLDER QUERIES

Prints one JSON object. Steps: ``make`` (judge files, and the runs 500 deep in both formats), ``parquet`` and
``trec`` (the whole submission of such files). FOLDER then holds ``data`` and ``runs``.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
from datasets import Dataset

sys.path.append(str(Path(__file__).parents[1]))
from support.toys import ToySplit

from m2kr.data.records import Passages, Queries
from m2kr.evaluation.result import peak_memory
from m2kr.export.judge import write_judge_file
from m2kr.fingerprint import combine
from m2kr.retrieval.run import Run
from m2kr_leaderboard import checks
from m2kr_leaderboard.recompute import recompute
from m2kr_leaderboard.submission import Submission
from m2kr_leaderboard.system_card import SubmittedRun, SystemCard

SOURCES = [f"source{i}" for i in range(10)]
PASSAGES, DEPTH = 100_000, 500
WORDS = np.array([f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"], object)


def make_split(source: str, ranked: np.ndarray, rng: np.random.Generator) -> ToySplit:
    """A split with right passages, some of them in the rankings, answers and a column of groups."""
    queries = len(ranked)
    right = rng.integers(0, PASSAGES, (queries, 2))
    found = np.flatnonzero(rng.random(queries) < 0.6)
    right[found, 0] = ranked[found, np.minimum(rng.exponential(20, len(found)), 499).astype(int)]
    ids = [f"{source}_passage_{i}" for i in range(PASSAGES)]
    words = WORDS[rng.integers(0, len(WORDS), (PASSAGES, 8))]
    names = [f"{source}_question_{i}" for i in range(queries)]
    table = {
        "question_id": names,
        "pos_item_ids": [[ids[i] for i in row] for row in right],
        "answers": [[*WORDS[row]] for row in rng.integers(0, len(WORDS), (queries, 2))],
        "kind": [f"kind {i}" for i in rng.integers(0, 4, queries)],
    }
    pool = Dataset.from_dict(
        {"passage_id": ids, "passage_content": [" ".join(row) for row in words]}
    )
    parts = {part: f"fp1:{source} {part}" for part in ("queries", "judgements", "pool")}
    parts["eval"] = combine(*parts.values())
    split = ToySplit(Queries(Dataset.from_dict(table)), Passages(pool), pool, None, parts, source)
    return split


def make(folder: Path, queries: int) -> dict:
    (folder / "data").mkdir()
    (folder / "runs").mkdir()
    facts = []
    for number, source in enumerate(SOURCES):
        rng = np.random.default_rng(number)
        ranked = np.stack([rng.choice(PASSAGES, DEPTH, replace=False) for _ in range(queries)])
        split = make_split(source, ranked, rng)
        write_judge_file(split, folder / "data" / f"{source}.test.judge.parquet")
        scores = -np.sort(-rng.normal(20, 5, ranked.shape).astype(np.float32)).astype(np.float64)
        names = split.queries_view.ids.to_pylist()
        run = Run.from_rows(names, split.passages_view.ids, ranked, scores)
        for suffix in ("parquet", "trec.gz"):
            run.save(folder / "runs" / f"{source}.test.{suffix}")
        facts.append([source, split.fingerprints["eval"], run.sha256()])
    (folder / "runs.json").write_text(json.dumps(facts))
    return {}


def submission(folder: Path, suffix: str) -> Submission:
    runs = tuple(
        SubmittedRun(source, "test", "here", f"runs/{source}.test.{suffix}", eval_, DEPTH, sha256)
        for source, eval_, sha256 in json.loads((folder / "runs.json").read_text())
    )
    card = SystemCard(
        name="tried",
        title="Tried",
        version="1",
        authors=("A. Body",),
        contact="a@example.org",
        licence="MIT",
        kind="single-stage",
        query_modalities=("text",),
        passage_modalities=("text",),
        parameters=0,
        training_data=(),
        zero_shot={},
        hardware="a laptop",
        m2kr_version="0.1.0",
        runs=runs,
    )
    return Submission(folder, card, "0" * 64)


def score(folder: Path, suffix: str) -> dict:
    """Scores it; counts how often a run is read and hashed."""
    import m2kr.retrieval.run as run_module

    calls = {"read": 0, "hashed": 0}

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    checks.unchecked_rows = counted("read", checks.unchecked_rows)
    run_module.rows_sha256 = counted("hashed", run_module.rows_sha256)
    handed = submission(folder, suffix)
    before, began = peak_memory(), time.perf_counter()
    scored = recompute(handed, folder / "data")
    seconds = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": seconds,
        "cpu": sum(one.ru_utime + one.ru_stime for one in used),
        "imports": before,
        "cores": len(os.sched_getaffinity(0)),
        **calls,
        "kept": sum(run.result.run is not None for run in scored.runs),
        "hit_rate": [run.result.value("hit_rate@5") for run in scored.runs],
    }


if __name__ == "__main__":
    step, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    done = (
        make(where, count) if step == "make" else score(where, {"trec": "trec.gz"}.get(step, step))
    )
    print(json.dumps(done | {"peak": peak_memory()}))
