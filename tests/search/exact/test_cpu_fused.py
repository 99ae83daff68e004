"""The compiled kernel: on every kind of processor its bounds hold and are tight; a wrong one is not used."""

import dataclasses
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import token_corpora

from m2kr.errors import InputError, UsageError
from m2kr.search.exact import bounds, canonical, cpu_fused, reference, search
from m2kr.search.store.reader import ArraySource

LIBRARY = cpu_fused._library()
KINDS = cpu_fused._kinds(LIBRARY) if LIBRARY else []
ROOT = Path(__file__).parents[3]

compiled = pytest.mark.skipif(not KINDS, reason="no kernel is compiled for this machine")
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@pytest.fixture
def fresh():
    """The kernel is chosen anew, in the test and after it."""
    cpu_fused._chosen.cache_clear()
    yield
    cpu_fused._chosen.cache_clear()


def upper(kind, bits, pool, queries, codes=None):
    """(queries x passages) from the kernel."""
    offsets = np.cumsum([0, *map(len, pool)])
    codes = kind.code(np.concatenate(pool), offsets) if codes is None else codes
    return kind.bounds(codes, kind.rows(queries, codes.dim, bits))


@each_kind
@pytest.mark.parametrize("bits", [8, 16])
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    maker=st.sampled_from(token_corpora.KINDS),
    longest=st.sampled_from([1, 3, 30]),
)
def test_no_canonical_score_is_above_its_bound(kind, bits, seed, maker, longest):
    rng = np.random.default_rng(seed)
    pool, _, queries = token_corpora.hostile(rng, maker, 12, longest)
    queries = [q for q in canonical.rounded_queries(queries, token_corpora.DIM) if len(q.rows)]
    if not queries:
        return
    found = upper(kind, bits, pool, queries)
    for row, query in zip(found, queries, strict=True):
        for bound, tokens in zip(row, pool, strict=True):
            if tokens.any():
                assert bound >= reference.maxsim(query.rows, tokens)


@each_kind
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dim=st.integers(1, 260),
    lengths=st.lists(st.integers(0, 40) | st.just(512), min_size=1, max_size=6),
    rows=st.lists(st.integers(1, 40) | st.just(130), min_size=1, max_size=4),
    shift=st.integers(0, 3),
)
def test_any_shape_gives_bounds_that_hold_and_are_near(kind, seed, dim, lengths, rows, shift):
    """Tokens need not be aligned either."""
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *lengths])
    flat = token_corpora.unit(rng.normal(size=(int(offsets[-1]), dim))).astype(np.float16)
    room = np.zeros(flat.nbytes + 8, np.uint8)[2 * shift :][: flat.nbytes]
    tokens = room.view(np.float16).reshape(flat.shape)
    tokens[:] = flat
    queries = canonical.rounded_queries(
        [token_corpora.unit(rng.normal(size=(n, dim))) for n in rows], dim
    )
    codes = kind.code(tokens, offsets)
    chosen = np.flatnonzero(lengths)[::-1].copy()
    for bits, margin in ((8, 0.06), (16, 0.03)):
        found = kind.bounds(codes, kind.rows(queries, dim, bits), numbers=chosen)
        for row, query in zip(found, queries, strict=True):
            true = reference.maxsim_many(query.rows, flat, offsets)[chosen]
            assert (row >= true).all()
            assert (row <= true + margin * len(query.rows)).all()


def only(query):
    return canonical.rounded_queries([query], query.shape[1])[0]


def scores(query, pool):
    return np.array([reference.maxsim(query.rows, tokens) for tokens in pool])


@each_kind
def test_less_for_a_token_s_residual_gives_a_wrong_answer(kind):
    """Where the numbers of a token are equal, all are rounded the same way: Cauchy's is an equality.

    The first number sets the step, and isn't seen by the query.
    """
    rng = np.random.default_rng(14)
    pool = np.zeros((2000, 1, 96), np.float16)
    pool[:, 0, 1:] = rng.uniform(0.25, 1.0, 2000)[:, None]
    pool[:, 0, 0] = rng.uniform(4.0, 8.0, 2000)
    query = np.full((1, 96), 0.125)
    query[0, 0] = 0
    query, pool = only(query), list(pool)
    right = scores(query, pool)
    codes = kind.code(np.concatenate(pool), np.arange(len(pool) + 1))
    halved = dataclasses.replace(codes, residuals=codes.residuals * np.float32(0.5))
    full, small = (upper(kind, 16, pool, [query], c)[0] for c in (codes, halved))
    assert (full >= right).all()
    better = int(np.argmin(small - right))
    # Another passage looks better than this one can be, and is not.
    assert ((small > small[better]) & (right > small[better]) & (right < right[better])).any()


@each_kind
@pytest.mark.parametrize(("bits", "first", "rest", "share"), [(8, 8, 0.27, 0.5), (16, 12, 0.27, 0)])
def test_less_for_a_row_s_residual_gives_a_wrong_answer(kind, bits, first, rest, share):
    query = np.full((1, 96), rest)
    query[0, 0] = first
    tokens = np.ones((1, 96), np.float16)
    tokens[0, 0] = 0
    query = only(query)
    codes, rows = kind.code(tokens, np.arange(2)), kind.rows([query], 96, bits)
    less = dataclasses.replace(rows, big_b=rows.big_b * np.float32(share))
    right = reference.maxsim(query.rows, tokens)
    assert kind.bounds(codes, less)[0, 0] < right <= kind.bounds(codes, rows)[0, 0]


@each_kind
def test_nothing_for_rounding_gives_a_wrong_answer(kind, monkeypatch):
    """Whole numbers whose codes lose nothing: what is left are roundings."""
    rng = np.random.default_rng(16)
    whole = rng.integers(64, 128, (300, 64))
    whole[:, 0] = 127
    pool, query = list(whole[90:, None].astype(np.float16)), only(whole[:90].astype(np.float16))
    right = scores(query, pool)
    assert (upper(kind, 8, pool, [query])[0] >= right).all()
    monkeypatch.setattr(bounds, "slack", lambda *_: 0.0)
    small = upper(kind, 8, pool, [query])[0].astype(np.float64)
    assert (small < right).any()
    assert (small >= right * (1 - 2.0**-22)).all()


@each_kind
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dim=st.integers(1, 260),
    length=st.integers(1, 70),
    rows=st.integers(1, 130),
)
def test_scores_are_canonical_to_the_bit(kind, seed, dim, length, rows):
    """Among tokens that are nearly equal, too, some of them the same."""
    rng = np.random.default_rng(seed)
    base = token_corpora.unit(rng.normal(size=(1, dim))) + rng.choice([0, 1e-3, 1]) * rng.normal(
        size=(length, dim)
    ) / np.sqrt(dim)
    tokens = (base * rng.choice([0.3, 1.0, 2.0], (length, 1))).astype(np.float16)
    tokens[~tokens.any(1), 0] = 1
    query = only(token_corpora.unit(rng.normal(size=(rows, dim))))
    longest = np.linalg.norm(tokens.astype(np.float64), axis=1).max() * np.ones(1, np.float32)
    found = kind.scores(query, tokens, np.zeros(1, np.int64), np.array([length]), longest * 1.001)
    assert found[0] == reference.maxsim(query.rows, tokens)


@each_kind
def test_only_the_best_float32_product_in_float64_gives_wrong_scores(kind, monkeypatch):
    """Tokens of the same numbers in another order, but for one of float16's smallest steps, or some."""
    rng = np.random.default_rng(17)
    base = token_corpora.unit(rng.normal(size=256)).astype(np.float16)
    tokens = np.stack([np.append(base[1:], np.float16(n * 2.0**-24)) for n in range(60)])
    tokens = rng.permuted(tokens, axis=1)
    queries = [only(np.full((1, 256), value)) for value in rng.uniform(0.01, 0.06, 9)]
    starts, lengths, longest = np.zeros(1, np.int64), np.array([60]), np.ones(1, np.float32) * 1.01

    def right():
        found = [kind.scores(query, tokens, starts, lengths, longest)[0] for query in queries]
        return found == [reference.maxsim(query.rows, tokens) for query in queries]

    assert right()
    monkeypatch.setattr(cpu_fused, "_off", lambda dim: 0.0)
    assert not right()


@compiled
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 20, 36])
def test_a_value_that_is_not_finite_is_refused(value, place):
    tokens = np.zeros((12, 37), np.float16)
    tokens[7, place] = value
    for kind in KINDS:
        with pytest.raises(InputError, match="NaN or infinite") as refused:
            kind.code(tokens, np.array([0, 5, 9, 12]), first=10)
        assert refused.value.where == "passage 11"


@each_kind
def test_the_kernel_that_is_asked_for_is_used(kind, monkeypatch, fresh):
    monkeypatch.setenv("M2KR_KERNEL", kind.name)
    assert cpu_fused.kernel().name == cpu_fused.kernel_state() == kind.name
    pool = token_corpora.ordinary(np.random.default_rng(1), [5] * 30)
    assert search_all(pool)[2].passes[0] == f"fused-int{kind.bits}"


def search_all(pool):
    """Searches by whatever this process has, compares with the reference."""
    source = ArraySource(np.concatenate(pool), np.cumsum([0, *map(len, pool)]))
    queries = token_corpora.queries(np.random.default_rng(2), pool, 4)
    ranks = np.arange(len(pool))
    found = search.search_exactly(queries, source, 7, ranks)
    right = reference.search_by_reference(queries, source.vectors, source.offsets, 7, ranks)
    assert found[0].tolist() == right[0].tolist()
    assert found[1].tobytes() == right[1].tobytes()
    return found


def test_torch_searches_where_it_is_told_to(monkeypatch, fresh):
    monkeypatch.setenv("M2KR_KERNEL", "torch")
    assert cpu_fused.kernel() is None
    stats = search_all(token_corpora.ordinary(np.random.default_rng(3), [5] * 30))[2]
    assert not {"fused-int8", "fused-int16"} & set(stats.passes)


def test_an_unknown_kernel_is_refused(monkeypatch, fresh):
    monkeypatch.setenv("M2KR_KERNEL", "abacus")
    with pytest.raises(UsageError, match="M2KR_KERNEL is 'abacus'"):
        cpu_fused.kernel()


def test_without_a_compiled_kernel_torch_searches(monkeypatch, fresh):
    monkeypatch.delenv("M2KR_KERNEL", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cpu_fused.kernel() is None
    assert "not compiled" in cpu_fused.kernel_state()
    search_all(token_corpora.holes(np.random.default_rng(4), [5] * 30))


def narrower(found):
    """Sums that miss a little."""
    return found * np.float32(0.999)


def last_row_lost(found):
    found[-1] = found[0]
    return found


@compiled
@pytest.mark.parametrize("fault", [narrower, last_row_lost])
def test_a_kernel_that_gives_wrong_sums_is_never_used(fault, monkeypatch, fresh, caplog):
    monkeypatch.delenv("M2KR_KERNEL", raising=False)
    right = cpu_fused.Kernel.sums
    monkeypatch.setattr(cpu_fused.Kernel, "sums", lambda *args: fault(right(*args)))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cpu_fused.kernel() is None
    assert len([r for r in caplog.records if "gives wrong results" in r.message]) == 1
    search_all(token_corpora.near_ties(np.random.default_rng(5), [5] * 30))


@compiled
@pytest.mark.parametrize("side", ["codes", "starts", "scales", "residuals", "length", "shortest"])
def test_a_kernel_that_codes_wrongly_is_never_used(side, monkeypatch, fresh):
    monkeypatch.delenv("M2KR_KERNEL", raising=False)
    right = cpu_fused.Kernel.code

    def wrong(*args, **options):
        found = right(*args, **options)
        values = getattr(found, side)
        values[...] = values // 2 if values.dtype.kind == "i" else values * np.float32(0.9)
        if side == "shortest":
            values[...] = 1.0
        return found

    monkeypatch.setattr(cpu_fused.Kernel, "code", wrong)
    assert cpu_fused.kernel() is None


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [None, "false"])
def test_the_package_builds_with_and_without_a_compiler(tmp_path, compiler):
    env = {**os.environ, **({"CC": compiler} if compiler else {})}
    build = [sys.executable, "setup.py", "build_ext", "-b", tmp_path / "lib", "-t", tmp_path / "o"]
    done = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = list((tmp_path / "lib").rglob("_maxsim*"))
    assert len(made) == (0 if compiler else bool(KINDS))
