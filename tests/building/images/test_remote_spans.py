"""Grouping of members into requests: all covered once, and little is read for nothing."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.building.images.remote_archive import MOST_BYTES, SLACK, WIDEST_GAP, Place, group_members

GAPS = st.integers(0, 200) | st.integers(WIDEST_GAP - 5, WIDEST_GAP + 5)
SIZES = st.integers(0, 300) | st.integers(1 << 20, 6 << 20)


def laid_out(members: list[tuple[int, int]], header: int) -> list[Place]:
    """Members of some gaps before them and bytes of content."""
    places, end = [], 0
    for gap, size in members:
        start, end = end + gap, end + gap + header + size
        places.append(Place("x", start, end, size, size, 0))
    return places


@settings(deadline=None)
@given(st.lists(st.tuples(GAPS, SIZES), max_size=60), st.integers(0, 60))
def test_every_member_is_read_once_and_5_percent_more_at_most(members, header):
    places = laid_out(members, header)
    found = group_members(places)
    assert [at for span in found for at in range(span.first, span.last)] == list(range(len(places)))
    content, headers = sum(place.stored for place in places), header * len(places)
    read = sum(span.end - span.start for span in found)
    assert content + headers <= read <= max((1 + SLACK) * content, content + headers)
    for span in found:
        own = places[span.first : span.last]
        assert (span.start, span.end) == (own[0].start, own[-1].end)
        assert span.memory == sum(place.size for place in own)
        assert len(own) == 1 or span.end - span.start <= MOST_BYTES
        assert all(b.start - a.end <= WIDEST_GAP for a, b in pairwise(own))


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(0, 60))
def test_neighbours_without_a_gap_cost_nothing_to_join(sizes, header):
    assert len(group_members(laid_out([(0, size) for size in sizes], header))) == bool(sizes)
