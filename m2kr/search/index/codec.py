"""Token vectors as a centroid's number and a few bits per dimension, packed as the official code does.

A token is stored as the centroid with the largest dot product, and per dimension the bucket that
its residual (vector minus centroid) falls into. The rules,
checked against index files of the official code (tests/golden/search/README.md):

* a residual's bucket is the number of cutoffs strictly below it;
* bucket numbers of b bits are written least significant bit first, dimension after dimension, and
  that stream of bits fills each byte from its most significant bit down;
* read back, a token is its centroid plus a weight a bucket, scaled to length 1.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import InputError
from m2kr.search.index.products import products

if TYPE_CHECKING:
    from numpy.typing import NDArray

NBITS = (1, 2, 4, 8)
_SMALLEST_NORM = np.float32(1e-12)
_BLOCK = 1 << 22  # scores or bucket numbers in work at a time


@dataclass(frozen=True, slots=True)
class Codec:
    """How the official index writes tokens down.

    Attributes:
        centroids: (centroids x dim) float32. The official index keeps them as float16; they are
            used as they come out of it, not normalised again.
        cutoffs: (2**nbits - 1) float32, increasing: where one bucket ends and the next begins.
        weights: (2**nbits) float32: the residual that a bucket stands for.
    """

    centroids: "NDArray[np.float32]"
    cutoffs: "NDArray[np.float32]"
    weights: "NDArray[np.float32]"

    def __post_init__(self) -> None:
        buckets = len(self.weights)
        if buckets not in {1 << b for b in NBITS} or len(self.cutoffs) != buckets - 1:
            raise InputError(
                f"{len(self.cutoffs)} cutoffs and {buckets} bucket weights make no codec",
                expected="2**b - 1 cutoffs and 2**b weights, b one of 1, 2, 4, 8",
            )
        if self.centroids.ndim != 2 or self.dim * self.nbits % 8:
            raise InputError(
                f"centroids of shape {self.centroids.shape} don't pack into bytes",
                expected=f"(centroids x dim), dim times {self.nbits} bits a multiple of 8",
            )

    @property
    def nbits(self) -> int:
        """Bits a dimension."""
        return len(self.weights).bit_length() - 1

    @property
    def dim(self) -> int:
        """Dimensions of a token."""
        return int(self.centroids.shape[1])

    @property
    def packed_bytes(self) -> int:
        """Bytes that a token's residual takes."""
        return self.dim * self.nbits // 8

    def nearest(self, tokens: "NDArray[np.floating]") -> "NDArray[np.int64]":
        """Each token's centroid: the one with the largest dot product, in float32."""
        found = np.empty(len(tokens), np.int64)
        step = max(1, _BLOCK // max(1, len(self.centroids)))
        for start in range(0, len(tokens), step):
            part = np.asarray(tokens[start : start + step], np.float32)
            found[start : start + step] = products(part, self.centroids).argmax(1)
        return found

    def encode(
        self, tokens: "NDArray[np.floating]", codes: "NDArray[np.integer]"
    ) -> "NDArray[np.uint8]":
        """Packed residuals of tokens, given their centroids' numbers.

        Args:
            tokens: (tokens x dim), float16 in the official code.
            codes: One a token.

        Returns:
            (tokens x packed_bytes) uint8.
        """
        packed = np.empty((len(tokens), self.packed_bytes), np.uint8)
        step = max(1, _BLOCK // self.dim)
        for start in range(0, len(tokens), step):
            part = slice(start, start + step)
            residuals = np.asarray(tokens[part], np.float32) - self.centroids[codes[part]]
            packed[part] = pack(np.searchsorted(self.cutoffs, residuals), self.nbits)
        return packed

    def decode(
        self, codes: "NDArray[np.integer]", packed: "NDArray[np.uint8]"
    ) -> "NDArray[np.float32]":
        """The vectors (tokens x dim) that centroids and packed residuals stand for, of length 1."""
        # One look-up a byte, not a dimension: a table of the weights of each of 256 bytes.
        every = np.arange(256, dtype=np.uint8)[:, None]
        table = self.weights[unpack(every, self.nbits)]
        vectors = table[packed].reshape(len(packed), self.dim)
        vectors += self.centroids[codes]
        norms = np.sqrt((vectors * vectors).sum(1, dtype=np.float32))
        vectors /= np.maximum(norms, _SMALLEST_NORM)[:, None]
        return vectors


def pack(buckets: "NDArray[np.integer]", nbits: int) -> "NDArray[np.uint8]":
    """Bucket numbers (tokens x dim) as bytes (tokens x dim * nbits / 8), in the official bit order."""
    shifts = np.arange(nbits, dtype=np.uint8)
    bits = buckets.astype(np.uint8)[..., None] >> shifts & 1
    return np.packbits(bits.reshape(len(buckets), buckets.shape[1] * nbits), axis=1)


def unpack(packed: "NDArray[np.uint8]", nbits: int) -> "NDArray[np.uint8]":
    """What `pack` was given."""
    bits = np.unpackbits(packed, axis=1).reshape(len(packed), packed.shape[1] * 8 // nbits, nbits)
    found: NDArray[np.uint8] = (bits << np.arange(nbits, dtype=np.uint8)).sum(2, dtype=np.uint8)
    return found
