"""Our own code of tokens: packing, and what is lost."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2kr.errors import InputError
from m2kr.search.index.codec import SCALED_NBITS, ScaledCodec, pack_steps, unpack_steps


@given(nbits=st.sampled_from(SCALED_NBITS), seed=st.integers(0, 2**32), tokens=st.integers(0, 5))
def test_packing_is_reversible(nbits: int, seed: int, tokens: int) -> None:
    steps = np.random.default_rng(seed).integers(0, 2**nbits, (tokens, 16)).astype(np.uint8)
    packed = pack_steps(steps, nbits)
    assert packed.shape == (tokens, 2 * nbits)
    for dtype in (torch.uint8, torch.bfloat16):
        out = torch.empty((tokens, 16), dtype=dtype)
        assert unpack_steps(torch.from_numpy(packed), nbits, out).tolist() == steps.tolist()


def test_byte_j_holds_dimensions_a_width_apart() -> None:
    assert pack_steps(np.array([[1, 2, 3, 4]], np.uint8), 4).tolist() == [[0x31, 0x42]]
    assert pack_steps(np.array([[1, 2, 3, 0]], np.uint8), 2).tolist() == [[0b00_11_10_01]]


# The share of the residual's energy that even steps of the optimal width leave, for a normal law: Max's
# table gives 0.1188, 0.01154; 8 bits reach the largest of 128 values. A token's own size leaves less than
# the law's (0.1164 of 2 bits), and one that was fitted to its steps less again (0.1157).
@pytest.mark.parametrize(("nbits", "left"), [(2, 0.116), (4, 0.0125), (8, 0.0001)])
def test_a_normal_residual_loses_what_theory_says(nbits: int, left: float) -> None:
    rng = np.random.default_rng(3)
    codec = ScaledCodec(np.zeros((1, 128), np.float32), nbits)
    tokens = (rng.normal(size=(4000, 128)) * rng.uniform(0.01, 0.1, (4000, 1))).astype(np.float16)
    codes = np.zeros(4000, np.int64)
    decoded = codec.decode(codes, *codec.encode(tokens, codes))
    wide = tokens.astype(np.float64)
    lost = ((decoded - wide) ** 2).sum(1) / (wide**2).sum(1)
    assert lost.mean() < left
    assert lost.max() < 4 * left


@given(seed=st.integers(0, 2**32), nbits=st.sampled_from(SCALED_NBITS))
def test_a_token_is_decoded_alike_in_any_company(seed: int, nbits: int) -> None:
    rng = np.random.default_rng(seed)
    codec = ScaledCodec(rng.normal(size=(5, 16)).astype(np.float32), nbits)
    tokens = rng.normal(size=(9, 16)).astype(np.float16)
    tokens[0] = codec.centroids[2]
    codes = rng.integers(0, 5, 9)
    packed, sizes = codec.encode(tokens, codes)
    whole = codec.decode(codes, packed, sizes)
    assert np.isfinite(whole).all()
    for i in range(9):
        alone = codec.decode(codes[i : i + 1], packed[i : i + 1], sizes[i : i + 1])
        assert alone.tobytes() == whole[i : i + 1].tobytes()


def test_a_token_on_its_centroid_is_kept() -> None:
    codec = ScaledCodec(np.full((1, 8), 0.25, np.float32), 4)
    token = np.full((1, 8), 0.25, np.float16)
    decoded = codec.decode(np.zeros(1, np.int64), *codec.encode(token, np.zeros(1, np.int64)))
    np.testing.assert_allclose(decoded, token, atol=1e-4)


def test_other_bits_and_dims_are_refused() -> None:
    with pytest.raises(InputError, match="3 bits"):
        ScaledCodec(np.zeros((1, 8), np.float32), 3)
    with pytest.raises(InputError, match="multiple of 8"):
        ScaledCodec(np.zeros((1, 7), np.float32), 4)
