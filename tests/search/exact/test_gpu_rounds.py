"""The rounds for GPUs: what the reference gives, to the bit, and not much scored for it.

They run on a GPU if there is one, else on the CPU.
"""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import token_corpora

from m2kr.errors import InputError
from m2kr.search.exact import (
    canonical,
    choose,
    gpu_fused,
    gpu_rounds,
    passes,
    reference,
    search,
)
from m2kr.search.exact.reference import EMPTY
from m2kr.search.store.reader import ArraySource

DIM = token_corpora.DIM
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def flat(pool, dim=DIM):
    offsets = np.cumsum([0, *map(len, pool)])
    return ArraySource(np.concatenate([np.zeros((0, dim), np.float16), *pool]), offsets)


def same(queries, pool, k, ranks=None, dim=DIM, **options):
    """Searches both ways, compares bits, gives what it took."""
    source = flat(pool, dim)
    ranks = np.arange(len(pool)) if ranks is None else ranks
    numbers, scores, stats = search.search_exactly(
        queries,
        source,
        k,
        ranks,
        **{"threads": 2, "passes": ("fp16",), "device": DEVICE, **options},
    )
    right = reference.search_by_reference(queries, source.vectors, source.offsets, k, ranks)
    assert numbers.tolist() == right[0].tolist()
    assert scores.tobytes() == right[1].tobytes()
    return stats


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(token_corpora.KINDS),
    count=st.integers(1, 60),
    longest=st.sampled_from([1, 3, 12, 40]),
    k=st.sampled_from([1, 5, 20, 100]),
    block=st.sampled_from([64, 300, 4096]),
)
def test_equals_the_reference_on_hostile_pools(seed, kind, count, longest, k, block):
    rng = np.random.default_rng(seed)
    pool, ranks, queries = token_corpora.hostile(rng, kind, count, longest)
    with pytest.MonkeyPatch.context() as patch:
        # Small blocks, parts, products and chunks, so that a small pool has many.
        patch.setattr(search, "TILE_TOKENS", block)
        patch.setattr(gpu_rounds, "_GROUP_ROWS", 2 * gpu_fused.PART)
        patch.setitem(gpu_rounds._PRODUCTS, DEVICE, 64 * block)
        patch.setitem(gpu_rounds._PAIR_BYTES, DEVICE, 5000)
        same(queries, pool, k, ranks, memory=1)


@pytest.mark.parametrize("dim", [24, 128])
def test_little_more_than_the_best_is_scored(dim):
    rng = np.random.default_rng(1)
    pool = [
        token_corpora.unit(rng.normal(size=(n, dim))).astype(np.float16)
        for n in [*rng.integers(1, 60, 400), 512, 300, 511]
    ]
    sizes = (1, 32, 33, 70, 320)
    queries = [token_corpora.unit(rng.normal(size=(n, dim))).astype(np.float32) for n in sizes]
    queries[1][:20] = pool[-1][:20]
    stats = same(queries, pool, 10, rng.permutation(len(pool)), dim)
    assert 10 * len(queries) <= stats.scored <= 12 * len(queries)
    assert stats.left == {"fp16": stats.scored, "float32": stats.scored}


def test_passages_without_tokens_come_last():
    rng = np.random.default_rng(2)
    pool = token_corpora.negative(rng, [3, 0, 2, 0])
    same([np.ones((2, DIM)), np.ones((40, DIM))], pool, 3)
    same([np.ones((2, DIM))], pool, 9)
    found = search.search_exactly(
        [np.ones((2, DIM))], flat(pool), 9, np.arange(4), passes=("fp16",)
    )
    assert found[0][0, 2:].tolist() == [1, 3]
    assert found[1][0, 2:].tolist() == [2 * EMPTY, 2 * EMPTY]
    same([np.ones((2, DIM))], [tokens[:0] for tokens in pool], 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    pool = token_corpora.ordinary(np.random.default_rng(7), [3, 3, 2])
    pool[1][2, 5] = value
    with pytest.raises(InputError, match="passage 1: "):
        search.search_exactly(
            [np.ones((2, DIM))], flat(pool), 1, np.arange(3), passes=("fp16",), device=DEVICE
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=60))
def test_parts_hold_every_query_once_and_fill_up_little(sizes):
    queries = [canonical.RoundedQuery(np.full((n, 1), n, np.float16), 1.0) for n in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_rounds, "_GROUP_ROWS", 1000)
        found = gpu_rounds.group_queries(queries, 3, np.arange(9), torch.device("cpu"))
    assert sorted(np.concatenate([part.numbers for part in found])) == list(range(len(sizes)))
    for part in found:
        count, width, _ = part.rows.shape
        own = [sizes[number] for number in part.numbers]
        assert width % gpu_fused.PART == 0
        assert all(width <= max(1.25 * passes.round_up(n, gpu_fused.PART), n) for n in own)
        assert count == 1 or count * width <= 1000
        assert (part.rows != 0).sum((1, 2)).tolist() == own
        assert part.rows.amax((1, 2)).tolist() == [float(np.float16(n)) for n in own]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from([token_corpora.ordinary, token_corpora.near_ties, token_corpora.tiny]),
    room=st.sampled_from([1, 20_000, 1 << 20]),
)
def test_scores_of_pairs_are_the_reference_s(seed, kind, room):
    rng = np.random.default_rng(seed)
    pool = [tokens[tokens.any(1)] for tokens in kind(rng, rng.integers(1, 30, 12))]
    pool = [tokens for tokens in pool if len(tokens)]
    source = flat(pool)
    queries = canonical.rounded_queries(token_corpora.queries(rng, pool, 4), DIM)
    rows = np.zeros((4, gpu_fused.PART, DIM), np.float16)
    for place, query in zip(rows, queries, strict=True):
        place[: len(query.rows)] = query.rows
    sizes = np.diff(source.offsets)
    chosen, passages = rng.integers(0, 4, 50), rng.integers(0, len(pool), 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gpu_rounds._PAIR_BYTES, DEVICE, room)
        found = gpu_rounds.canonical_pair_scores(
            torch.from_numpy(rows).to(DEVICE),
            torch.from_numpy(source.vectors).to(DEVICE),
            torch.from_numpy(source.offsets[:-1]).to(DEVICE),
            torch.from_numpy(sizes.astype(np.int32)).to(DEVICE),
            sizes,
            chosen,
            passages,
        )
    right = [
        reference.maxsim(queries[q].rows, pool[p]) for q, p in zip(chosen, passages, strict=True)
    ]
    assert found.tobytes() == np.array(right).tobytes()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_float16_products_need_their_margin(monkeypatch, share):
    """Products that all are rounded down as far as can be: half the margin isn't enough."""
    # They add up to just below the middle of 1 and the next float16 number.
    tokens = torch.full((1, 1, DIM), 0.0, dtype=torch.float16)
    tokens[..., 0], tokens[..., 1] = 1.0, 2.0**-11 * (1 - 2.0**-10)
    rows = torch.zeros((64, DIM))
    rows[:, :2] = 1.0
    monkeypatch.setattr(passes, "_FP16_UNIT", share * 2.0**-11)
    one = passes.PASSES["fp16"]
    monkeypatch.setattr(passes.bounds, "_GRANTED", share * passes.bounds._GRANTED / 64)
    coded = one.code_tokens(tokens)
    asked = passes.code_queries(one, rows, [64])
    found = passes.maxima(one, coded.codes.flatten(0, 1), (1, 1), asked)
    upper = float(passes.upper(one, found, coded, asked))
    right = 64 * float(tokens.double().sum())
    assert (upper >= right) == (share == 1.0)


def test_what_float16_can_not_hold_is_bounded():
    """Products beyond 65504, either sign, and below the smallest number."""
    rng = np.random.default_rng(3)
    big = rng.choice([-60000.0, 60000.0], (40, 3, DIM)).astype(np.float16)
    pool = [*big, np.full((2, DIM), -60000, np.float16), np.full((1, DIM), 2.0**-24, np.float16)]
    queries = [np.full((3, DIM), 50000.0), np.full((2, DIM), 2.0**-24), -np.ones((4, DIM))]
    same(queries, pool, 5)


def test_scores_below_float16_s_least_are_told_apart():
    """All products are below -65504, so that their bounds say nothing; the best passage is found."""
    sizes = [900, 700, 500, 800]
    for turned in range(len(sizes)):
        pool = [np.full((2, DIM), -x, np.float16) for x in np.roll(sizes, turned)]
        same([np.full((3, DIM), 50000.0)], pool, 1)


def test_products_that_float64_rounds_are_added_in_the_reference_s_order():
    rng = np.random.default_rng(8)

    def spread(*shape):
        return rng.normal(size=shape) * 2.0 ** rng.integers(-22, 14, shape)

    # Long vectors: libraries cut them into parts and add these up later.
    pool = [spread(4, 1500).astype(np.float16) for _ in range(20)]
    queries = [spread(5, 1500) for _ in range(4)]
    same(queries, pool, 20, dim=1500)


def test_a_gpu_whose_kernel_fails_gets_plain_products_and_one_line(monkeypatch, caplog):
    def broken(*args):
        raise OSError("no compiler\nat all")

    gpu_fused.kernels_work.cache_clear()
    gpu_fused._shape.cache_clear()
    monkeypatch.setattr(gpu_fused, "fused_maxsim", broken)
    try:
        with caplog.at_level(logging.INFO, "m2kr.search"):
            assert choose.on_a_gpu(DEVICE) == ("fp16",)
            assert choose.on_a_gpu(DEVICE) == ("fp16",)
        lines = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
        assert len(lines) == 1
        assert "OSError: no compiler" in lines[0]
        pool = token_corpora.ordinary(np.random.default_rng(4), [3, 9, 2])
        same(token_corpora.queries(np.random.default_rng(5), pool, 3), pool, 2, passes=("fused",))
    finally:
        gpu_fused.kernels_work.cache_clear()
        gpu_fused._shape.cache_clear()


def test_a_device_whose_float64_is_not_exact_leaves_scoring_to_the_cpu(monkeypatch, caplog):
    """Emulated float64 keeps fewer bits than the reference's scores have."""
    multiply = torch.bmm

    def emulated(left, right):
        return multiply(left, right) * (1 + 2.0**-50)

    gpu_rounds.exact_products.cache_clear()
    monkeypatch.setattr(torch, "bmm", emulated)
    try:
        with caplog.at_level(logging.WARNING, "m2kr.search"):
            assert not gpu_rounds.exact_products(choose.named(DEVICE))
            pool = token_corpora.ordinary(np.random.default_rng(6), [3, 9, 2, 5])
            same(token_corpora.queries(np.random.default_rng(7), pool, 3), pool, 2)
        assert len(caplog.records) == 1
    finally:
        gpu_rounds.exact_products.cache_clear()


def test_float64_products_of_this_machine_are_exact():
    assert gpu_rounds.exact_products(choose.named(DEVICE))
