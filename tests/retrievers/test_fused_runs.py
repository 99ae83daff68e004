"""Fusion of runs, whoever made them: against ranx, with weights of one's own and learned ones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import m2kr
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UsageError
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_fusion import FusedRuns

# Rankings without ties: others order those by themselves.
RANKING = st.dictionaries(
    st.sampled_from([f"p{i}" for i in range(8)]), st.integers(-50, 50), min_size=2, max_size=8
).map(lambda r: {p: float(s) + i / 100 for i, (p, s) in enumerate(r.items())})
RUN = st.fixed_dictionaries({"q1": RANKING, "q2": RANKING})


def naive(rankings, method, weights):
    """Fusion from its definition, query by query."""
    fused = {}
    for query in rankings[0]:
        total: dict[str, float] = {}
        for ranking, weight in zip(rankings, weights, strict=True):
            scored = sorted(ranking[query].items(), key=lambda pair: -pair[1])
            values = [score for _, score in scored]
            for rank, (passage, score) in enumerate(scored, 1):
                share = {
                    "rrf": 1 / (60 + rank),
                    "minmax": (score - values[-1]) / (values[0] - values[-1]),
                    "zscore": (score - values[-1]) / np.std(values),
                }[method]
                total[passage] = total.get(passage, 0) + weight * share
        fused[query] = {passage: pytest.approx(share) for passage, share in total.items()}
    return fused


@settings(max_examples=30)
@given(
    st.lists(RUN, min_size=2, max_size=4), st.sampled_from(["rrf", "minmax", "zscore"]), st.data()
)
def test_each_method_is_its_definition(rankings, method, data) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 2), min_size=len(rankings), max_size=len(rankings)))
    runs = [Run.from_dict(ranking).select(["q1", "q2"]) for ranking in rankings]
    whole = m2kr.fuse(runs, method=method, weights=weights)
    for k in (1, 3, 9):
        assert FusedRuns(runs, method).run(weights, "", k) == whole.top(k)
    assert whole.to_dict() == naive(rankings, method, weights)


@pytest.mark.slow  # ranx is compiled first
@settings(max_examples=30)
@given(st.lists(RUN, min_size=2, max_size=4))
def test_ranx_fuses_alike(rankings) -> None:
    ranx = pytest.importorskip("ranx", reason="ranx is not installed: pip install ranx")
    runs = [Run.from_dict(ranking) for ranking in rankings]
    theirs = ranx.fuse(
        runs=[run.to_ranx() for run in runs], norm=None, method="rrf", params={"k": 60}
    )
    fused = m2kr.fuse(runs).to_dict()
    assert fused == {q: {p: pytest.approx(s) for p, s in r.items()} for q, r in theirs.run.items()}


def test_what_was_fused_is_recorded_and_queries_may_be_lacking() -> None:
    one = Run.from_dict({"q1": {"a": 2.0, "b": 1.0}, "q2": {"a": 1.0}}, name="one")
    two = Run.from_dict({"q3": {"c": 1.0}, "q1": {"b": 5.0, "c": 4.0}}, name="two")
    fused = m2kr.fuse([one, two], method="minmax", weights=[1, 3], name="both")
    assert fused.to_dict() == {
        "q1": {"b": 3.0, "a": 1.0, "c": 0.0},
        "q2": {"a": 1.0},
        "q3": {"c": 3.0},
    }
    assert (fused.name, fused.query_ids) == ("both", ("q1", "q2", "q3"))
    assert fused.recorded["settings"] == {
        "method": "minmax",
        "weights": [1.0, 3.0],
        "runs": [{"name": r.name, "sha256": r.sha256()} for r in (one, two)],
    }


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"runs": 1}, UsageError, "two or more"),
        ({"weights": [1]}, UsageError, "2 numbers"),
        ({"weights": [1, -1]}, UsageError, "none negative"),
        ({"weights": [0, 0]}, UsageError, "not all 0"),
        ({"weights": [1, float("nan")]}, UsageError, "2 numbers"),
        ({"method": "combsum"}, UsageError, "one of zscore, minmax, rrf"),
        ({"evals": ("fp1:a", "fp1:b")}, InputError, "different splits"),
    ],
)
def test_what_can_not_be_fused_is_refused(options, error, said) -> None:
    evals = options.pop("evals", ("fp1:a", "fp1:a"))
    runs = [
        Run.from_dict({"q": {"a": 1.0}}, name=f"run{i}").named(f"run{i}", fingerprints={"eval": e})
        for i, e in enumerate(evals)
    ][: options.pop("runs", 2)]
    with pytest.raises(error, match=said):
        m2kr.fuse(runs, **options)


@pytest.fixture(scope="module")
def runs(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two retrievers on two splits of mini: ``bm25.valid.parquet`` ..."""
    folder = tmp_path_factory.mktemp("runs")
    for split in ("valid", "seen"):
        data = m2kr.load("mini", split, data=mini_root)
        for result in m2kr.evaluate(data, ["bm25", "random"], k=20, metrics="hit_rate@5"):
            assert result.run is not None
            result.run.save(folder / f"{result.retriever['name']}.{split}.parquet")
    return folder


def test_weights_are_learned_on_another_split(mini_root: Path, runs: Path) -> None:
    seen = m2kr.load("mini", "seen", data=mini_root)
    loaded = {path.stem: Run.load(path) for path in runs.iterdir()}
    learned = m2kr.learn_weights(seen, [loaded["random.seen"], loaded["bm25.seen"]])
    assert learned.values[1] > 0.6 > 0.4 > learned.values[0]
    assert learned.score > learned.equal_score
    assert learned.metric == "hit_rate@5"
    again = m2kr.learn_weights(seen, [loaded["random.seen"], loaded["bm25.seen"]])
    assert again == learned
    fused = m2kr.fuse([loaded["random.valid"], loaded["bm25.valid"]], weights=learned)
    facts = fused.recorded["settings"]
    assert facts["weights"] == list(learned.values)
    assert facts["learned"]["learned_on"]["split"] == "seen"
    # A weight of one run alone: that run's own score.
    alone = m2kr.fuse([loaded["random.valid"], loaded["bm25.valid"]], weights=[0, 1])
    valid = m2kr.load("mini", "valid", data=mini_root)
    scores = [
        m2kr.evaluate(valid, run, metrics="hit_rate@5")[0].value("hit_rate@5")
        for run in (alone, loaded["bm25.valid"])
    ]
    assert scores[0] == scores[1]
    with pytest.raises(UsageError, match="learned on the split that the runs are of: mini/seen"):
        m2kr.fuse([loaded["random.seen"], loaded["bm25.seen"]], weights=learned)
    with pytest.raises(CheckError, match="lacks 283 queries"):
        m2kr.learn_weights(seen, [loaded["random.valid"], loaded["bm25.valid"]])


@pytest.mark.slow
def test_the_retriever_fuses_files_and_learns(mini_root: Path, runs: Path) -> None:
    valid = m2kr.load("mini", "valid", data=mini_root)

    def evaluated(**settings: str) -> m2kr.Result:
        return m2kr.evaluate(valid, "fusion", k=20, metrics="hit_rate@5", settings=settings)[0]

    both = {s: f"{runs}/random.{s}.parquet,{runs}/bm25.{s}.parquet" for s in ("valid", "seen")}
    by_files = evaluated(
        runs=both["valid"], weights="learned", learn_on="seen", learn_runs=both["seen"]
    )
    by_names = evaluated(members="random,bm25", weights="learned", learn_on="seen", depth="20")
    weights = by_names.retriever["settings"]["weights"]
    assert weights["bm25"] > weights["random"]
    settings = by_files.retriever["settings"]
    assert settings["learned"]["learned_on"]["split"] == "seen"
    assert set(settings["weights"]) == {"run:random.valid.parquet", "run:bm25.valid.parquet"}
    bm25 = Run.load(runs / "bm25.valid.parquet")
    assert settings["members"]["run:bm25.valid.parquet"]["sha256"] == bm25.sha256()
    assert by_files.run is not None
    assert by_files.run.recorded["settings"] == settings  # the run file says it, too
    # By reciprocal ranks it is what `fuse` makes.
    rrf = evaluated(runs=both["valid"], method="rrf")
    plain = m2kr.fuse([Run.load(path) for path in both["valid"].split(",")]).top(20)
    assert rrf.run_sha256 == plain.select(valid.queries_view.ids.to_pylist()).sha256()
    for wrong, error, said in (
        (
            {"members": "bm25,random", "weights": "learned", "learn_on": "valid"},
            UsageError,
            "used on",
        ),
        ({"members": "bm25,random", "weights": "learned", "learn_on": "vlaid"}, M2KRError, "vlaid"),
        ({"runs": both["valid"], "weights": "learned"}, UsageError, "learn_runs=FILE,FILE"),
        ({"runs": both["seen"]}, CheckError, "seen.parquet: the run lacks 402 queries"),
        ({"runs": "no.trec,other.trec"}, MissingError, r"no\.trec"),
        ({"runs": both["valid"], "learn_runs": both["seen"]}, UsageError, "weights=learned"),
    ):
        with pytest.raises(error, match=said):
            evaluated(**wrong)


def test_weights_used_where_they_were_learned_are_said_and_need_a_metric_that_is_defined(
    tmp_path: Path,
) -> None:
    passages = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]
    queries = [{"id": "q", "question": "?", "answers": ["two"]}]
    split = m2kr.from_records(passages, queries, name="answers", data=tmp_path)
    two = [Run.from_dict({"q": {"a": x, "b": 1.0}}, name=f"r{x}") for x in (0.0, 2.0)]
    learned = m2kr.learn_weights(split, two, metric="pseudo_recall@1")
    (result,) = m2kr.evaluate(split, m2kr.fuse(two, weights=learned), metrics="pseudo_recall@1")
    assert "learned on these very queries" in " ".join(result.notes)
    (result,) = m2kr.evaluate(split, m2kr.fuse(two), metrics="pseudo_recall@1")
    assert "learned" not in " ".join(result.notes)
    with pytest.raises(UsageError, match="hit_rate@5 is defined for no query"):
        m2kr.learn_weights(split, two, metric="hit_rate@5")


def test_learning_asks_for_a_split(tmp_path: Path) -> None:
    from m2kr.retrievers import create

    fusion = create("fusion", {"members": "bm25,random", "weights": "learned"})
    with pytest.raises(UsageError, match=r"m2kr\.learn_weights"):
        fusion.index(None, workdir=tmp_path)  # type: ignore[arg-type]
    assert np.isfinite(list(fusion.settings["weights"].values())).all()
