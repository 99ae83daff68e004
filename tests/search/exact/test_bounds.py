"""The bounds hold on hostile pools, are reached, and a smaller one gives wrong answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import token_corpora

from m2kr.search.exact import bounds, canonical, passes, reference, search
from m2kr.search.store.reader import ArraySource

NAMES = list(passes.PASSES)


def upper(name, pool, queries):
    """(passages of one length x queries) from one pass."""
    one = passes.PASSES[name]
    rows = torch.from_numpy(np.concatenate([q.astype(np.float16) for q in queries])).float()
    coded = one.code_tokens(torch.from_numpy(np.stack(pool)))
    asked = passes.code_queries(one, rows, [len(q) for q in queries])
    codes, shape = coded.codes.flatten(0, 1), (len(pool), len(pool[0]))
    maxima = passes.maxima(one, codes, shape, asked)
    return passes.upper(one, maxima, coded, asked).double().numpy()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(token_corpora.KINDS),
    length=st.integers(1, 20),
)
def test_no_canonical_score_is_above_its_bound(name, seed, kind, length):
    rng = np.random.default_rng(seed)
    pool = kind(rng, np.full(7, length))
    queries = [q for q in token_corpora.queries(rng, pool, 4) if q.any()]
    if not queries:
        return
    found = upper(name, pool, queries)
    for column, query in enumerate(queries):
        exact_scores = [reference.maxsim(query, tokens) for tokens in pool]
        real = [tokens.any() for tokens in pool]
        assert (found[real, column] >= np.array(exact_scores)[real]).all()


def crowd(name, rng, count=3000, dim=96):
    """A query and many one-token passages that a pass sees as wrongly as it can.

    A token's numbers are equal, so that rounding moves them the same way, along the query: where
    the proof uses Cauchy's inequality, it is an equality. They differ in how many are not zero.
    """
    tokens = np.zeros((count, 1, dim), np.float16)
    if name == "float32":
        tokens[:] = rng.permuted(
            np.tile(rng.normal(size=dim).astype(np.float16), (count, 1)), axis=1
        )[:, None]
        return np.full((1, dim), 0.1, np.float32), tokens
    query = np.full((1, dim), 0.125, np.float32)
    query[0, 0] = 0
    width = rng.integers(dim // 2, dim, count)
    numbers = rng.uniform(0.25, 1.0, count) * (dim / 2) / width
    tokens[:, 0] = np.where(np.arange(dim) <= width[:, None], numbers[:, None], 0)
    # Not seen by the query; for int8 it sets the step.
    tokens[:, 0, 0] = rng.uniform(4.0, 8.0, count)
    return query, tokens


@pytest.mark.parametrize(("name", "share"), [("bf16", 0.5), ("int8", 0.5), ("float32", 0.0)])
def test_a_smaller_margin_gives_a_wrong_answer(monkeypatch, name, share):
    rng = np.random.default_rng(14)
    query, pool = crowd(name, rng)
    right = np.array([reference.maxsim(query, tokens) for tokens in pool])
    full = upper(name, pool, [query])[:, 0]
    assert (full >= right).all()
    margin, unit = bounds.margin, bounds.BF16_UNIT
    monkeypatch.setattr(bounds, "margin", lambda *args: share * margin(*args))
    monkeypatch.setattr(bounds, "BF16_UNIT", share * unit)
    small = upper(name, pool, [query])[:, 0]
    assert (small < right).any(), "the margin is more than twice what can happen"
    # Two passages: the better one is bounded below the score of the other, which looks better.
    better = int(np.argmin(small - right))
    others = (small > small[better]) & (right > small[better]) & (right <= right[better])
    others[better] = False
    worse = int(np.flatnonzero(others)[0])
    pair = ArraySource(pool[[better, worse]].reshape(2, -1), np.array([0, 1, 2]))

    def first():
        found = search.search_exactly([query], pair, 1, np.arange(2), passes=(name,))
        return found[0].tolist(), found[1].tolist()

    assert first() != ([[0]], [[right[better]]])
    monkeypatch.undo()
    assert first() == ([[0]], [[right[better]]])


@pytest.mark.parametrize("dim", [1, 3, 128, 2000])
def test_lengths_are_never_too_short(dim):
    rng = np.random.default_rng(15)
    vectors = rng.normal(size=(200, dim)).astype(np.float16).astype(np.float32)
    found = bounds.widened(torch.from_numpy(vectors)).double().numpy()
    true = np.sqrt((vectors.astype(np.float64) ** 2).sum(1))
    assert (found >= true).all()
    assert (found <= true * 1.01).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(token_corpora.KINDS))
def test_fast_canonical_scores_are_the_reference_s(seed, kind):
    from m2kr.search.store.reader import Block

    rng = np.random.default_rng(seed)
    pool = kind(rng, rng.integers(1, 30, 12))
    pool[3] = pool[3][:0]
    offsets = np.cumsum([0, *map(len, pool)])
    block = Block(0, np.concatenate(pool), offsets)
    norms = [np.linalg.norm(t.astype(np.float64), axis=1) for t in pool]
    longest = np.array([n.max(initial=0) * 1.0001 for n in norms], np.float32)
    shortest = np.array([n.min(initial=9) for n in norms], np.float32)
    numbers = rng.permutation(12)[:9]
    for query in canonical.rounded_queries(token_corpora.queries(rng, pool, 3), token_corpora.DIM):
        if len(query.rows):
            found = canonical.canonical_scores(query, block, numbers, longest, shortest)
            right = [reference.maxsim(query.rows, pool[i]) for i in numbers]
            assert found.tolist() == right


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 600), max_size=40).map(lambda x: np.array(x, np.int64)),
    tokens=st.integers(1, 3000),
)
def test_groups_hold_every_passage_once_and_waste_little(lengths, tokens):
    seen = []
    for places, longest in canonical.by_length(lengths, tokens):
        assert longest == lengths[places].max()
        assert longest * 4 <= lengths[places].min() * 5
        assert len(places) == 1 or longest * len(places) <= tokens
        seen += places.tolist()
    assert sorted(seen) == np.flatnonzero(lengths).tolist()
