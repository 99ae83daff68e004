"""A block of passages for the compiled kernel (`cpu_fused`): its codes, and its tokens as they are needed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from m2kr.search.exact import cpu_fused
from m2kr.search.exact.reference import EMPTY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.concurrency import Workers
    from m2kr.search.exact.canonical import RoundedQuery
    from m2kr.search.exact.cpu_fused import FusedCodes, Kernel
    from m2kr.search.store.reader import Block

# The kernel's passes, and the bits of a query's codes in each. Per row of unit vectors their margins are
# about 0.012 and 0.006, of which 0.006 is the tokens'.
FUSED = {"fused-int8": 8, "fused-int16": 16}


@dataclass(frozen=True, slots=True, eq=False)
class FusedBlock:
    """A block in the kernel's codes.

    Attributes:
        block: The passages.
        codes: Their codes.
    """

    block: "Block"
    codes: "FusedCodes"
    _kernel: "Kernel"

    @classmethod
    def of(cls, block: "Block", workers: "Workers") -> Self:
        """Codes a block whose tokens were read.

        Raises:
            InputError: a token is NaN or infinite.
        """
        kernel = cpu_fused.kernel()
        assert kernel is not None
        return cls(block, kernel.code(block.tokens, block.offsets, workers, block.first), kernel)

    def scan(
        self, queries: "Sequence[RoundedQuery]", bits: int, workers: "Workers"
    ) -> "NDArray[np.float32]":
        """Upper bounds of all canonical scores, (queries x passages).

        Args:
            queries: Each with one row at least.
            bits: Of their codes.
            workers: Who does it.
        """
        rows = self._kernel.rows(queries, self.codes.dim, bits)
        found = self._kernel.bounds(self.codes, rows, workers)
        empty = np.flatnonzero(np.diff(self.codes.offsets) == 0)
        if len(empty):
            lowest = np.array([EMPTY * len(query.rows) for query in queries], np.float32)
            found[:, empty] = np.nextafter(lowest, np.float32(np.inf))[:, None]
        return found

    def narrow(
        self, query: "RoundedQuery", bits: int, numbers: "NDArray[np.int64]"
    ) -> "NDArray[np.float32]":
        """`scan` of one query and some passages, by their numbers in the block; of empty ones infinity."""
        rows = self._kernel.rows([query], self.codes.dim, bits)
        found: NDArray[np.float32] = self._kernel.bounds(self.codes, rows, numbers=numbers)[0]
        found[self.codes.offsets[numbers] == self.codes.offsets[numbers + 1]] = np.inf
        return found

    def read(self, numbers: "Sequence[NDArray[np.int64]]") -> None:
        """Makes the tokens of some passages be there: they are."""
