"""The steps of a compressed search against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.search.index import candidates
from m2kr.search.index.codec import ScaledCodec
from m2kr.search.index.ivf import InvertedLists, span_offsets

DIM, CENTROIDS = 16, 40


def small(seed: int, lengths: list[int]) -> tuple[ScaledCodec, candidates.PackedTokens]:
    rng = np.random.default_rng(seed)
    codec = ScaledCodec(rng.normal(size=(CENTROIDS, DIM)).astype(np.float32) / 4, 4)
    codes = rng.integers(0, CENTROIDS, sum(lengths))
    tokens = codec.centroids[codes] + rng.normal(size=(len(codes), DIM)) / 20
    packed, sizes = codec.encode(tokens.astype(np.float16), codes)
    return codec, candidates.PackedTokens(codes, packed, sizes, span_offsets(np.array(lengths)))


def query(seed: int, rows: int) -> np.ndarray:
    return (np.random.default_rng(seed + 1).normal(size=(rows, DIM)) / 4).astype(np.float16)


def look(codec: ScaledCodec, rows: np.ndarray, dtype: torch.dtype) -> candidates.QueryScores:
    longest = float(np.linalg.norm(codec.centroids, axis=1).max())
    return candidates.centroid_scores(torch.from_numpy(codec.centroids).to(dtype), longest, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_scaled_alike_and_fit_a_byte(dtype: torch.dtype) -> None:
    codec, _ = small(1, [3])
    rows = query(1, 5)
    found = look(codec, rows, dtype)
    exact = codec.centroids @ rows.astype(np.float32).T
    scaled = codec.centroids @ found.rows[:, :5].float().numpy()
    scale = scaled / exact
    assert np.median(scale) == pytest.approx(scale[np.abs(exact) > 0.05].mean(), rel=0.02)
    assert found.coarse.shape[1] % 128 == 0
    assert (found.rows[:, 5:] == 0).all()
    assert (found.coarse[:, 5:] == -128).all()
    assert np.abs(found.coarse[:, :5].numpy() - scaled).max() <= 1.5
    assert found.coarse[:, :5].abs().max() > 30


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 6), probes=st.integers(1, 50))
def test_cells_are_all_pairs_from_one_threshold_up(seed: int, rows: int, probes: int) -> None:
    codec, _ = small(seed, [3])
    found = look(codec, query(seed, rows), torch.float32)
    cells = candidates.probed_centroids(found, probes)
    values = found.coarse.numpy()[cells.centroids, cells.rows]
    threshold = int(values.min())
    table = found.coarse.numpy()[:, :rows]
    assert len(values) == (table >= threshold).sum()
    assert (np.diff(values.astype(int)) >= 0).all()
    assert cells.gains.min() >= 1
    assert len(set((cells.gains - values.astype(int)).tolist())) == 1
    assert cells.row_count == rows


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    probes=st.integers(1, 40),
)
def test_probing_sums_the_best_pair_of_each_row(seed: int, lengths: list[int], probes: int) -> None:
    codec, tokens = small(seed, lengths)
    cells = candidates.probed_centroids(look(codec, query(seed, 4), torch.float32), probes)
    lists = InvertedLists.of(tokens.codes, np.array(lengths), CENTROIDS)
    found = candidates.probe_shard(cells, lists, len(lengths))
    for number in range(len(lengths)):
        own = set(tokens.codes[tokens.offsets[number] : tokens.offsets[number + 1]].tolist())
        best = dict.fromkeys(range(4), 0)
        for row, centroid, gain in zip(cells.rows, cells.centroids, cells.gains, strict=True):
            if int(centroid) in own:
                best[int(row)] = max(best[int(row)], int(gain))
        assert found[number] == sum(best.values())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_refinement_ranks_as_maxsim_does(seed: int, lengths: list[int], dtype: torch.dtype) -> None:
    codec, tokens = small(seed, lengths)
    rows = query(seed, 6)
    found = look(codec, rows, dtype)
    fine = candidates.refine(found, tokens, codec)
    decoded = codec.decode(tokens.codes, tokens.packed, tokens.sizes).astype(np.float32)
    right = found.rows[:, :6].float().numpy()
    for number, length in enumerate(lengths):
        at = slice(int(tokens.offsets[number]), int(tokens.offsets[number + 1]))
        if not length:
            assert np.isneginf(fine[number])
            continue
        best = (decoded[at] @ right).max(0)
        if dtype == torch.bfloat16:
            best = np.maximum(best, 0)  # as `_highest` says
        assert fine[number] == pytest.approx(best.sum(), abs=6 if dtype == torch.bfloat16 else 0.5)


@given(
    scores=st.lists(st.integers(-5, 5), max_size=40),
    count=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_best_breaks_ties_by_number(scores: list[int], count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).permutation(len(scores))
    found = candidates.best_places(np.array(scores, np.int32), numbers, count)
    pairs = sorted(zip(scores, numbers.tolist(), strict=True), key=lambda p: (-p[0], p[1]))
    assert numbers[found].tolist() == [number for _, number in pairs[:count]]
