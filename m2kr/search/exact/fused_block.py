"""A block of passages for the compiled kernel (`cpu_fused`): its codes, and its tokens as they are needed."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.search.exact import cpu_fused, reference
from m2kr.search.exact.canonical import order_free
from m2kr.search.exact.kept_codes import kept_codes
from m2kr.search.exact.reference import EMPTY
from m2kr.search.store.reader import block_spans, read_ahead, store_behind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from m2kr.concurrency import Workers
    from m2kr.search.exact.canonical import RoundedQuery
    from m2kr.search.exact.cpu_fused import FusedCodes, Kernel
    from m2kr.search.store.reader import TokenSource, TokenStore

# The kernel's passes, and the bits of a query's codes in each. Per row of unit vectors their margins are
# about 0.012 and 0.006, of which 0.006 is the tokens'.
FUSED = {"fused-int8": 8, "fused-int16": 16}


class FusedBlock:
    """A block in the kernel's codes.

    Args:
        kernel: Whose codes.
        passes: Names from `FUSED`, first to last.
        first: Number of its first passage in the source.
        codes: The codes.
        tokens: Its tokens; or room for as many, which `read` fills from the beginning on.
        store: Whom `read` asks for them.
        number: Number of the block's first passage there.

    Attributes:
        first: As given.
        codes: As given.
        count: Tokens of all.
    """

    def __init__(
        self,
        kernel: "Kernel",
        passes: "Sequence[str]",
        first: int,
        codes: "FusedCodes",
        tokens: "NDArray[np.float16]",
        store: "TokenStore | None" = None,
        number: int = 0,
    ) -> None:
        self.first, self.codes = first, codes
        self.count = int(codes.offsets[-1])
        self._bits = [FUSED[name] for name in passes]
        self._kernel, self._tokens = kernel, tokens
        self._store, self._number = store, number
        self._filled = 0
        # Where a passage's tokens begin, -1 where they are not there.
        self._starts = codes.offsets[:-1] if store is None else np.full(len(codes), -1)

    def __len__(self) -> int:
        return len(self.codes)

    def scan(self, queries: "Sequence[RoundedQuery]", workers: "Workers") -> "NDArray[np.float32]":
        """Upper bounds of all canonical scores by the first pass, (queries x passages).

        Args:
            queries: Each with one row at least.
            workers: Who does it.
        """
        rows = self._kernel.rows(queries, self.codes.dim, self._bits[0])
        found = self._kernel.bounds(self.codes, rows, workers)
        empty = np.flatnonzero(np.diff(self.codes.offsets) == 0)
        if len(empty):
            lowest = np.array([EMPTY * len(query.rows) for query in queries], np.float32)
            found[:, empty] = np.nextafter(lowest, np.float32(np.inf))[:, None]
        return found

    def narrow(
        self, query: "RoundedQuery", stage: int, numbers: "NDArray[np.int64]"
    ) -> "NDArray[np.float32]":
        """Bounds of some passages by a later pass; infinity for those without tokens."""
        rows = self._kernel.rows([query], self.codes.dim, self._bits[stage])
        found: NDArray[np.float32] = self._kernel.bounds(self.codes, rows, numbers=numbers)[0]
        found[self.codes.offsets[numbers] == self.codes.offsets[numbers + 1]] = np.inf
        return found

    def scores(self, query: "RoundedQuery", numbers: "NDArray[np.int64]") -> "NDArray[np.float64]":
        """Canonical scores of passages whose tokens are there."""
        codes, starts = self.codes, self._starts[numbers]
        lengths = np.diff(codes.offsets)[numbers]
        longest = codes.length[numbers]
        fast = order_free(query, lengths, longest, codes.shortest[numbers])
        found = np.empty(len(numbers))
        found[fast] = self._kernel.scores(
            query, self._tokens, starts[fast], lengths[fast], longest[fast]
        )
        for place in np.flatnonzero(~fast):
            tokens = self._tokens[starts[place] : starts[place] + lengths[place]]
            found[place] = reference.maxsim(query.rows, tokens)
        return found + 0.0

    def read(self, numbers: "Sequence[NDArray[np.int64]]") -> int:
        """Makes the tokens of some passages be there; gives the bytes that were read for it."""
        if self._store is None:
            return 0
        wanted = np.zeros(len(self.codes), bool)
        for some in numbers:
            wanted[some] = True
        chosen = np.flatnonzero(wanted & (self._starts < 0))
        lengths = np.diff(self.codes.offsets)[chosen]
        ends = self._filled + np.cumsum(lengths)
        self._store.read_some(chosen + self._number, self._tokens[self._filled :])
        self._starts[chosen] = ends - lengths
        before, self._filled = self._filled, int(ends[-1]) if len(ends) else self._filled
        return (self._filled - before) * self.codes.dim * 2


def fused_blocks(
    source: "TokenSource", passes: "Sequence[str]", tokens: int, workers: "Workers", memory: int
) -> "Iterator[tuple[FusedBlock, int]]":
    """All of a source in the kernel's codes, block by block, and the bytes that were read for each.

    Args:
        source: What to read. A store's codes are kept beside it (`kept_codes`).
        passes: Names from `FUSED`, first to last.
        tokens: Of a block, at most, unless a single passage has more.
        workers: Who codes.
        memory: Bytes that may be used for coding a store, and for kept codes.

    Raises:
        InputError: a token is NaN or infinite.
        CheckError: a passage of a store differs from its checksum.
    """
    kernel = cpu_fused.kernel()
    assert kernel is not None
    behind = store_behind(source)
    shards = None
    if behind is not None:
        store, first = behind
        last = first + len(source.offsets) - 1
        shards = kept_codes(store, first, last, kernel, workers, memory)
    if behind is None or shards is None:
        for block in read_ahead(source, tokens):
            codes = kernel.code(block.tokens, block.offsets, workers, block.first)
            yield FusedBlock(kernel, passes, block.first, codes, block.tokens), block.tokens.nbytes
        return
    buffer = np.empty((0, store.dim), np.float16)
    # What is mapped counts as this process's memory, so it is let go of where it is much.
    crowded = sum(shard.codes.codes.nbytes for shard in shards) > memory // 2
    for shard in shards:
        codes, start = shard.codes, shard.first
        begin, end = max(first, start) - start, min(last, start + len(codes)) - start
        offsets = codes.offsets[begin : end + 1] - codes.offsets[begin]
        for a, b in block_spans(offsets, tokens):
            part = codes.part(begin + a, begin + b)
            count = int(part.offsets[-1])
            if count > len(buffer):
                buffer = np.empty((count, store.dim), np.float16)
            number = start + begin + a
            yield (
                FusedBlock(kernel, passes, number - first, part, buffer, store, number),
                part.codes.nbytes,
            )
            if crowded:
                shard.forget()
