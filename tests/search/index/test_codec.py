"""The official way to write tokens down: bits, buckets, centroids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.errors import InputError
from m2kr.search.index.codec import OfficialCodec, pack_buckets, unpack_buckets


def codec(rng: np.random.Generator, nbits: int, dim: int, centroids: int = 7) -> OfficialCodec:
    found = rng.normal(size=(centroids, dim)).astype(np.float32) / np.sqrt(dim)
    cutoffs = np.sort(rng.normal(scale=0.1, size=2**nbits - 1)).astype(np.float32)
    weights = np.sort(rng.normal(scale=0.1, size=2**nbits)).astype(np.float32)
    return OfficialCodec(found.astype(np.float32), cutoffs, weights)


def naive_bytes(numbers: list[int], nbits: int) -> list[int]:
    bits = [number >> place & 1 for number in numbers for place in range(nbits)]
    return [int("".join(map(str, bits[i : i + 8])), 2) for i in range(0, len(bits), 8)]


def test_bits_of_two_bit_numbers() -> None:
    # 1, 2, 3, 0: least significant bit first, from the top of the byte down.
    assert pack_buckets(np.array([[1, 2, 3, 0]]), 2).tolist() == [[0b10_01_11_00]]
    assert pack_buckets(np.array([[1, 8]]), 4).tolist() == [[0b1000_0001]]
    assert pack_buckets(np.array([[1]]), 8).tolist() == [[0b1000_0000]]


@given(nbits=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 2**32), tokens=st.integers(0, 5))
def test_packing_is_the_stated_one_and_reversible(nbits: int, seed: int, tokens: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 2**nbits, (tokens, 16))
    packed = pack_buckets(numbers, nbits)
    assert packed.dtype == np.uint8
    assert packed.tolist() == [naive_bytes(row, nbits) for row in numbers.tolist()]
    assert unpack_buckets(packed, nbits).tolist() == numbers.tolist()


def test_a_residual_equal_to_a_cutoff_stays_below_it() -> None:
    one = OfficialCodec(
        np.zeros((1, 4), np.float32),
        np.array([-0.5, 0.0, 0.5], np.float32),
        np.array([-1, -0.25, 0.25, 1], np.float32),
    )
    token = np.array([[-0.5, 0.0, 0.25, 0.75]], np.float16)
    packed = one.encode(token, np.zeros(1, np.int64))
    assert unpack_buckets(packed, 2).tolist() == [[0, 1, 2, 3]]


@given(nbits=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 2**32))
def test_codes_and_tokens_are_those_of_the_definition(nbits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = codec(rng, nbits, 8)
    tokens = rng.normal(size=(5, 8)).astype(np.float16)
    codes = one.nearest(tokens)
    packed = one.encode(tokens, codes)
    decoded = one.decode(codes, packed)
    for token, code, row, vector in zip(tokens, codes, packed, decoded, strict=True):
        wide = token.astype(np.float32)
        assert wide @ one.centroids[code] >= (one.centroids @ wide).max() - 1e-6
        buckets = [int((one.cutoffs < r).sum()) for r in wide - one.centroids[code]]
        assert row.tolist() == naive_bytes(buckets, nbits)
        rebuilt = one.centroids[code] + one.weights[buckets]
        np.testing.assert_allclose(vector, rebuilt / np.linalg.norm(rebuilt), atol=1e-6)


def test_a_token_that_decodes_to_nothing_stays_nothing() -> None:
    one = OfficialCodec(
        np.zeros((1, 8), np.float32), np.zeros(1, np.float32), np.zeros(2, np.float32)
    )
    vector = one.decode(np.zeros(1, np.int64), np.zeros((1, 1), np.uint8))
    assert vector.tolist() == [[0.0] * 8]


@pytest.mark.parametrize(
    ("cutoffs", "weights", "dim"), [(2, 4, 8), (4, 5, 8), (3, 4, 6), (7, 8, 8)]
)
def test_what_is_no_codec_is_refused(cutoffs: int, weights: int, dim: int) -> None:
    with pytest.raises(InputError, match=r"make no codec|don't pack"):
        OfficialCodec(
            np.zeros((3, dim if weights == 4 else 8), np.float32)[:, : 3 if dim == 6 else None],
            np.zeros(cutoffs, np.float32),
            np.zeros(weights, np.float32),
        )
