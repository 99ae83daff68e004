"""Runs are scored by the harness, from outside: their files, their claims, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2kr.evaluation.judge_file import JudgeFile
from m2kr.retrieval.run import Run
from m2kr_leaderboard.known_data import load_known_data
from m2kr_leaderboard.problems import Problem, SubmissionRefused
from m2kr_leaderboard.recompute import recompute
from m2kr_leaderboard.scored import ScoredRun
from m2kr_leaderboard.submission import Submission
from m2kr_leaderboard.system_card import SubmittedRun, SystemCard

MINI = next(d for d in load_known_data() if (d.source, d.split) == ("mini", "test"))
PACKAGED = Path(str(__import__("m2kr_leaderboard").__path__[0])) / "data" / "judges"


@pytest.fixture(scope="module")
def judge() -> JudgeFile:
    return JudgeFile.load(PACKAGED / MINI.judge["file"])


@pytest.fixture(scope="module")
def ranked(judge: JudgeFile) -> Run:
    """A run that has some right passages, 100 deep."""
    rng = np.random.default_rng(0)
    queries, pool = judge.queries_view.ids.to_pylist(), judge.passages_view.ids.to_pylist()
    right = judge.queries_view.column("pos_item_ids")
    rows = [rng.choice(len(pool), 100, replace=False) for _ in queries]
    lists = [[pool[i] for i in chosen] for chosen in rows]
    for ids, positives in zip(lists, right, strict=True):
        if positives and rng.random() < 0.6 and positives[0] not in ids:
            ids[min(99, int(rng.exponential(8)))] = positives[0]
    scores = [np.sort(rng.normal(size=100))[::-1] for _ in queries]
    return Run.from_lists(queries, lists, scores, metadata={"k": 100})


def submission(folder: Path, run: Run | None, suffix: str = "parquet", **facts: Any) -> Submission:
    """A submission of one run on mini's test split; ``facts`` replace what its card says."""
    file = f"runs/mini.test.{suffix}"
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    if run is not None:
        run.save(folder / file)
    submitted = SubmittedRun(
        source="mini",
        split="test",
        edition="mini",
        file=file,
        fingerprint=MINI.eval,
        k=100,
        run_sha256=run.sha256() if run is not None else "0" * 64,
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
        runs=(replace(submitted, **facts),),
    )
    return Submission(folder, card, "0" * 64)


def score(folder: Path, run: Run, suffix: str = "parquet", **facts: Any) -> ScoredRun:
    (scored,) = recompute(submission(folder, run, suffix, **facts), folder / "no data").runs
    return scored


def refusals(folder: Path, run: Run | None, suffix: str = "parquet", **facts: Any) -> list[Problem]:
    with pytest.raises(SubmissionRefused) as refused:
        recompute(submission(folder, run, suffix, **facts), folder / "no data")
    return list(refused.value.problems)


def test_a_run_is_scored_on_the_packaged_data(tmp_path: Path, ranked: Run) -> None:
    scored = score(tmp_path, ranked)
    assert scored.verified
    assert 0.2 < (scored.result.value("hit_rate@5") or 0) < 0.5
    assert scored.result.run_sha256 == ranked.sha256()
    assert {"hit_rate@100", "ndcg@10", "map@100"} <= scored.result.metrics.keys()


def test_parquet_and_trec_score_alike(tmp_path: Path, ranked: Run) -> None:
    one, other = score(tmp_path / "a", ranked), score(tmp_path / "b", ranked, "trec.gz")
    assert one.result.metrics == other.result.metrics
    assert one.sketch == other.sketch


def test_a_wrong_claim_is_refused_with_both_values(tmp_path: Path, ranked: Run) -> None:
    ours = score(tmp_path, ranked).result.value("hit_rate@5")
    assert ours is not None
    (problem,) = refusals(tmp_path, ranked, scores={"hit_rate@5": ours + 1e-5})
    assert problem.check == "claimed-scores"
    assert repr(ours) in problem.what and repr(ours + 1e-5) in problem.what
    assert score(tmp_path, ranked, scores={"hit_rate@5": ours}).result.value("hit_rate@5") == ours
