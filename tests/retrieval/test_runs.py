import hashlib
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.errors import InputError, UsageError
from m2kr.retrieval.run import Run

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
scores = st.floats(allow_nan=False, allow_infinity=False)
rankings = st.dictionaries(ids, st.dictionaries(ids, scores, max_size=6), max_size=5)


def test_ties_are_broken_by_passage_id_in_utf8_order():
    run = Run.from_dict({"q": {"b": 1, "\U0001f600": 1, "\uffff": 1, "a": 1, "z": 2, "B": 1}})
    assert run.passage_ids("q") == ["z", "B", "a", "b", "\uffff", "\U0001f600"]
    assert run.scores("q").tolist() == [2, 1, 1, 1, 1, 1]


@given(rankings)
def test_construction_applies_the_tie_rule(ranking):
    run = Run.from_dict(ranking)
    assert run.query_ids == tuple(ranking)
    for query, scored in ranking.items():
        expected = sorted(scored, key=lambda p: (-scored[p], p.encode()))
        assert run.passage_ids(query) == expected
        assert run.scores(query).tolist() == [scored[p] for p in expected]
    assert {q: dict(s) for q, s in run.to_dict().items()} == ranking


@given(rankings, st.randoms())
def test_equal_rankings_are_equal_runs_in_any_order(ranking, random):
    queries = random.sample(list(ranking), len(ranking))
    shuffled = {q: dict(random.sample(list(ranking[q].items()), len(ranking[q]))) for q in queries}
    one, other = Run.from_dict(ranking), Run.from_dict(shuffled, name="other")
    assert one == other
    assert hash(one) == hash(other)
    assert one.select(queries).query_ids == tuple(queries)
    assert one.select(queries) == one


@given(rankings, st.integers(1, 4))
def test_top_cuts_every_list(ranking, k):
    run = Run.from_dict(ranking)
    top = run.top(k)
    assert top.query_ids == run.query_ids
    for query in ranking:
        assert top.passage_ids(query) == run.passage_ids(query)[:k]
        assert top.scores(query).tolist() == run.scores(query).tolist()[:k]
    present = {p for q in ranking for p in top.passage_ids(q)}
    assert top.vocabulary.to_pylist() == sorted(present, key=str.encode)


@pytest.mark.parametrize(
    "other",
    [
        {"q": {"a": 1.0, "b": 2.0}},
        {"q": {"a": 1.0, "b": 0.5000000000000001}},
        {"q": {"a": 1.0}},
        {"q": {"a": 1.0, "b": 0.5}, "r": {}},
        {"r": {"a": 1.0, "b": 0.5}},
        {"q": {"a": 1.0, "c": 0.5}},
    ],
)
def test_different_rankings_have_different_hashes(other):
    run = Run.from_dict({"q": {"a": 1.0, "b": 0.5}})
    assert run != Run.from_dict(other)
    assert run.sha256() != Run.from_dict(other).sha256()


def test_the_hash_follows_its_published_rule():
    run = Run.from_dict({"q1": {"é": 1.5, "b": 1.5}, "q0": {}})

    def part(query, passages, scores):
        u64 = struct.Struct("<Q").pack
        raw = [p.encode() for p in passages]
        data = u64(len(query)) + query.encode() + u64(len(raw))
        data += b"".join(u64(len(r)) for r in raw) + b"".join(raw)
        return hashlib.sha256(data + struct.pack(f"<{len(raw)}d", *scores)).digest()

    expected = hashlib.sha256(
        b"m2kr-run1\0" + part("q0", [], []) + part("q1", ["b", "é"], [1.5, 1.5])
    ).hexdigest()
    assert run.sha256() == expected
    assert expected.startswith("48d85295830e3fd3")


def test_minus_zero_ties_with_zero():
    assert Run.from_dict({"q": {"b": 0.0, "a": -0.0}}).passage_ids("q") == ["a", "b"]


def test_from_rows_takes_pool_rows_and_pads_with_minus_one():
    pool = pa.chunked_array([["p3", "p2"], [], ["p1", "p0"]])
    rows = np.array([[3, 0], [1, -1], [-1, -1]])
    scores = np.array([[1.0, 1.0], [0.5, -np.inf], [np.nan, np.nan]])
    run = Run.from_rows(["a", "b", "c"], pool, rows, scores, name="n")
    assert run.to_dict() == {"a": {"p0": 1.0, "p3": 1.0}, "b": {"p2": 0.5}, "c": {}}
    assert run.passage_ids("a") == ["p0", "p3"]
    assert run == Run.from_dict(run.to_dict())


def test_a_pool_that_repeats_an_id_can_not_rank_it_twice():
    with pytest.raises(InputError, match="'p' twice"):
        Run.from_rows(["q"], pa.array(["p", "p"]), np.array([[0, 1]]), np.ones((1, 2)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_must_be_finite(bad):
    with pytest.raises(InputError, match="query 'q', passage 'p'"):
        Run.from_dict({"q": {"p": bad}})


def test_repeats_are_refused():
    with pytest.raises(InputError, match="'q2' ranks passage 'x' twice"):
        Run.from_lists(["q", "q2"], [["x"], ["x", "y", "x"]], [[1], [3, 2, 1]])
    with pytest.raises(InputError, match="query 'q' is in the run twice"):
        Run.from_lists(["q", "q"], [["x"], ["x"]], [[1], [1]])


@pytest.mark.parametrize("passages", [[None], [7], ["\ud800"]])
def test_ids_must_be_text(passages):
    with pytest.raises(InputError, match="passage id"):
        Run.from_lists(["q"], [passages], [[1.0]])


def test_ids_and_scores_must_agree_in_number():
    with pytest.raises(InputError, match="differ in number"):
        Run.from_lists(["q"], [["a", "b"]], [[1.0]])
    with pytest.raises(InputError, match="counts"):
        Run(["q"], [2], ["a"], [1.0])


def test_unknown_queries_are_an_error():
    run = Run.from_dict({"q": {"a": 1}})
    for call in (lambda: run.passage_ids("x"), lambda: run.select(["x"])):
        with pytest.raises(UsageError, match="'x' is not in the run"):
            call()
    assert "q" in run
    assert "x" not in run


def test_a_run_can_not_be_changed_through_its_arrays():
    run = Run.from_dict({"q": {"a": 1}})
    with pytest.raises(ValueError, match="read-only"):
        run.scores("q")[0] = 2
