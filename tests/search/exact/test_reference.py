import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.search.exact import reference
from m2kr.search.exact.reference import (
    EMPTY,
    maxsim,
    maxsim_many,
    search_by_reference,
    similarities,
)


def naive(query, document, dtype=np.float16):
    """The definition, one multiplication at a time."""
    rows = [r for r in query.astype(dtype) if r.any()]
    tokens = [t for t in document.astype(dtype) if t.any()]
    if not tokens:
        return EMPTY * len(rows) + 0.0
    total = 0.0
    for row in rows:
        best = -np.inf
        for token in tokens:
            dot = 0.0
            for a, b in zip(row.tolist(), token.tolist(), strict=True):
                dot += a * b
            best = max(best, dot)
        total += best
    return total + 0.0


def matrix(rng, rows, dim, scale=1.0):
    return rng.normal(size=(rows, dim)) * scale / np.sqrt(dim)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from([np.float16, np.float32]),
    scale=st.sampled_from([1.0, 30.0]),
)
def test_equals_the_definition_bit_for_bit(seed, dtype, scale):
    rng = np.random.default_rng(seed)
    query = matrix(rng, rng.integers(1, 6), 13, scale)
    document = matrix(rng, rng.integers(0, 6), 13, scale)
    query[rng.random(len(query)) < 0.3] = 0
    document[rng.random(len(document)) < 0.3] = 0
    assert maxsim(query, document, dtype) == naive(query, document, dtype)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), dtype=st.sampled_from([np.float16, np.float32]))
def test_a_score_depends_on_neither_position_nor_neighbours(seed, dtype):
    rng = np.random.default_rng(seed)
    query = matrix(rng, 5, 16)
    documents = [matrix(rng, n, 16) for n in rng.integers(0, 5, 6)]
    documents.append(documents[0])
    order = rng.permutation(7)
    shuffled = [documents[i] for i in order]
    offsets = np.cumsum([0, *map(len, shuffled)])
    many = maxsim_many(query, np.concatenate(shuffled), offsets, dtype)
    assert many.tolist() == [maxsim(query, documents[i], dtype) for i in order]
    assert many[order == 0] == many[order == 6]


def test_blas_gives_the_canonical_bits_where_it_is_used():
    rng = np.random.default_rng(4)
    query, tokens = (matrix(rng, n, 128).astype(np.float16) for n in (40, 300))
    fast = similarities(query, tokens, np.float16)
    looped = similarities(
        query, tokens, np.float32
    )  # same values, but the guard sends it to the loop
    assert fast.tobytes() == looped.tobytes()


def test_long_vectors_take_the_loop():
    """Beyond the bound sums do round, and the order that counts is first to last."""
    rng = np.random.default_rng(5)
    query, document = matrix(rng, 4, 64, 3000.0), matrix(rng, 6, 64, 3000.0)
    assert maxsim(query, document) == naive(query, document)


def test_zero_query_rows_are_neutral_and_zero_tokens_are_masked():
    query, document = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[-1.0, -0.5]])
    assert maxsim(query, document) == -1.5
    assert maxsim(np.vstack([query, np.zeros((3, 2))]), document) == -1.5
    assert maxsim(query, np.vstack([np.zeros((1, 2)), document])) == -1.5


def test_empty_documents_come_last_with_a_finite_score():
    query = np.array([[1.0, 0.0], [0.0, 1.0]])
    tokens = np.array([[-1.0, -1.0], [1.0, 1.0]])
    offsets = np.array([0, 0, 1, 1, 2, 2])
    assert maxsim_many(query, tokens, offsets).tolist() == [2 * EMPTY, -2, 2 * EMPTY, 2, 2 * EMPTY]
    assert maxsim(np.zeros((2, 2)), np.zeros((0, 2))) == 0


def test_maxsim_of_a_small_example_by_hand():
    query = np.array([[1.0, 0.0], [0.0, 2.0]])
    document = np.array([[0.5, 0.25], [0.0, 1.0], [-1.0, 0.0]])
    assert maxsim(query, document) == 0.5 + 2.0


@pytest.mark.parametrize("tokens_a_block", [1, 7, 4096])
def test_search_ranks_by_score_then_id_whatever_the_blocks(monkeypatch, tokens_a_block):
    monkeypatch.setattr(reference, "_BLOCK_TOKENS", tokens_a_block)
    rng = np.random.default_rng(6)
    documents = [matrix(rng, n, 8) for n in rng.integers(0, 6, 40)]
    documents += documents[:10]
    queries = [matrix(rng, n, 8) for n in (3, 1, 5)]
    offsets = np.cumsum([0, *map(len, documents)])
    ranks = rng.permutation(len(documents))
    rows, scores = search_by_reference(queries, np.concatenate(documents), offsets, 12, ranks)
    for query, found, values in zip(queries, rows, scores, strict=True):
        exact = [naive(query, d) for d in documents]
        expected = sorted(range(50), key=lambda i: (-exact[i], ranks[i]))[:12]
        assert found.tolist() == expected
        assert values.tolist() == [exact[i] for i in expected]
