"""Runs are scored by the harness, from outside: their files, their claims, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mini_submission import mini_submission, ranked_run, scored_on_mini
from support.plain_scores import KNOWN, PlainSplit, value
from support.plain_scores import ranked as ranked_plainly
from support.toys import toy_split

from m2kr.export.judge import write_judge_file
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


@st.composite
def small_worlds(draw: st.DrawFn) -> tuple[PlainSplit, dict[str, dict[str, float]]]:
    """A split and a run on it; rankings may be short or empty, scores equal, and one is of the whole pool."""
    words = ["red", "Blue", "green tea", "4"]
    texts = draw(st.lists(st.lists(st.sampled_from(words)).map(" ".join), min_size=10, max_size=14))
    pool = {f"p{place}": text for place, text in enumerate(texts)}
    right: dict[str, list[str]] = {}
    answers: dict[str, list[str]] = {}
    run: dict[str, dict[str, float]] = {}
    scores = st.sampled_from([3.0, 2.5, 2.0, -1.0])
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        right[name] = draw(st.lists(st.sampled_from([*pool]), max_size=4, unique=True))
        answers[name] = draw(st.lists(st.sampled_from([*words, "gre", "BLUE "]), max_size=2))
        run[name] = draw(st.dictionaries(st.sampled_from([*pool]), scores))
    run["a"] = {passage: draw(scores) for passage in pool}
    right["a"] = right["a"] or ["p0"]
    return PlainSplit(right, answers, pool), run


@settings(max_examples=40, deadline=None)
@given(world=small_worlds())
def test_scores_are_those_of_plain_loops(
    tmp_path_factory: pytest.TempPathFactory,
    world: tuple[PlainSplit, dict[str, dict[str, float]]],
) -> None:
    plain, run = world
    folder = tmp_path_factory.mktemp("world")
    (folder / "data").mkdir()
    rows = {q: ("?", plain.right[q], plain.answers[q], None, None) for q in plain.right}
    split = toy_split(passages=plain.texts, queries=rows)
    split.manifest["groups"] = []
    write_judge_file(split, folder / "data" / "toy.test.judge.parquet")
    facts = {"source": "toy", "edition": "here", "fingerprint": split.fingerprints["eval"]}
    k = len(plain.texts)
    flat = [(q, p, score) for q, of in run.items() for p, score in of.items()]
    ranking = {query: [] for query in run} | ranked_plainly(flat, k)
    claim = {"map@5": value("map@5", plain, ranking)[0]}
    handed = mini_submission(folder, Run.from_dict(run), k=k, scores=claim, **facts)
    (scored,) = recompute(handed, folder / "data").runs
    compared = 0
    for metric, facts in scored.result.metrics.items():
        if metric.partition("@")[0] in KNOWN:
            mean, n = value(metric, plain, ranking)
            assert (facts["value"], facts["n"]) == (pytest.approx(mean, abs=1e-12), n), metric
            compared += 1
    assert compared >= 12
