"""Runs are scored by the harness, from outside: their files, their claims, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from support.mini_submission import mini_submission, ranked_run, scored_on_mini

from m2kr.retrieval.run import Run
from m2kr_leaderboard.problems import Problem, SubmissionRefused
from m2kr_leaderboard.recompute import recompute
from m2kr_leaderboard.scored import ScoredRun


@pytest.fixture(scope="module")
def ranked() -> Run:
    return ranked_run()


def score(folder: Path, run: Run, suffix: str = "parquet", **facts: Any) -> ScoredRun:
    (scored,) = scored_on_mini(folder, run, suffix, **facts).runs
    return scored


def refusals(folder: Path, run: Run | None, suffix: str = "parquet", **facts: Any) -> list[Problem]:
    with pytest.raises(SubmissionRefused) as refused:
        recompute(mini_submission(folder, run, suffix, **facts), folder / "no data")
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
