"""Grouping of members into requests: all covered once, and never above the allowance."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.build.images.layout import in_order
from m2kr.build.images.spans import group

SPANS = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 300)), max_size=60)


def laid_out(spans: list[tuple[int, int]]) -> tuple["np.ndarray", "np.ndarray"]:
    """Starts and ends from gaps and lengths."""
    ends = np.cumsum([gap + length for gap, length in spans]).astype(np.int64)
    return ends - np.array([length for _, length in spans], np.int64), ends


@settings(deadline=None)
@given(SPANS, st.integers(0, 5000), st.integers(0, 250), st.integers(1, 2000))
def test_groups_cover_every_span_once_within_the_allowance(spans, allowance, widest, most):
    starts, ends = laid_out(spans)
    groups = group(starts, ends, allowance=allowance, widest=widest, most=most)
    assert [at for first, last in groups for at in range(first, last)] == list(range(len(spans)))
    wanted = int((ends - starts).sum())
    read = sum(int(ends[last - 1] - starts[first]) for first, last in groups)
    assert read - wanted <= allowance
    for first, last in groups:
        assert last > first
        assert last - first == 1 or ends[last - 1] - starts[first] <= most
        assert (starts[first + 1 : last] - ends[first : last - 1] <= widest).all()


@settings(deadline=None)
@given(SPANS)
def test_neighbours_without_a_gap_cost_nothing_to_join(spans):
    starts, ends = laid_out([(0, length) for _, length in spans])
    assert len(group(starts, ends, allowance=0)) == bool(spans)


@settings(deadline=None)
@given(SPANS, st.randoms())
def test_a_layout_reads_5_percent_more_than_the_members_at_most(spans, random):
    shuffled = list(zip(*laid_out(spans), strict=True))
    random.shuffle(shuffled)
    starts, ends = (np.array(each, np.int64) for each in zip(*shuffled, strict=True)) if spans else (
        np.zeros(0, np.int64),
    ) * 2  # fmt: skip
    stored = np.maximum(ends - starts - 1, 0)
    names = [str(start) for start in starts]
    layout = in_order(names, starts, ends, stored, stored)
    assert [int(name) for name in layout.names] == sorted(map(int, names))
    assert [names[row] for row in layout.rows] == list(layout.names)
    cost = layout.cost()
    headers = len(spans)
    assert cost.transfer <= max(1.05 * cost.content, cost.content + headers)
    assert cost.members == len(spans)
