"""Which query is met when, with which passages."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.training.visit_order import VisitOrder


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=6),
    st.integers(0, 3),
)
@settings(max_examples=30)
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
@settings(max_examples=30)
def test_by_weights_no_share_drifts(weights: list[float], visits: int, seed: int) -> None:
    order = VisitOrder([10] * len(weights), weights, seed)
    totals = order.totals(visits)
    assert sum(totals) == visits
    for total, weight in zip(totals, weights, strict=True):
        assert abs(total - visits * weight / sum(weights)) < 1 + 1e-6


def test_visits_by_weight_are_numbered_without_gaps() -> None:
    order = VisitOrder([5, 5, 5], [0.7, 0.299, 0.001], seed=3)
    seen: Counter[int] = Counter()
    for number in range(5 * 1024):
        share, before = order[number]
        assert before == seen[share]
        seen[share] += 1
    assert [seen[share] for share in range(3)] == order.totals(5 * 1024) == [3584, 1531, 5]
