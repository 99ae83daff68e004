"""Systems compared by their results: who is told apart from whom, and what is refused."""

import csv
import io
import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from support.made_results import made_result

import m2kr
from m2kr.errors import CheckError, InputError, UsageError
from m2kr.evaluation.compare import compare_results
from m2kr.evaluation.comparison_tables import notes

HIT = "hit_rate@5"


def hits(seed, share, n=200):
    return (np.random.default_rng(seed).random(n) < share).astype(float)


@pytest.fixture(scope="module")
def three():
    """Two systems that hardly differ, and a bad one; queries in three orders."""
    good, bad = hits(1, 0.7), hits(2, 0.2)
    like = good.copy()
    like[:3] = 1 - like[:3]
    groups = {"task": ["I2T" if i % 2 else "Q2T" for i in range(200)]}
    ids = [f"q{i:06}" for i in range(200)]
    back = made_result("bad", {HIT: bad[::-1]}, query_ids=ids[::-1])
    return [
        made_result("good", {HIT: good}, query_groups=groups),
        back,
        made_result("like", {HIT: like}),
    ]


def test_a_system_of_other_settings_on_another_source_is_said():
    results = [
        made_result(
            name,
            {HIT: hits(1, 0.5)},
            source=source,
            retriever={"name": name, "settings": {"k1": k1} if name == "bm25" else {}},
        )
        for source, k1 in (("one", 0.9), ("two", 1.2))
        for name in ("bm25", "random")
    ]
    notes = " ".join(compare_results(results).notes)
    assert "bm25 is not the same on all sources: k1 differs" in notes
    assert "not the same" not in " ".join(compare_results(results[:2]).notes)


def test_letters_pairs_and_tallies(three):
    found = m2kr.compare(*three).metrics[HIT]
    assert found.queries == 200
    assert found.letters == {"good": "a", "like": "a", "bad": "b"}
    good, bad, like = (dict(zip(r.query_ids, r.scores[HIT], strict=True)) for r in three)
    by_names = {(pair.a, pair.b): pair for pair in found.pairs}
    assert set(by_names) == {("good", "bad"), ("good", "like"), ("bad", "like")}
    for (a, b), pair in by_names.items():
        scores = {"good": good, "bad": bad, "like": like}
        x, y = scores[a], scores[b]
        assert pair.wins == sum(x[i] > y[i] for i in x)
        assert pair.losses == sum(x[i] < y[i] for i in x)
        assert pair.wins + pair.ties + pair.losses == 200
        assert pair.difference == pytest.approx(np.mean([x[i] - y[i] for i in x]))
        assert pair.low <= pair.difference <= pair.high
        of_group = pair.groups["task"]
        assert np.sum(list(of_group.values()), axis=0).tolist() == [
            pair.wins,
            pair.ties,
            pair.losses,
        ]
    close = by_names["good", "like"]
    assert (close.wins + close.losses, close.exact, close.significant) == (3, True, False)
    assert close.p in (0.25, 1.0)
    assert by_names["good", "bad"].p_holm < 1e-6


def test_order_of_systems_and_queries_does_not_matter(three):
    one, other = compare_results(three).metrics[HIT], compare_results(three[::-1]).metrics[HIT]
    turned = {(p.b, p.a): p for p in other.pairs}
    for pair in one.pairs:
        back = turned[pair.a, pair.b]
        assert (pair.p, pair.p_holm, pair.p_t) == (back.p, back.p_holm, back.p_t)
        assert (pair.difference, pair.low, pair.high) == pytest.approx(
            (-back.difference, -back.high, -back.low)
        )
    assert one.letters == other.letters


SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0, np.nan]), min_size=3, max_size=3)


@settings(max_examples=40)
@given(st.lists(SCORES, min_size=1, max_size=8), st.sampled_from(["same", "apart"]))
def test_queries_undefined_for_all_are_left_out_and_for_some_refused(rows, nans):
    scores = np.array(rows)
    if nans == "same":
        scores[np.isnan(scores).any(1)] = np.nan
    uneven = (np.isnan(scores).any(1) != np.isnan(scores).all(1)).any()
    results = [made_result(name, {HIT: scores[:, i]}) for i, name in enumerate("abc")]
    if uneven:
        with pytest.raises(CheckError, match="undefined for"):
            compare_results(results)
        return
    defined = scores[~np.isnan(scores[:, 0])]
    if not len(defined):
        with pytest.raises(UsageError, match="no metric to compare by"):
            compare_results(results)
        return
    found = compare_results(results).metrics
    assert found[HIT].queries == len(defined)
    assert list(found[HIT].means.values()) == pytest.approx(defined.mean(0).tolist())


def on(source, name, scores, **changes):
    return made_result(name, scores, source=source, **changes)


def test_several_sources_and_their_mean():
    mrr = "mrr@10"
    results = [
        on("one", "a", {HIT: hits(1, 0.5, 40), mrr: hits(1, 0.5, 40)}),
        on("one", "b", {HIT: hits(2, 0.1, 40), mrr: hits(2, 0.1, 40)}),
        on("two", "b", {mrr: hits(4, 0.1, 300)}),
        on("two", "a", {mrr: hits(3, 0.5, 300)}),
    ]
    found = compare_results(results)
    assert list(found.by_source) == ["one/test", "two/test"]
    assert list(found.macro) == ["headline", mrr]
    assert found.metrics is found.macro
    for label in "ab":
        of_source = [found.by_source[s][mrr].means[label] for s in found.by_source]
        assert found.macro[mrr].means[label] == pytest.approx(np.mean(of_source))
        own = [found.by_source["one/test"][HIT].means[label], of_source[1]]
        assert found.macro["headline"].means[label] == pytest.approx(np.mean(own))
    assert found.macro[mrr].queries == 340
    assert any(HIT in note and "no mean" in note for note in found.notes)
    for text in (str(found), found.to_markdown(), found.to_latex()):
        assert "Mean of 2 sources" in text
        assert "Each source by its headline metric" in text


def test_a_hole_is_refused_with_the_command_for_the_common_sources():
    scores = {HIT: hits(1, 0.5)}
    results = [on("one", "a", scores), on("one", "b", scores), on("two", "a", scores)]
    with pytest.raises(UsageError, match="b has no result on two/test") as refused:
        compare_results(results)
    assert str(refused.value.fix) == f"m2kr compare {results[0].name}.json {results[1].name}.json"
    with pytest.raises(UsageError, match="a has no result on one/test; b has no result"):
        compare_results([on("two", "a", scores), on("one", "b", scores)])


def test_different_data_are_refused_with_what_differs():
    other = {p: f"fp1:{p}" for p in ("queries", "judgements")} | {
        "pool": "fp1:new",
        "eval": "fp1:x",
    }
    results = [
        made_result("a", {HIT: hits(1, 0.5)}),
        made_result("b", {HIT: hits(1, 0.5)}, fingerprints=other, edition="rebuilt"),
    ]
    with pytest.raises(CheckError, match="different data: pool differ") as refused:
        compare_results(results)
    for word in ("fp1:eval", "fp1:x", "here", "rebuilt", results[0].name, results[1].name):
        assert word in str(refused.value)
    same = made_result(
        "b", {HIT: hits(1, 0.5)}, edition="rebuilt"
    )  # another name for the same data
    assert compare_results([results[0], same]).metrics[HIT].pairs[0].p == 1


def test_what_cannot_be_paired_is_refused():
    whole = made_result("a", {HIT: hits(1, 0.5)})
    with pytest.raises(InputError, match="no scores of single queries"):
        compare_results([whole, replace(whole, scores={}, query_ids=())])
    unjudged = [made_result(name, {}, source="open") for name in "ab"]
    found = compare_results([whole, made_result("b", {HIT: hits(2, 0.5)}), *unjudged])
    assert list(found.by_source) == ["toy/test"]
    assert "open/test: left out" in " ".join(found.notes)
    for alone in ([], [whole], [whole, whole]):
        with pytest.raises(UsageError, match="to compare"):
            compare_results(alone)
    ids = [f"x{i}" for i in range(200)]
    with pytest.raises(CheckError, match="other queries than a: 400"):
        compare_results([whole, made_result("b", {HIT: hits(1, 0.5)}, query_ids=ids)])
    with pytest.raises(InputError, match="not one for each query"):
        compare_results([whole, made_result("b", {HIT: hits(1, 0.5)}, query_ids=["q"] * 200)])
    with pytest.raises(InputError, match="is no result"):
        m2kr.compare(whole, 3)


def test_metrics_are_chosen_by_name_and_lacking_ones_refused(three):
    scores = {HIT: hits(1, 0.5), "ndcg@10": hits(1, 0.5), "fn@3": hits(1, 0.5)}
    two = [
        made_result(name, scores, shown=[HIT, "pseudo_recall@5"], headline="pseudo_recall@5")
        for name in "ab"
    ]
    assert list(compare_results(two).metrics) == [HIT]
    assert list(compare_results(two, metrics="full").metrics) == list(scores)
    assert list(compare_results(two, metrics="fn.py:fn@3,NDCG@10").metrics) == ["ndcg@10", "fn@3"]
    with pytest.raises(UsageError, match="no result was scored by mrr@10"):
        compare_results(two, metrics=["mrr@10"])
    for unknown, words in (("recall@5", "two things"), ("ndgc@10", "no metric 'ndgc@10'")):
        with pytest.raises(UsageError, match=words):
            compare_results(two, metrics=unknown)
    with pytest.raises(UsageError, match="no name of a metric"):
        compare_results(two, metrics=[hits])
    mixed = [*two, made_result("c", {HIT: hits(1, 0.5)})]
    found = compare_results(mixed, metrics=f"default,{HIT}")
    assert list(found.metrics) == [HIT]
    with pytest.raises(InputError, match="c was not scored by ndcg@10"):
        compare_results(mixed, metrics="ndcg@10")
    mixed[0] = made_result("a", scores)
    assert "ndcg@10 is left out, since c has none" in str(compare_results(mixed))


def test_labels_say_what_differs():
    def bm25(source="one", sha="x", **facts):
        settings = {"k1": 0.9, "b": 0.4} | facts.pop("settings", {})
        retriever = {"name": "bm25", "settings": settings, **facts.pop("retriever", {})}
        return on(source, "", {HIT: hits(1, 0.5)}, retriever=retriever, run_sha256=sha, **facts)

    def labels(*results):
        return compare_results(results).systems

    assert labels(bm25(), bm25(settings={"k1": 1.2}, sha="y")) == ("bm25 k1=0.9", "bm25 k1=1.2")
    assert labels(bm25(), bm25(k=100, sha="y")) == ("bm25 k=500", "bm25 k=100")
    assert labels(bm25(), bm25(retriever={"label": "mine"})) == ("bm25", "bm25 mine")
    ties = [{"ties": "m2kr"}, {"ties": "trec"}]
    assert labels(*(bm25(experiment=t) for t in ties)) == ("bm25 ties=m2kr", "bm25 ties=trec")
    first, second = labels(bm25(), bm25(sha="y"))  # one that isn't deterministic, twice
    assert re.fullmatch(r"bm25 [0-9a-f]{8}", first)
    assert first != second
    # What differs on one source alone is no reason to call a system by two names.
    assert labels(
        bm25(),
        bm25(settings={"k1": 1.2}, sha="y"),
        bm25("two"),
        bm25("two", settings={"k1": 1.2}, sha="y"),
    ) == ("bm25 k1=0.9", "bm25 k1=1.2")
    assert labels(
        bm25(),
        on("one", "b", {HIT: hits(2, 0.5)}),
        bm25("two", settings={"k1": 3}),
        on("two", "b", {HIT: hits(2, 0.5)}),
    ) == ("bm25", "b")


@pytest.mark.parametrize(
    "chosen",
    [
        [{"members": "bm25,dense_text,mine.py:Retriever"}, {"members": "bm25,random", "depth": 9}],
        [{"checkpoint": "/a/long/way/to/one"}, {"checkpoint": "/a/long/way/to/other"}],
        [{"weights": {"bm25": w, "mine": 1}} for w in (0.2, 0.8)],
        [{f"setting{n}": n * m for n in range(1, 9)} for m in (1, 2)],
    ],
)
def test_long_settings_are_told_once_below_the_tables(chosen):
    def made(source, place):
        retriever = {"name": "fusion", "settings": chosen[place]}
        done = {"source": source, "settings": chosen[place]}
        return on(
            source,
            "",
            {HIT: hits(place, 0.5)},
            retriever=retriever,
            experiment=done,
            run_sha256=f"{source}{place}",
        )

    both = [made("one", 0), made("one", 1)]
    found = compare_results(both)
    assert found.systems == tuple(f"fusion {r.name.rpartition('.')[2]}" for r in both)
    text = str(found)
    assert max(map(cell_len, text.splitlines())) <= 80
    words = " ".join(found.notes)
    for place in (0, 1):
        for key, value in chosen[place].items():
            told = value if isinstance(value, str) else json.dumps(value)
            assert f"{key}={told}" in words
    # One system has one name on all sources, in whatever order they come.
    more = [*both, made("two", 0), made("two", 1)]
    assert set(compare_results(more).systems) == set(found.systems)
    assert set(compare_results(more[::-1]).systems) == set(found.systems)


def test_a_difference_that_no_metric_can_reach_is_none():
    few = compare_results(made_result(n, {HIT: v}) for n, v in (("a", [1, 0]), ("b", [0, 1])))
    assert "R@5 none: too few queries" in str(few)
    three = compare_results(
        made_result(n, {HIT: v}) for n, v in (("a", [1, 0]), ("b", [0, 1]), ("c", [0, 1]))
    )
    assert "R@5 none: too few queries" in str(three)  # b and c have no differences and no figure
    assert ".000" not in next(n for n in notes(three) if "smallest" in n)
    own = compare_results(
        made_result(n, {"my_own@5": v}) for n, v in (("a", [9, 0]), ("b", [0, 9]))
    )
    assert "none: too few" not in str(own)


def test_all_metrics_are_broken_down_by_the_same_columns():
    """One that is defined on some forms alone, too."""
    n = 90
    columns = {
        "task": [f"task {i % 2}" for i in range(n)],
        "form": [f"form {i % 9}" for i in range(n)],
    }
    some = np.where(np.arange(n) % 9 < 3, hits(5, 0.5, n), np.nan)
    results = [
        made_result(
            name,
            {
                HIT: hits(seed, 0.5, n),
                "pseudo_recall@5": np.where(np.isnan(some), some, hits(seed, 0.4, n)),
            },
            query_groups=columns,
        )
        for seed, name in enumerate("ab")
    ]
    _, *tables = str(compare_results(results)).split(" queries\n")
    assert len(tables) == 2
    for table in tables:
        assert "task 0" in table
        assert "form" not in table


def test_two_results_of_one_run_are_one_system(three):
    one = made_result("a", {HIT: hits(1, 0.5)})
    more = made_result("a", {HIT: hits(1, 0.5), "ndcg@10": hits(3, 0.5)})
    other = made_result("b", {HIT: hits(2, 0.5), "ndcg@10": hits(4, 0.5)})
    found = compare_results([one, more, other])
    assert found.systems == ("a", "b")
    assert set(found.metrics) == {HIT, "ndcg@10"}
    assert "toy/test: 1 result is of the same run as another one" in str(found).replace("\n", " ")
    with pytest.raises(InputError, match="hit_rate@5 is another"):
        compare_results([one, made_result("a", {HIT: hits(9, 0.5)}), other])


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"partial": True}, "partial"),
        ({"comparable": "mini is not M2KR data"}, "not comparable with published numbers: mini"),
        ({"k": 3}, "rankings end at different ranks: a 3, b 500"),
        ({"experiment": {"ties": "trec"}}, "ordered in two ways"),
        ({"search": {"mode": "compressed"}}, "searched approximately"),
    ],
)
def test_what_keeps_them_from_being_alike_is_said(changes, note):
    results = [
        made_result("a", {HIT: hits(1, 0.5)}, **changes),
        made_result("b", {HIT: hits(2, 0.5)}),
    ]
    assert note in " ".join(compare_results(results).notes)


def test_other_images_are_said():
    prints = made_result("a", {HIT: [1]}).fingerprints
    results = [
        made_result(name, {HIT: hits(1, 0.5)}, fingerprints={**prints, "images": mark})
        for name, mark in (("a", "fp1:i"), ("b", "fp1:j"), ("c", None))
    ]
    assert "saw the same ones" in str(compare_results(results))
    assert "saw the same ones" not in str(compare_results(results[1:]))


@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("value", [0.0, 1.0, 1 / 3])
def test_identical_systems_are_equal(n, value):
    results = [made_result(name, {HIT: np.full(n, value)}) for name in "ab"]
    found = compare_results(results)
    (pair,) = found.metrics[HIT].pairs
    assert (pair.p, pair.p_holm, pair.difference, pair.low, pair.high) == (1, 1, 0, 0, 0)
    assert (pair.p_t, pair.smallest_difference) == (1 if n > 1 else None, None)
    assert ("R@5 – (no differences)" in str(found)) == (n > 1)
    assert found.metrics[HIT].letters == {"a": "a", "b": "a"}
    json.dumps(found.as_dict(), allow_nan=False)
    for text in (str(found), found.to_markdown(), found.to_latex(), found.to_csv()):
        assert "nan" not in text


NAMES = [
    "=1+1",
    "näme 🐘",
    "a_b & 50% #1",
    "x|y`*z",
    "[m] <b>",
    "\\cmd{~^}",
    "l" * 70,
    "-dash",
    "@at",
]


@pytest.fixture(scope="module")
def odd():
    return compare_results(
        made_result(name, {m: hits(i, 0.1 * i) for m in (HIT, "hit_rate@1", "mrr@10", "my_own@3")})
        for i, name in enumerate(NAMES)
    )


def test_text_fits_80_columns_and_keeps_whole_numbers(odd):
    text = str(odd)
    assert max(map(cell_len, text.splitlines())) <= 80
    for one in odd.metrics.values():
        for mean in one.means.values():
            assert f"{mean:.3f}".removeprefix("0") in text


def test_a_name_is_one_line_and_no_command_of_a_terminal(odd):
    results = [made_result(n, {HIT: hits(1, 0.5)}) for n in ("a\nb", "\x1b[31mred", "c\td")]
    found = compare_results(results)
    assert "\x1b" not in str(found)
    assert "a b" in str(found)
    for text in (found.to_markdown(), found.to_latex()):
        assert "a b" in text
    assert len(repr(odd).splitlines()) == 1
    assert odd._repr_markdown_() == odd.to_markdown()


def test_latex_is_escaped(odd):
    text = odd.to_latex()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert r"a\_b \& 50\% \#1" in code
    assert r"\textbackslash{}cmd\{\textasciitilde{}\textasciicircum{}\}" in code
    assert code.count(r"\begin{tabular}") == code.count(r"\end{tabular}") > 1
    for line in code.splitlines():
        if line.endswith(r"\\"):
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            assert cells in (5, 7), line
    assert not re.search(r"(?<!\\)[%#_]", code)


def test_markdown_has_a_cell_for_every_head(odd):
    for block in odd.to_markdown().split("\n\n"):
        if block.startswith("|"):
            lines = [re.split(r"(?<!\\)\|", line) for line in block.splitlines()]
            assert len({len(cells) for cells in lines}) == 1, block


def test_csv_has_every_pair_and_no_formula(odd):
    rows = list(csv.DictReader(io.StringIO(odd.to_csv())))
    assert len(rows) == 4 * 36 == len(odd.to_pandas())
    for row in rows:
        assert not row["a"].startswith(("=", "-", "@", "+"))
        assert float(row["difference"]) == pytest.approx(
            float(row["mean_a"]) - float(row["mean_b"]), abs=1e-9
        )
    assert {row["a"] for row in rows} >= {"'=1+1", "'-dash", "näme 🐘"}
    assert set(odd.to_pandas()["a"]) >= {"=1+1", "-dash"}


def test_of_many_pairs_the_neighbours_are_shown(odd):
    assert "of 144 tested pairs are shown: --format csv or json has all" in " ".join(
        str(odd).split()
    )


@pytest.mark.slow
def test_twenty_systems_of_the_largest_split_in_half_a_minute():
    """5,120 queries; hit rates are tested exactly, the other metrics by drawn assignments."""
    rng = np.random.default_rng(0)
    results = []
    for i in range(20):
        rank = 1 + np.floor(rng.exponential(4 + i / 5 + 20 * rng.random(5_120))).astype(int)
        scores = {f"hit_rate@{k}": (rank <= k).astype(float) for k in (1, 5, 10)}
        scores |= {"pseudo_recall@5": (rank <= 6).astype(float), "mrr@10": 1 / rank}
        results.append(made_result(f"s{i}", scores | {"ndcg@10": 1 / np.log2(1 + rank)}))
    start = time.process_time()
    found = compare_results(results)
    text = str(found) + found.to_csv()
    assert time.process_time() - start < 30
    assert text.count("s19") > 100
    exact = {name: {pair.exact for pair in one.pairs} for name, one in found.metrics.items()}
    assert exact == {key: {True} for key in found.metrics} | {"mrr@10": {False}, "ndcg@10": {False}}
