"""Inverted lists, spans and tiles."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m2kr.search.index.ivf import InvertedLists, positions_of, span_offsets, tiles

lengths_lists = st.lists(st.integers(0, 9), max_size=20)


@given(lengths=lengths_lists, seed=st.integers(0, 2**32))
def test_lists_hold_each_document_once_a_centroid_in_order(lengths: list[int], seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 6, sum(lengths))
    lists = InvertedLists.of(codes, np.array(lengths, np.int64), 7)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    assert len(lists.counts) == 7
    for centroid in range(7):
        wanted = sorted(set(owners[codes == centroid].tolist()))
        assert lists.members(np.array([centroid])).tolist() == wanted
        assert lists.counts[centroid] == len(wanted)


@given(lengths=lengths_lists, data=st.data())
def test_spans_are_ranges_one_after_another(lengths: list[int], data: st.DataObject) -> None:
    offsets = span_offsets(np.array(lengths, np.int64))
    numbers = st.lists(st.integers(0, len(lengths) - 1)) if lengths else st.just([])
    chosen = data.draw(numbers)
    wanted = [p for i in chosen for p in range(offsets[i], offsets[i + 1])]
    assert positions_of(offsets, np.array(chosen, np.int64)).tolist() == wanted


@given(lengths=lengths_lists, budget=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_tiles_cover_each_document_once_and_repeat_only_last_tokens(
    lengths: list[int], budget: int, seed: int
) -> None:
    offsets = span_offsets(np.array(lengths, np.int64))
    chosen = np.random.default_rng(seed).permutation(len(lengths))
    seen = []
    for places, tokens in tiles(chosen, offsets, budget):
        rows = tokens.reshape(len(places), -1)
        assert len(places) == 1 or rows.size <= budget
        for place, row in zip(places, rows.tolist(), strict=True):
            start, end = offsets[chosen[place] : chosen[place] + 2]
            assert row[: end - start] == list(range(start, end))
            assert set(row[end - start :]) <= {end - 1}
            seen.append(int(chosen[place]))
    assert sorted(seen) == [i for i, length in enumerate(lengths) if length]
