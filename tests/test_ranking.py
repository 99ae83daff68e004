import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import UsageError
from m2kr.ranking import TopK, id_ranks

ids_of_pool = st.lists(st.sampled_from(["a", "b", "é", "z", "Ω", "\U0001f600"]), min_size=1)


def naive(scores, ids, k):
    """Best rows of one query: score descending, id ascending by UTF-8, each id once."""
    best = {}
    for row, (score, passage) in enumerate(zip(scores, ids, strict=True)):
        if passage not in best or score > best[passage][0]:
            best[passage] = (score, row)
    order = sorted(best, key=lambda p: (-best[p][0], p.encode()))[:k]
    return [best[p][1] for p in order], [best[p][0] for p in order]


def test_id_ranks_follow_utf8_bytes_and_repeated_ids_share_one():
    ids = pa.chunked_array([["b", "\U0001f600"], ["a", "\uffff", "b"]])
    assert id_ranks(ids).tolist() == [1, 3, 0, 2, 1]


def test_ties_at_the_boundary_keep_the_smaller_id():
    best = TopK(1, id_ranks(pa.array(["d", "c", "b", "a"])), 2)
    best.push_block(np.array([[1.0, 1.0]]), 0)
    best.push_block(np.array([[1.0, 1.0]]), 2)
    rows, scores = best.result()
    assert rows.tolist() == [[3, 2]]
    assert scores.tolist() == [[1.0, 1.0]]


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    ids=ids_of_pool,
    queries=st.integers(1, 3),
    k=st.integers(1, 8),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_any_blocks_give_the_naive_answer(data, ids, queries, k, cuts):
    scores = np.array(
        data.draw(
            st.lists(
                st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=len(ids), max_size=len(ids)),
                min_size=queries,
                max_size=queries,
            )
        )
    )
    edges = sorted({0, len(ids), *(c for c in cuts if c < len(ids))})
    blocks = list(itertools.pairwise(edges))
    best = TopK(queries, id_ranks(pa.array(ids)), k)
    best._room = data.draw(st.sampled_from([1, 5, 1 << 16]))
    for low, high in data.draw(st.permutations(blocks)):
        best.push_block(scores[:, low:high], low)
    rows, values = best.result()
    for query in range(queries):
        expected = naive(scores[query], ids, k)
        assert rows[query].tolist() == expected[0]
        assert values[query].tolist() == expected[1]


def test_single_pairs_and_short_lists_are_padded():
    best = TopK(2, id_ranks(pa.array(["a", "b", "c"])), 2)
    best.push(np.array([1]), np.array([2]), np.array([3.0]))
    rows, scores = best.result()
    assert rows.tolist() == [[-1, -1], [2, -1]]
    assert scores.tolist() == [[-np.inf, -np.inf], [3.0, -np.inf]]


def test_k_must_be_positive():
    with pytest.raises(UsageError, match="k is 0"):
        TopK(1, np.arange(3), 0)
