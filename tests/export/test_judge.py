"""Judge files: scores equal those of the split itself, and what is no whole judge file is refused."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scores import score
from support.toys import Dense, toy_split

import m2kr
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.judge_file import JudgeFile
from m2kr.export.judge import write_judge_file
from m2kr.retrieval.run import Run

IDS = [f"p{i}" for i in range(12)]
WORDS = st.text("aB é1", max_size=3)


@st.composite
def splits(draw):
    passages = {i: draw(st.text("aAbB é1.", max_size=12)) for i in IDS}
    queries, grades = {}, {}
    for number in range(draw(st.integers(1, 5))):
        right = draw(st.lists(st.sampled_from(IDS), max_size=3, unique=True))
        answers = draw(st.lists(WORDS, max_size=3))
        kind = draw(st.sampled_from(["x", "y", None]))
        queries[f"q{number}"] = ("?", right, answers, None, kind)
        grades[f"q{number}"] = [draw(st.sampled_from([1.0, 2.0, 0.5])) for _ in right]
    graded = draw(st.booleans())
    split = toy_split(passages=passages, queries=queries, grades=grades if graded else None)
    split.manifest |= draw(
        st.sampled_from([{}, {"relevance_threshold": 2}, {"unjudged": "miss", "comparable": "no"}])
    )
    return split


@settings(max_examples=12, deadline=None)
@given(split=splits(), seed=st.integers(0, 99), ties=st.sampled_from(["m2kr", "trec"]))
def test_a_run_scores_on_a_judge_file_as_on_its_split(tmp_path_factory, split, seed, ties):
    path = tmp_path_factory.mktemp("judge") / "x.judge.parquet"
    queries = split.queries_view
    if not len(queries.judgements()) and not any(queries.column("answers")):
        with pytest.raises(MissingError, match="no judgements"):
            write_judge_file(split, path)
        return
    write_judge_file(split, path)
    rng = np.random.default_rng(seed)
    run = Run.from_dict(
        {
            q: {
                IDS[p]: float(rng.integers(0, 4))
                for p in rng.permutation(12)[: rng.integers(0, 13)]
            }
            for q in queries.ids.to_pylist()
        }
    )
    one = score(split, run, "full", ties=ties)
    other = score(JudgeFile.load(path), run, "full", ties=ties)
    assert other.scores.keys() == one.scores.keys()
    for name, values in one.scores.items():
        assert np.array_equal(values, other.scores[name], equal_nan=True)
    alike = ("metrics", "groups", "counts", "fingerprints", "headline", "partial", "comparable")
    alike += ("notes", "source", "split", "edition", "run_sha256", "k")
    assert {n: getattr(one, n) for n in alike} == {n: getattr(other, n) for n in alike}


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "toy.judge.parquet"
    return write_judge_file(toy_split(), path)


def test_it_holds_no_text(judge):
    raw = judge.read_bytes()
    for text in (b"apple is a red", b"honey", b"Honey", b"woof", b"bark bark", b"Find: "):
        assert text not in raw
    assert pq.read_table(judge)["passage_id"].to_pylist() == [
        "p/apple",
        "p/bear",
        "p/cherry",
        "p/dog",
    ]


def test_only_runs_are_judged(judge):
    run = Run.from_dict({f"q{i}": {"p/apple": 1.0} for i in range(1, 5)}, name="mine")
    by_path = m2kr.evaluate(judge, run)
    assert m2kr.evaluate(str(judge), run)[0].metrics == by_path[0].metrics
    assert (by_path[0].source, by_path[0].edition) == ("toy", "here")
    for retriever in ("random", Dense()):
        with pytest.raises(UsageError, match=r"can't search a judge file.*\n(.|\n)*-r run:FILE"):
            m2kr.evaluate(judge, retriever)
    with pytest.raises(UsageError, match="can't search a judge file"):
        evaluate_split(JudgeFile.load(judge), Dense())
    with pytest.raises(MissingError, match="no passages of test"):
        JudgeFile.load(judge).passage("p/apple")
    with pytest.raises(MissingError, match="no such judge file"):
        m2kr.evaluate(judge.with_name("other.judge.parquet"), run)


def test_what_is_no_whole_judge_file_is_refused(judge, tmp_path):
    run = Run.from_dict({f"q{i}": {"p/apple": 1.0, "p/bear": 0.5} for i in range(1, 5)})
    told = m2kr.evaluate(judge, run)[0].as_dict()["metrics"]
    raw = judge.read_bytes()
    path = tmp_path / "damaged.judge.parquet"
    refused = 0
    for place in range(0, len(raw), 101):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
        try:
            assert m2kr.evaluate(path, run)[0].as_dict()["metrics"] == told
        except InputError:
            refused += 1
    assert refused > 15
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match=r"damaged\.judge"):
        JudgeFile.load(path)
    run.save(tmp_path / "run.parquet")
    with pytest.raises(InputError, match="no judge file"):
        JudgeFile.load(tmp_path / "run.parquet")


def test_another_version_is_refused(judge, tmp_path, monkeypatch):
    monkeypatch.setattr("m2kr.export.judge.FORMAT", "m2kr-judge-9")
    path = write_judge_file(toy_split(), tmp_path / "next.judge.parquet")
    with pytest.raises(InputError, match="another version: m2kr-judge-9"):
        JudgeFile.load(path)
