"""Where exact search reads tokens from: a `TokenStore`, or a flat array with offsets."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from m2kr.search.mapped import read_rows
from m2kr.search.store.reader import Block, spans

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TokenSource(Protocol):
    """Passages as float16 token matrices. `TokenStore` is one."""

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        ...

    @property
    def offsets(self) -> "NDArray[np.int64]":
        """One more than passages: where each passage begins among all tokens."""
        ...

    def read(
        self, first: int, last: int, out: "NDArray[np.float16] | None" = None
    ) -> "NDArray[np.float16]":
        """The tokens of passages ``first`` to ``last - 1``, in ``out`` if given."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """A flat array of tokens.

    A memory-mapped one is read from its file into buffers: its pages would count as this process's.

    Attributes:
        vectors: (all tokens x dim); rounded to float16 if it isn't.
        offsets: Passage i owns ``vectors[offsets[i]:offsets[i + 1]]``; the first is 0.
    """

    vectors: "NDArray[np.floating]"
    offsets: "NDArray[np.int64]"

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self.vectors.shape[1]) if self.vectors.ndim == 2 else 0

    def read(
        self, first: int, last: int, out: "NDArray[np.float16] | None" = None
    ) -> "NDArray[np.float16]":
        """The tokens of passages ``first`` to ``last - 1``, in ``out`` if given."""
        start, end = int(self.offsets[first]), int(self.offsets[last])
        if out is None:
            out = np.empty((end - start, self.dim), np.float16)
        return read_rows(self.vectors, start, end, out)


def read_ahead(source: TokenSource, rows: int) -> Iterator[Block]:
    """Reads a source block by block, the next one while the caller works on this one.

    Args:
        source: What to read.
        rows: Tokens a block at most, unless a single passage has more.

    Yields:
        Blocks in order; a block's tokens are overwritten two blocks later.
    """
    offsets = source.offsets
    cuts = spans(offsets, rows)
    most = max((int(offsets[b] - offsets[a]) for a, b in cuts), default=0)
    buffers = [np.empty((most, source.dim), np.float16) for _ in cuts[:2]]

    def read(number: int) -> Block:
        first, last = cuts[number]
        tokens = source.read(first, last, buffers[number % 2])
        return Block(first, tokens, offsets[first : last + 1] - offsets[first])

    with ThreadPoolExecutor(1, "m2kr-read") as reader:
        pending = reader.submit(read, 0) if cuts else None
        for number in range(len(cuts)):
            assert pending is not None
            block = pending.result()
            pending = reader.submit(read, number + 1) if number + 1 < len(cuts) else None
            yield block
