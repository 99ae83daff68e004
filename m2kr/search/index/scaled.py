"""The compressed index's own code of a token: a centroid, even steps per dimension, the steps' size.

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

from m2kr.errors import InputError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

NBITS = (2, 4, 8)
_WIDTHS = {2: 0.9957, 4: 0.3352}  # of a step, in root mean squares
_BLOCK = 1 << 19  # numbers in work at a time: what stays in the cache


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
        if self.nbits not in NBITS:
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
        rows = max(1, _BLOCK // self.dim)
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
        width = np.maximum(width, np.float32(1e-12))
        highest = (1 << self.nbits) - 1
        steps = residuals / width[:, None]
        steps += np.float32(self.middle)
        np.rint(steps, out=steps)
        np.clip(steps, 0, highest, out=steps)
        packed = pack(steps.astype(np.uint8), self.nbits)
        steps -= np.float32(self.middle)
        sizes = np.einsum("td,td->t", steps, residuals) / np.einsum("td,td->t", steps, steps)
        return packed, sizes.astype(np.float16)

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
        rows = max(1, _BLOCK // self.dim)
        for start in range(0, len(codes), rows):
            part = slice(start, start + rows)
            steps = torch.from_numpy(packed[part])
            vectors = unpack(steps, self.nbits, torch.empty((len(steps), self.dim)))
            vectors -= self.middle
            vectors *= torch.from_numpy(sizes[part]).float()[:, None]
            vectors += torch.from_numpy(self.centroids[codes[part]])
            # torch rounds to float16 with vector instructions.
            torch.from_numpy(found[part]).copy_(vectors)
        return found


def pack(steps: "NDArray[np.uint8]", nbits: int) -> "NDArray[np.uint8]":
    """Steps (tokens x dim) as bytes: byte j holds, low bits first, dimensions j, j + width, ...

    ``width`` is the number of bytes. So unpacking takes whole rows of bytes at once.
    """
    width = steps.shape[1] * nbits // 8
    packed = steps[:, :width].copy()
    for place in range(1, 8 // nbits):
        packed |= steps[:, place * width : (place + 1) * width] << np.uint8(place * nbits)
    return packed


def unpack(packed: "torch.Tensor", nbits: int, out: "torch.Tensor") -> "torch.Tensor":
    """What `pack` was given, written to ``out`` (tokens x dim), which may be of any type."""
    width, mask, last = packed.shape[1], (1 << nbits) - 1, 8 - nbits
    for place, shift in enumerate(range(0, 8, nbits)):
        steps = packed >> shift if shift else packed
        out[:, place * width : (place + 1) * width] = steps & mask if shift < last else steps
    return out
