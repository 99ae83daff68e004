"""The official search against its rules, written as plain loops."""

import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import InputError, UsageError
from m2kr.search.index.codec import OfficialCodec
from m2kr.search.index.official import IndexArrays, OfficialSettings, trace_search


def index(
    rng: np.random.Generator, lengths: list[int], centroids: int = 9, dim: int = 8
) -> IndexArrays:
    found = rng.normal(size=(centroids, dim)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    codec = OfficialCodec(
        found,
        np.array([-0.2, 0.0, 0.2], np.float32),
        np.array([-0.3, -0.1, 0.1, 0.3], np.float32),
    )
    tokens = sum(lengths)
    return IndexArrays.of(
        codec,
        rng.integers(0, centroids, tokens),
        rng.integers(0, 256, (tokens, codec.packed_bytes)).astype(np.uint8),
        np.array(lengths, np.int64),
    )


def naive(one: IndexArrays, query: np.ndarray, steered: OfficialSettings) -> dict:
    rows = [r for r in query.astype(np.float32) if np.abs(r).sum() > 0]
    head = rows[: steered.head_rows]
    table = np.array([[np.float32(c @ r) for r in head] for c in one.codec.centroids])
    cells = sorted({int(c) for column in table.T for c in np.argsort(-column)[: steered.ncells]})
    living = [bool(row.max() >= np.float32(steered.threshold)) for row in table]
    codes = [one.codes[a:b] for a, b in zip(one.offsets, one.offsets[1:], strict=False)]
    candidates = [n for n, c in enumerate(codes) if set(c.tolist()) & set(cells)]

    def approximate(number: int, only_living: bool) -> float:
        total = np.float32(0)
        for column in range(len(head)):
            best = np.float32(-9999)
            for code in codes[number]:
                if living[code] or not only_living:
                    best = max(best, np.float32(table[code][column]))
            total += best
        return float(total)

    def final(number: int) -> float:
        at = slice(int(one.offsets[number]), int(one.offsets[number + 1]))
        vectors = one.codec.decode(one.codes[at], one.residuals[at])
        return float(sum(max([0.0, *(float(v @ r) for v in vectors)]) for r in rows))

    first = sorted(candidates, key=lambda n: (-approximate(n, True), -n))[: steered.ndocs]
    second = sorted(first, key=lambda n: (-approximate(n, False), -n))[: steered.ndocs // 4]
    return {
        "cells": cells,
        "living": living,
        "candidates": candidates,
        "stage1": first,
        "stage2": second,
        "scores": {n: final(n) for n in second},
    }


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    rows=st.integers(1, 40),
    ncells=st.integers(1, 4),
    ndocs=st.integers(1, 40),
)
def test_every_step_follows_the_rules(
    seed: int, lengths: list[int], rows: int, ncells: int, ndocs: int
) -> None:
    rng = np.random.default_rng(seed)
    one = index(rng, lengths)
    query = rng.normal(size=(rows, 8)).astype(np.float16)
    query[rng.random(rows) < 0.3] = rng.choice([0.0, -0.0])
    steered = OfficialSettings(ncells, 0.4, ndocs, head_rows=6)
    if not query.any():
        query[0] = 1
    trace, wanted = trace_search(one, query, steered), naive(one, query, steered)
    assert trace.cells.tolist() == wanted["cells"]
    assert trace.living.tolist() == wanted["living"]
    assert trace.candidates.tolist() == wanted["candidates"]
    assert trace.stage1.tolist() == wanted["stage1"]
    assert trace.stage2.tolist() == wanted["stage2"]
    assert sorted(trace.documents.tolist()) == sorted(wanted["stage2"])
    scores = [wanted["scores"][n] for n in trace.documents.tolist()]
    np.testing.assert_allclose(trace.scores, scores, atol=1e-4)
    assert (np.diff(trace.scores) <= 0).all()


def test_equal_documents_rank_by_the_larger_number() -> None:
    rng = np.random.default_rng(1)
    one = index(rng, [3] * 8)
    codes, residuals = np.tile(one.codes[:3], 8), np.tile(one.residuals[:3], (8, 1))
    same = IndexArrays.of(one.codec, codes, residuals, np.full(8, 3))
    trace = trace_search(same, one.codec.centroids[one.codes[:2]], OfficialSettings(2, 0.4, 20))
    assert trace.stage1.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert trace.documents.tolist() == [7, 6, 5, 4, 3]


def test_a_query_of_zero_rows_finds_nothing() -> None:
    one = index(np.random.default_rng(2), [3] * 8)
    trace = trace_search(one, np.zeros((5, 8)), OfficialSettings(2, 0.4, 20))
    assert not len(trace.cells)
    assert not trace.living.any()
    assert not len(trace.documents)


def test_settings_follow_k() -> None:
    assert OfficialSettings.for_k(10) == OfficialSettings.for_k(100)
    assert OfficialSettings.for_k(100) == OfficialSettings(2, 0.45, 1024)
    assert OfficialSettings.for_k(101) == OfficialSettings(4, 0.4, 4096)
    assert OfficialSettings.for_k(1100) == OfficialSettings(4, 0.4, 4400)
    assert OfficialSettings.for_k(1).head_rows == 32


def test_nonsense_is_refused() -> None:
    one = index(np.random.default_rng(3), [3, 2])
    with pytest.raises(InputError, match="8 dimensions"):
        trace_search(one, np.ones((2, 7)), OfficialSettings(2, 0.4, 20))
    with pytest.raises(UsageError, match="ncells is 0"):
        OfficialSettings(0, 0.4, 20)
    with pytest.raises(UsageError, match="k is 0"):
        OfficialSettings.for_k(0)
    with pytest.raises(InputError, match="as many codes as tokens"):
        IndexArrays.of(one.codec, one.codes[:-1], one.residuals, np.array([3, 2]))
    with pytest.raises(InputError, match="not there"):
        IndexArrays.of(one.codec, one.codes + 9, one.residuals, np.array([3, 2]))


def added_in_turn(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(left x right) float32: product after product added with one rounding, as a fused unit does."""
    found = np.zeros((len(left), len(right)), np.float32)
    for a, b in zip(left.T.astype(np.float64), right.T.astype(np.float64), strict=True):
        found = (a[:, None] * b + found).astype(np.float32)
    return found


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors add in other orders"
)
@pytest.mark.parametrize(("dim", "count"), [(8, 5), (8, 20), (128, 5), (128, 32)])
def test_nearly_equal_documents_come_in_the_official_order_on_every_processor(
    dim: int, count: int
) -> None:
    rng = np.random.default_rng(3)
    one = index(rng, [1] * 30_000, centroids=30_000, dim=dim)
    one = IndexArrays.of(one.codec, np.arange(30_000), one.residuals, np.ones(30_000, np.int64))
    rows = rng.normal(size=(count, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    total = np.zeros(30_000, np.float32)
    for column in added_in_turn(one.codec.centroids, rows).T:
        total += column
    wanted = np.lexsort((-np.arange(30_000), -total))
    assert (np.abs(np.diff(total[wanted])) < 1e-6).sum() > 10
    found = trace_search(one, rows, OfficialSettings(30_000, -9.0, 4 * 30_000))
    assert found.stage2.tolist() == wanted.tolist()
