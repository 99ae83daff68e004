"""Token vectors as a centroid's number and a few bits per dimension: the official code, and our own.

The *official* code stores a token as the centroid with the largest dot product, and per dimension the
bucket that its residual (vector minus centroid) falls into. The rules, checked against index files of
the official code (tests/golden/search/README.md):

* a residual's bucket is the number of cutoffs strictly below it;
* bucket numbers of b bits are written least significant bit first, dimension after dimension, and
  that stream of bits fills each byte from its most significant bit down;
* read back, a token is its centroid plus a weight a bucket, scaled to length 1.

Our *scaled* code is a centroid, even steps per dimension, and the steps' size:

token ≈ centroid + size · (step - (2**bits - 1) / 2), with one size a token. Against the official
code's buckets, which are the same for all tokens, this halves the loss of recall: residuals differ in
length by token far more than their shape differs from a bell. As steps are even, a token is
rebuilt by one multiplication and one addition a dimension, without a table.

How wide a step is, measured in the residual's root mean square, is the known optimum for normally
distributed values (J. Max, Quantizing for Minimum Distortion, IRE Transactions 1960). With 8 bits,
steps are narrow enough to reach the residual's largest value. The size is then the one with the
least squared error for the steps chosen.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import InputError, missing_dependency

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

OFFICIAL_NBITS, SCALED_NBITS = (1, 2, 4, 8), (2, 4, 8)
_SMALLEST_NORM = np.float32(1e-12)
_BLOCK = 1 << 22  # scores or bucket numbers in work at a time
_LEAST_ROWS = 16  # of either side of `products`
_REFITS = {2: 3, 4: 0, 8: 0}
_WIDTHS = {2: 0.9957, 4: 0.3352}  # of a step, in root mean squares
_STEPS = 1 << 19  # steps in work at a time: what stays in the cache


@dataclass(frozen=True, slots=True)
class OfficialCodec:
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
        if buckets not in {1 << b for b in OFFICIAL_NBITS} or len(self.cutoffs) != buckets - 1:
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
            packed[part] = pack_buckets(np.searchsorted(self.cutoffs, residuals), self.nbits)
        return packed

    def decode(
        self, codes: "NDArray[np.integer]", packed: "NDArray[np.uint8]"
    ) -> "NDArray[np.float32]":
        """The vectors (tokens x dim) that centroids and packed residuals stand for, of length 1."""
        # One look-up a byte, not a dimension: a table of the weights of each of 256 bytes.
        every = np.arange(256, dtype=np.uint8)[:, None]
        table = self.weights[unpack_buckets(every, self.nbits)]
        vectors = table[packed].reshape(len(packed), self.dim)
        vectors += self.centroids[codes]
        norms = np.sqrt((vectors * vectors).sum(1, dtype=np.float32))
        vectors /= np.maximum(norms, _SMALLEST_NORM)[:, None]
        return vectors


def pack_buckets(buckets: "NDArray[np.integer]", nbits: int) -> "NDArray[np.uint8]":
    """Bucket numbers (tokens x dim) as bytes (tokens x dim * nbits / 8), in the official bit order."""
    shifts = np.arange(nbits, dtype=np.uint8)
    bits = buckets.astype(np.uint8)[..., None] >> shifts & 1
    return np.packbits(bits.reshape(len(buckets), buckets.shape[1] * nbits), axis=1)


def unpack_buckets(packed: "NDArray[np.uint8]", nbits: int) -> "NDArray[np.uint8]":
    """What `pack_buckets` was given."""
    bits = np.unpackbits(packed, axis=1).reshape(len(packed), packed.shape[1] * 8 // nbits, nbits)
    found: NDArray[np.uint8] = (bits << np.arange(nbits, dtype=np.uint8)).sum(2, dtype=np.uint8)
    return found


def products(vectors: "NDArray[np.float32]", rows: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Dot products rounded as the official code's are, (vectors x rows) float32.

    Its order of nearly equal documents hangs on the last bit: each product is added to the ones before
    it with one rounding. That is what torch does on every x86 processor, unless one side has very few
    rows: it is filled up. numpy's library does so on some processors only. Elsewhere (ARM) the last bit
    is torch's own.

    Raises:
        MissingError: torch isn't installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_dependency("torch", "models", "the published protocol") from error

    left, right = (torch.from_numpy(_filled(side)) for side in (vectors, rows))
    return (left @ right.T).numpy()[: len(vectors), : len(rows)]


def _filled(side: "NDArray[np.float32]") -> "NDArray[np.float32]":
    if len(side) >= _LEAST_ROWS:
        return np.ascontiguousarray(side)
    return np.concatenate([side, np.zeros((_LEAST_ROWS - len(side), side.shape[1]), np.float32)])


@dataclass(frozen=True, slots=True, eq=False)
class ScaledCodec:
    """Writes tokens down and reads them back.

    Attributes:
        centroids: (centroids x dim) float32.
        nbits: Bits a dimension: 2, 4 or 8.
    """

    centroids: "NDArray[np.float32]"
    nbits: int

    def __post_init__(self) -> None:
        if self.nbits not in SCALED_NBITS:
            raise InputError(f"{self.nbits} bits a dimension", expected="2, 4 or 8")
        if self.centroids.ndim != 2 or self.dim * self.nbits % 8:
            raise InputError(
                f"centroids of shape {self.centroids.shape} don't go with {self.nbits} bits",
                expected="(centroids x dim), dim times bits a multiple of 8",
            )

    @property
    def dim(self) -> int:
        """Dimensions of a token."""
        return int(self.centroids.shape[1])

    @property
    def packed_bytes(self) -> int:
        """Bytes that a token's steps take."""
        return self.dim * self.nbits // 8

    @property
    def middle(self) -> float:
        """The step that would stand for 0: half-way between two."""
        return ((1 << self.nbits) - 1) / 2

    def encode(
        self, tokens: "NDArray[np.floating]", codes: "NDArray[np.integer]"
    ) -> "tuple[NDArray[np.uint8], NDArray[np.float16]]":
        """Packed steps (tokens x packed_bytes) and sizes (tokens) of tokens, given their centroids."""
        packed = np.empty((len(tokens), self.packed_bytes), np.uint8)
        sizes = np.empty(len(tokens), np.float16)
        rows = max(1, _STEPS // self.dim)
        for start in range(0, len(tokens), rows):
            part = slice(start, start + rows)
            residuals = np.asarray(tokens[part], np.float32) - self.centroids[codes[part]]
            packed[part], sizes[part] = self._encode(residuals)
        return packed, sizes

    def _encode(
        self, residuals: "NDArray[np.float32]"
    ) -> "tuple[NDArray[np.uint8], NDArray[np.float16]]":
        if self.nbits == 8:
            width = np.abs(residuals).max(1, initial=0.0) / np.float32(self.middle)
        else:
            squares = np.einsum("td,td->t", residuals, residuals)
            width = np.sqrt(squares / self.dim) * np.float32(_WIDTHS[self.nbits])
        steps = self._steps(residuals, width)
        # Where steps are few, those of the size that fits best are others: a token's own few values count.
        for _ in range(_REFITS[self.nbits]):
            steps = self._steps(residuals, _fitted(steps - np.float32(self.middle), residuals))
        packed = pack_steps(steps.astype(np.uint8), self.nbits)
        return packed, _fitted(steps - np.float32(self.middle), residuals).astype(np.float16)

    def _steps(
        self, residuals: "NDArray[np.float32]", width: "NDArray[np.float32]"
    ) -> "NDArray[np.float32]":
        """The nearest step of each dimension, from 0 on."""
        steps: NDArray[np.float32] = np.divide(
            residuals, np.maximum(width, np.float32(1e-12))[:, None]
        )
        steps += np.float32(self.middle)
        np.rint(steps, out=steps)
        np.clip(steps, 0, (1 << self.nbits) - 1, out=steps)
        return steps

    def decode(
        self,
        codes: "NDArray[np.integer]",
        packed: "NDArray[np.uint8]",
        sizes: "NDArray[np.float16]",
    ) -> "NDArray[np.float16]":
        """The tokens that the codes stand for, (tokens x dim), rounded to the token store's float16.

        Every step is elementwise in float32, so a token's value depends on its own codes alone.
        """
        import torch

        found = np.empty((len(codes), self.dim), np.float16)
        rows = max(1, _STEPS // self.dim)
        for start in range(0, len(codes), rows):
            part = slice(start, start + rows)
            steps = torch.from_numpy(packed[part])
            vectors = unpack_steps(steps, self.nbits, torch.empty((len(steps), self.dim)))
            vectors -= self.middle
            vectors *= torch.from_numpy(sizes[part]).float()[:, None]
            vectors += torch.from_numpy(self.centroids[codes[part]])
            # torch rounds to float16 with vector instructions.
            torch.from_numpy(found[part]).copy_(vectors)
        return found


def _fitted(
    steps: "NDArray[np.float32]", residuals: "NDArray[np.float32]"
) -> "NDArray[np.float32]":
    """Per token the size of a step that leaves least of its residual."""
    fitted: NDArray[np.float32] = np.einsum("td,td->t", steps, residuals) / np.einsum(
        "td,td->t", steps, steps
    )
    return fitted


def pack_steps(steps: "NDArray[np.uint8]", nbits: int) -> "NDArray[np.uint8]":
    """Steps (tokens x dim) as bytes: byte j holds, low bits first, dimensions j, j + width, ...

    ``width`` is the number of bytes. So unpacking takes whole rows of bytes at once.
    """
    width = steps.shape[1] * nbits // 8
    packed = steps[:, :width].copy()
    for place in range(1, 8 // nbits):
        packed |= steps[:, place * width : (place + 1) * width] << np.uint8(place * nbits)
    return packed


def unpack_steps(packed: "torch.Tensor", nbits: int, out: "torch.Tensor") -> "torch.Tensor":
    """What `pack_steps` was given, written to ``out`` (tokens x dim), which may be of any type."""
    width, mask, last = packed.shape[1], (1 << nbits) - 1, 8 - nbits
    for place, shift in enumerate(range(0, 8, nbits)):
        steps = packed >> shift if shift else packed
        out[:, place * width : (place + 1) * width] = steps & mask if shift < last else steps
    return out
