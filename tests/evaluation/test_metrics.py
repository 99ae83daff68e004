import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import UsageError
from m2kr.evaluation import answer_search
from m2kr.evaluation.judgements import JudgedRun
from m2kr.evaluation.metrics import GRID, choose, heading, metrics, parse
from m2kr.retrieval.run import Run


def judged(ranking, qrels, answers=None, texts=None, threshold=1):
    """Judgements as {query: {passage: grade}}, answers as {query: [...]}, texts as {passage: text}."""
    run = Run.from_dict(ranking)
    rows = [(q, p, grade) for q, graded in qrels.items() for p, grade in graded.items()]
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    types = (pa.string(), pa.string(), pa.float64())
    arrays = [pa.array(c, t) for c, t in zip(columns, types, strict=True)]
    table = pa.table(arrays, names=["question_id", "passage_id", "relevance"])
    read = []

    def look_up(places):
        ids = run.vocabulary.take(pa.array(places)).to_pylist()
        read.extend(ids)
        return [(texts or {})[i] for i in ids]

    told = [(answers or {}).get(q, []) for q in ranking]
    result = JudgedRun(run, table, told, look_up, threshold=threshold)
    result.read = read
    return result


def value(judgement, name):
    chosen = parse(name)
    return [None if np.isnan(v) else v for v in chosen.metric.compute(judgement, chosen.k).tolist()]


RANKING = {
    "none": {},
    "late": {"a": 3, "b": 2, "c": 1},
    "both": {"a": 3, "b": 2, "c": 1},
    "tied": {"c": 1, "b": 1, "a": 1},
    "open": {"a": 1},
}
QRELS = {
    "none": {"a": 1},
    "late": {"c": 1},
    "both": {"b": 1, "c": 2, "x": 1, "a": 0},
    "tied": {"b": 1},
    "elsewhere": {"a": 1},
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hit_rate@1", [0, 0, 0, 0, None]),
        ("hit_rate@2", [0, 0, 1, 1, None]),
        ("hit_rate@500", [0, 1, 1, 1, None]),
        ("set_recall@2", [0, 0, 1 / 3, 1, None]),
        ("set_recall@5", [0, 1, 2 / 3, 1, None]),
        ("mrr@10", [0, 1 / 3, 1 / 2, 1 / 2, None]),
        ("mrr@2", [0, 0, 1 / 2, 1 / 2, None]),
    ],
)
def test_values_by_hand(name, expected):
    assert value(judged(RANKING, QRELS), name) == expected


ids = st.sampled_from("abcdefghij")
grades = st.sampled_from([-1, 0, 0.2, 1, 1.5, 2, 3])
graded = st.dictionaries(ids, grades, max_size=5)


@settings(max_examples=200, deadline=None)
@given(
    ranking=st.dictionaries(
        st.sampled_from("qrs"), st.dictionaries(ids, st.integers(0, 2), max_size=10), min_size=1
    ),
    qrels=st.dictionaries(st.sampled_from("qrst"), graded),
    k=st.integers(1, 12),
    threshold=st.sampled_from([0.1, 1, 2]),
)
def test_ours_equal_the_naive_ones(ranking, qrels, k, threshold):
    given_ = judged(ranking, qrels, threshold=threshold)
    for place, query in enumerate(ranking):
        ranked = sorted(ranking[query], key=lambda p: (-ranking[query][p], p))[:k]
        gains = {p: grade for p, grade in qrels.get(query, {}).items() if grade > 0}
        right = {p for p, grade in gains.items() if grade >= threshold}
        hits = [rank for rank, p in enumerate(ranked, 1) if p in right]
        naive = {
            "hit_rate": float(bool(hits)),
            "set_recall": len(hits) / len(right) if right else None,
            "mrr": 1 / hits[0] if hits else 0.0,
            "precision": len(hits) / k,
            "map": sum((i + 1) / rank for i, rank in enumerate(hits)) / max(1, len(right)),
        }
        for name, expected in naive.items():
            found = value(given_, f"{name}@{k}")[place]
            assert found == (pytest.approx(expected) if right else None)
        dcg = sum(gains.get(p, 0) / math.log2(r + 1) for r, p in enumerate(ranked, 1))
        best = sorted(gains.values(), reverse=True)[:k]
        ideal = sum(g / math.log2(r + 1) for r, g in enumerate(best, 1))
        found = value(given_, f"ndcg@{k}")[place]
        assert found == (pytest.approx(dcg / ideal) if gains else None)


def test_repeated_judgements_count_once_and_the_highest_grade_wins():
    run = Run.from_dict({"q": {"a": 1}})
    table = pa.table(
        {"question_id": ["q"] * 4, "passage_id": ["a", "a", "x", "x"], "relevance": [1, 3, 1, 1]}
    )
    twice = JudgedRun(run, table, [[]], lambda places: [])
    assert twice.positives.tolist() == [2]
    assert twice.relevance.tolist() == [3]


def scored_as(ranking, positives, same, name):
    """A metric where some passages count as another: ``same`` is {passage: the one it counts as}."""
    run = Run.from_dict({"q": {p: float(-i) for i, p in enumerate(ranking)}})
    vocabulary = run.vocabulary.to_pylist()
    places = [i for i, p in enumerate(vocabulary) if p in same]
    ids = pa.array([same[vocabulary[i]] for i in places], pa.string())
    n = len(positives)
    table = pa.table(
        {"question_id": ["q"] * n, "passage_id": list(positives), "relevance": [1] * n}
    )
    pairs = (np.array(places, np.int64), ids)
    return value(JudgedRun(run, table, [[]], lambda _: [], same=pairs), name)[0]


@pytest.mark.parametrize(
    ("ranking", "name", "expected"),
    [
        (["x", "a#2", "y"], "hit_rate@1", 0),
        (["x", "a#2", "y"], "hit_rate@2", 1),  # the official pool lists the id twice: either is it
        (["x", "a#2", "a"], "mrr@10", 1 / 2),
        (["a#2", "a", "b"], "set_recall@2", 1 / 2),  # once found, found again is nothing
        (["a#2", "a", "b"], "set_recall@3", 1),
        (["b", "a#3", "a#2"], "set_recall@2", 1),
        (["x", "y", "z"], "hit_rate@3", 0),
    ],
)
def test_a_passage_that_counts_as_another(ranking, name, expected):
    same = {"a#2": "a", "a#3": "a", "z": "elsewhere"}
    assert scored_as(ranking, ["a", "b"], same, name) == pytest.approx(expected)


@settings(max_examples=50)
@given(
    st.permutations(["a", "a#2", "a#3", "b", "b#2", "c", "d"]),
    st.lists(st.sampled_from("abcd"), unique=True, min_size=1),
    st.integers(1, 7),
)
def test_counting_as_another_agrees_with_a_naive_official_script(ranking, positives, k):
    same = {"a#2": "a", "a#3": "a", "b#2": "b"}
    shown = [same.get(p, p) for p in ranking[:k]]  # what the official script sees: ids with repeats
    assert scored_as(ranking, positives, same, f"hit_rate@{k}") == any(
        p in positives for p in shown
    )
    expected = len(set(shown) & set(positives)) / len(positives)
    assert scored_as(ranking, positives, same, f"set_recall@{k}") == pytest.approx(expected)


def test_queries_without_right_passages_can_count_as_missed():
    """OKVQA's published means are over all questions, also those for which nothing was found."""
    run = Run.from_dict({"found": {"a": 1.0}, "open": {"a": 1.0}})
    table = pa.table({"question_id": ["found"], "passage_id": ["a"], "relevance": [1]})
    missed = JudgedRun(run, table, [[], []], lambda _: [], missed_without_positives=True)
    for name in ("hit_rate@5", "set_recall@5", "mrr@10"):
        assert value(missed, name) == [1, 0]
        assert value(JudgedRun(run, table, [[], []], lambda _: []), name) == [1, None]


TEXTS = {"a": "The CAT sat", "b": "a dog", "c": "42 mice", "d": ""}


def pseudo(answers, ranking=None, name="pseudo_recall@5"):
    ranking = ranking or {"q": {"d": 4, "a": 3, "b": 2, "c": 1}}
    return value(judged(ranking, {}, {"q": answers}, TEXTS), name)


@pytest.mark.parametrize(
    ("answers", "k", "expected"),
    [
        (["cat"], 2, 1),
        (["cat"], 1, 0),
        (["  DOG \n"], 3, 1),
        (["at sa"], 5, 1),  # a substring, across words
        (["4"], 5, 1),  # no word boundaries
        (["the  cat"], 5, 0),  # inner blanks are kept
        (["bird", "mice"], 5, 1),
        (["bird"], 5, 0),
        ([], 5, None),
        ([""], 1, 1),  # an empty answer is in every text
        (["bird", "   "], 1, 1),
    ],
)
def test_pseudo_recall_by_hand(answers, k, expected):
    assert pseudo(answers, name=f"pseudo_recall@{k}") == [expected]


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("it", "the kit", 0),
        ("it", "Kit, it is.", 1),
        ("it", "it", 1),
        ("us", "the U.S. and us", 1),
        ("us", "museum", 0),
        ("4", "in 1994", 0),
        ("4", "4.5", 1),
        ("c++", "c++11", 1),
        ("c++", "ac++", 0),
        (".net", "asp.net", 1),
        ("new york", "newyork, new yorker, New York!", 1),
        ("é", "né", 0),
        ("", "anything", 1),
    ],
)
def test_pseudo_recall_by_whole_words(answer, text, expected):
    found = judged({"q": {"a": 1}}, {}, {"q": [answer]}, {"a": text})
    assert value(found, "pseudo_recall_words@1") == [expected]


@settings(max_examples=100, deadline=None)
@given(
    answer=st.text("ab é-", min_size=1, max_size=3).filter(lambda s: s.strip()),
    texts=st.lists(st.text("ab é-.", max_size=8), min_size=1, max_size=8),
)
def test_whole_words_equal_a_regular_expression(answer, texts):
    ranking = {"q": {f"p{i}": -i for i in range(len(texts))}}
    found = judged(ranking, {}, {"q": [answer]}, {f"p{i}": t for i, t in enumerate(texts)})
    wanted = answer.strip()
    before = r"(?<![^\W_])" if wanted[0].isalnum() else ""
    after = r"(?![^\W_])" if wanted[-1].isalnum() else ""
    pattern = before + re.escape(wanted) + after
    for k in range(1, len(texts) + 1):
        expected = float(any(re.search(pattern, text) for text in texts[:k]))
        assert value(found, f"pseudo_recall_words@{k}") == [expected]
        plain = float(any(wanted in text for text in texts[:k]))
        assert value(found, f"pseudo_recall@{k}") == [plain]


def test_queries_with_an_empty_answer_are_left_out_beside_the_official_number():
    ranking = {q: {"a": 1} for q in ("blank", "right", "wrong", "none")}
    answers = {"blank": ["x", " "], "right": ["cat"], "wrong": ["dog"]}
    given_ = judged(ranking, {}, answers, TEXTS)
    assert value(given_, "pseudo_recall@5") == [1, 1, 0, None]
    assert value(given_, "pseudo_recall_nonempty@5") == [None, 1, 0, None]
    assert given_.has_empty_answer.tolist() == [True, False, False, False]
    without = judged(ranking, {}, {"right": ["cat"]}, TEXTS)
    assert value(without, "pseudo_recall_nonempty@5") == [None] * 4


def test_an_empty_answer_needs_a_result_to_be_found_in():
    assert pseudo([""], {"q": {}}) == [0]


@settings(max_examples=60, deadline=None)
@given(
    ranking=st.dictionaries(
        st.sampled_from("qrs"), st.dictionaries(ids, st.integers(0, 9), max_size=10), min_size=1
    ),
    answers=st.dictionaries(
        st.sampled_from("qrs"), st.lists(st.text("aB İ", max_size=2), max_size=2)
    ),
    texts=st.fixed_dictionaries({i: st.text("aAbB iİ", max_size=4) for i in "abcdefghij"}),
    held=st.sampled_from([1, 3, 4096]),
)
def test_pseudo_recall_equals_the_official_computation(ranking, answers, texts, held):
    given_ = judged(ranking, {}, answers, texts)
    before = answer_search.TEXTS_AT_ONCE
    answer_search.TEXTS_AT_ONCE = held
    try:
        for k in (1, 2, 6, 20):
            found = value(given_, f"pseudo_recall@{k}")
            for place, query in enumerate(ranking):
                ranked = sorted(ranking[query], key=lambda p: (-ranking[query][p], p))[:k]
                expected = any(
                    a.strip().lower() in texts[p].lower()
                    for p in ranked
                    for a in answers.get(query, [])
                )
                assert found[place] == (float(expected) if answers.get(query) else None)
    finally:
        answer_search.TEXTS_AT_ONCE = before


def test_texts_are_read_only_where_needed():
    ranking = {"q": {f"p{i}": -i for i in range(50)}, "r": {"p0": 1}}
    texts = {f"p{i}": "cat" if i == 3 else "-" for i in range(50)}
    given_ = judged(ranking, {}, {"q": ["cat"]}, texts)
    assert value(given_, "pseudo_recall@500") == [1, None]
    assert sorted(given_.read) == ["p0", "p1", "p2", "p3", "p4"]


def test_every_file_is_a_metric_with_a_sentence_and_a_label():
    found = metrics()
    assert {"hit_rate", "pseudo_recall", "set_recall", "mrr", "ndcg", "map", "precision"} <= set(
        found
    )
    for name, metric in found.items():
        assert metric.name == name
        assert metric.doc.endswith(".")
        assert "{k}" in metric.label
    assert heading(parse("Hit_Rate@5").name) == "R@5"
    assert heading("pseudo_recall@5") == "PR@5"
    assert heading("mine@3") == "mine@3"


@pytest.mark.parametrize("name", ["recall@5", "Recall@5", "R@5", "recall"])
def test_a_bare_recall_is_refused_with_both_meanings(name):
    with pytest.raises(UsageError) as caught:
        parse(name)
    assert "hit_rate@5" in str(caught.value)
    assert "set_recall@5" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["hitrate@5", "hit_rate", "hit_rate@0", "hit_rate@x", "hit_rate@-1", ""]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(UsageError, match="there is no metric"):
        parse(name)


def test_typos_get_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'hit_rate@7'"):
        parse("hitrate@7")


def test_the_grid_ends_at_the_depth():
    names = [one.name for one in choose("default", 20)]
    assert [n for n in names if n.startswith("hit_rate")] == [
        f"hit_rate@{k}" for k in GRID if k <= 20
    ]
    assert "mrr@10" in names
    assert not any(n.startswith("ndcg") for n in names)
    full = [one.name for one in choose("full", 500)]
    assert {"ndcg@10", "map@100", "precision@5", "hit_rate@500"} <= set(full)
    assert len(full) == len(set(full))


def test_metrics_are_chosen_by_name_too():
    assert [c.name for c in choose("ndcg@3, hit_rate@7,ndcg@3", 500)] == ["ndcg@3", "hit_rate@7"]
    assert [c.name for c in choose(["mrr@10"], 500)] == ["mrr@10"]
