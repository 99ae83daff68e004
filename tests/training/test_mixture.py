"""Which query is met when, with which passages."""

from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import m2kr
from m2kr.data.records import Passages
from m2kr.errors import InputError, UsageError
from m2kr.training.batch import Visit
from m2kr.training.draws import Purpose, draw_uniform, generator
from m2kr.training.mixture import Mixture, open_splits
from m2kr.training.recipe import Data, Negatives, Recipe, Share, Steps
from m2kr.training.visit_order import VisitOrder

POOL = 40  # passages of the source `one`, of which 38 and 39 read alike
Grades = dict[str, float]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources: `one` with several positives a query, `two` with its own passages and grades."""
    folder = tmp_path_factory.mktemp("data")
    photos = folder / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(bytes([number]))
    texts = {f"p{n}": f"text number {min(n, 38)}" for n in range(POOL)}
    queries = [
        {
            "id": f"q{n}",
            "question": f"what is {n}?" if n % 3 else "",
            "positives": [f"p{n}", f"p{n + 20}"] if n < 18 else [f"p{n + 20}"],
        }
        | ({"img_path": f"{n % 3}.jpg"} if n % 2 or not n % 3 else {})
        for n in range(20)
    ]
    m2kr.from_records(texts, queries, name="one", split="train", images=photos, data=folder)
    graded: list[dict[str, object]] = [
        {"id": f"g{n}", "question": f"why {n}?", "positives": {f"b{n}": 2.0, "b9": 1.0}}
        for n in range(6)
    ]
    others = {f"b{n}": f"another text {n}" for n in range(10)}
    m2kr.from_records(others, graded, name="two", split="train", relevance_threshold=2, data=folder)
    return folder


def mixture(
    root: Path,
    *shares: Share,
    negatives: Negatives = Negatives(uniform=2),  # noqa: B008 - it is frozen
    seed: int = 0,
    shuffle: bool = False,
) -> Mixture:
    recipe = Recipe(
        "x",
        data=Data(shares or (Share("one"), Share("two")), shuffle_labels=shuffle),
        negatives=negatives,
        steps=Steps(seed=seed),
    )
    return Mixture(recipe, open_splits(recipe, root))


def visits(made: Mixture, count: int, start: int = 0) -> list[Visit]:
    return [made.visit(number) for number in range(start, start + count)]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(0, 3))
@settings(max_examples=20)
def test_an_epoch_visits_each_share_as_often_as_its_rows(quotas: list[int], seed: int) -> None:
    order = VisitOrder(quotas, seed=seed)
    size = order.epoch_visits
    for epoch in (0, 2):
        met = [order[epoch * size + place] for place in range(size)]
        for share, quota in enumerate(quotas):
            own = [before for number, before in met if number == share]
            assert own == list(range(epoch * quota, (epoch + 1) * quota))


@given(
    st.lists(st.floats(0.001, 1000), min_size=1, max_size=6),
    st.integers(0, 5000),
    st.integers(0, 3),
)
@settings(max_examples=20)
def test_by_weights_no_share_drifts(weights: list[float], number: int, seed: int) -> None:
    totals = VisitOrder([10] * len(weights), weights, seed).totals(number)
    assert sum(totals) == number
    for total, weight in zip(totals, weights, strict=True):
        assert abs(total - number * weight / sum(weights)) < 1 + 1e-6


def test_visits_by_weight_are_numbered_without_gaps() -> None:
    order = VisitOrder([5, 5, 5], [0.7, 0.299, 0.001], seed=3)
    seen: Counter[int] = Counter()
    for number in range(5 * 1024):
        share, before = order[number]
        assert before == seen[share]
        seen[share] += 1
    assert [seen[share] for share in range(3)] == order.totals(5 * 1024) == [3584, 1531, 5]


def test_each_row_is_visited_as_often_as_it_is_repeated(root: Path) -> None:
    made = mixture(root, Share("one", repeat=3), Share("two"))
    assert made.epoch_visits == 3 * 20 + 6
    orders = []
    for epoch in range(2):
        met = [(v.share, v.row) for v in visits(made, 66, 66 * epoch)]
        times = Counter(met)
        assert times == {(0, row): 3 for row in range(20)} | {(1, row): 1 for row in range(6)}
        orders.append(met)
    assert orders[0] != orders[1]
    other = mixture(root, Share("one", repeat=3), Share("two"), seed=1)
    assert [(v.share, v.row) for v in visits(other, 66)] != orders[0]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=6)
def test_a_visit_is_the_same_in_whatever_order_it_is_asked_for(
    root: Path, world: int, batch: int, accumulate: int, random: "object"
) -> None:
    """Ranks and micro-batches part the visits; those met before don't matter."""
    steps = 4
    whole = visits(mixture(root), steps * accumulate * world * batch)
    numbers = [
        [((s * accumulate + a) * world + r) * batch + b for b in range(batch)]
        for s in range(steps)
        for a in range(accumulate)
        for r in range(world)
    ]
    assert sorted(chain.from_iterable(numbers)) == list(range(len(whole)))
    random.shuffle(numbers)  # type: ignore[attr-defined]
    again = mixture(root)
    for part in numbers:
        assert [again.visit(n) for n in part] == [whole[n] for n in part]


@pytest.mark.parametrize("pool", ["source", "mixture"])
def test_negatives_are_neither_right_nor_read_like_what_is_right(root: Path, pool: str) -> None:
    made = mixture(root, negatives=Negatives(uniform=3, pool=pool))  # type: ignore[arg-type]
    origins: set[int] = set()
    for visit in visits(made, 200):
        positive, *negatives = visit.passages
        right = made.right(visit)
        texts = {made.shares[visit.share].texts[row] for row in right}
        assert positive.origin == "positive" and positive.row in right
        assert positive.share == visit.share
        assert len({(each.share, each.row) for each in negatives}) == 3
        for each in negatives:
            assert each.origin == "uniform"
            assert each.share != visit.share or each.row not in right
            assert made.shares[each.share].texts[each.row] not in texts
            origins.add(abs(each.share - visit.share))
    assert origins == ({0} if pool == "source" else {0, 1})


def test_every_positive_is_drawn_and_what_is_graded_below_the_threshold_is_neither(
    root: Path,
) -> None:
    made = mixture(root, Share("two"), negatives=Negatives(uniform=4))
    for visit in visits(made, 60):
        assert visit.passages[0].row == visit.row
        assert all(each.row != 9 for each in visit.passages)
    one = mixture(root, Share("one"))
    drawn = {(visit.row, visit.passages[0].row) for visit in visits(one, 400)}
    assert len(drawn) == 18 * 2 + 2


def test_uniform_draws_are_uniform_over_the_whole_pool(root: Path) -> None:
    """Also over rows beyond the third, which the official script never draws."""
    made = mixture(root, Share("one"), negatives=Negatives(uniform=1))
    met: Counter[int] = Counter()
    expected = np.zeros(POOL)
    for visit in visits(made, 3000):
        met[visit.passages[1].row] += 1
        right = {*made.right(visit)}
        if right & {38, 39}:
            right |= {38, 39}  # the same text
        expected[[row for row in range(POOL) if row not in right]] += 1 / (POOL - len(right))
    counts = np.array([met[row] for row in range(POOL)])
    # 39 degrees of freedom: 72 is exceeded once in a thousand seeds, and the seed is fixed.
    assert ((counts - expected) ** 2 / expected).sum() < 72


@given(st.integers(1, 30), st.sets(st.integers(0, 29)), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=60)
def test_draws_end_even_where_nearly_all_is_refused(
    size: int, refused: set[int], count: int, seed: int
) -> None:
    rng = generator(seed, Purpose.VISIT)
    drawn = draw_uniform(rng, size, count, refused.__contains__)
    allowed = {*range(size)} - refused
    assert len(set(drawn)) == len(drawn) == min(count, len(allowed))
    assert set(drawn) <= allowed


def test_a_pool_that_two_shares_have_counts_once(root: Path) -> None:
    images, texts = Share("one", tasks=("IQ2T", "I2T")), Share("one", tasks=("Q2T",))
    made = mixture(root, images, texts)
    assert made.facts()["corpus"] == POOL
    for visit in visits(made, 40):
        assert {each.share for each in visit.passages} == {visit.share}


def test_tasks_and_take_choose_rows(root: Path) -> None:
    made = mixture(root, Share("one", tasks=("Q2T",)))
    facts = made.facts()["sources"][0]
    assert facts["other_tasks"] == 14 and facts["rows_visited"] == 6
    assert all(made.shares[0].image(visit.row) is None for visit in visits(made, 20))
    some = [mixture(root, Share("one", take=5), seed=seed) for seed in (0, 0, 1)]
    rows = [{visit.row for visit in visits(each, 15)} for each in some]
    assert rows[0] == rows[1] != rows[2]
    assert [len(each) for each in rows] == [5, 5, 5]


def test_shuffled_labels_are_those_of_other_queries(root: Path) -> None:
    made = mixture(root, Share("one"), shuffle=True)
    dealt = {}
    for visit in visits(made, 100):
        other = made.labelled_by(0, visit.row)
        assert other != visit.row and visit.passages[0].row in made.shares[0].positives(other)
        assert not {each.row for each in visit.passages[1:]} & {*made.right(visit)}
        dealt[visit.row] = other
    assert sorted(dealt.values()) == sorted(dealt)


def test_the_fingerprint_is_of_what_visits_depend_on(root: Path) -> None:
    prints = [
        mixture(root, *shares).fingerprint
        for shares in ((), (Share("two"), Share("one")), (Share("one", take=5), Share("two")))
    ]
    assert mixture(root).fingerprint == prints[0]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("shares", "negatives", "words"),
    [
        ((Share("one", weight=1.0), Share("two")), None, "weight"),
        ((Share("one", weight=1e-9), Share("two", weight=1.0)), None, "one: weight 1e-09"),
        ((Share("one", weight=-1.0),), None, "weight"),
        ((Share("one", weight=float("nan")),), None, "weight"),
        ((Share("one", weight=1.0, repeat=2),), None, "repeat"),
        ((Share("one", repeat=0),), None, "repeat"),
        ((Share("one", take=21),), None, "20 rows"),
        ((Share("one", take=0),), None, "take"),
        ((Share("one", tasks=("QQ",)),), None, "QQ"),
        ((Share("two", tasks=("I2T",)),), None, "two/train"),
        ((Share("none"),), None, "none"),
        ((Share("two"),), Negatives(uniform=9), "of 10 passages"),
        ((Share("one"),), Negatives(mined=1), "mined"),
    ],
)
def test_impossible_mixtures_are_refused(
    root: Path, shares: tuple[Share, ...], negatives: Negatives | None, words: str
) -> None:
    with pytest.raises((UsageError, InputError, m2kr.M2KRError), match=words):
        mixture(root, *shares, negatives=negatives or Negatives())


def test_a_recipe_without_data_and_data_without_answers_are_refused(
    tmp_path: Path,
) -> None:
    recipe = Recipe("x", data=Data(()))
    with pytest.raises(m2kr.M2KRError, match="nothing to train on"):
        Mixture(recipe, [])
    for passages, positives, words in (
        ({"p": "text"}, ["lost"], "no query is left"),
        ({}, [], "no passages"),
    ):
        try:
            m2kr.from_records(
                passages,
                [{"id": "q", "question": "why?", "positives": positives}],
                name="empty",
                split="train",
                data=tmp_path,
                drop_missing=True,
            )
        except m2kr.M2KRError:
            continue  # such data can't even be built
        with pytest.raises(InputError, match=words):
            mixture(tmp_path, Share("empty"))


def test_what_evaluation_counts_as_a_right_passage_is_no_negative(root: Path) -> None:
    """E-VQA's pool has passages that share an id, and are scored as one of them."""
    share = Share("one", where=("question_id=q1",))
    recipe = Recipe("x", data=Data((share,)), negatives=Negatives(uniform=30))
    (split,) = open_splits(recipe, root)
    counts_as = [{2: "p1", 5: "p21", 7: "nobody"}.get(n) for n in range(POOL)]
    pool = split.passages.add_column("scored_as", counts_as)
    split.__dict__["passages_view"] = Passages(pool, split.images)
    made = Mixture(recipe, [split])
    met = visits(made, 30)
    negatives = {drawn.row for visit in met for drawn in visit.passages[1:]}
    assert negatives == {*range(POOL)} - {1, 21, 2, 5}
    assert {visit.passages[0].row for visit in met} == {1, 21}
    assert {*made.right(met[0])} == {1, 21, 2, 5}
