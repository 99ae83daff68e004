"""Reading a token store, or whatever else exact search may read tokens from, block by block.

`store.format` documents the files, `store.writer` writes them. Tokens are read into buffers of a
given size, not through a memory map, so that a process stays as small as it asked to be. Every
passage of a store that is read is compared with its CRC-32, which finds any flipped byte.
"""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from m2kr.errors import CheckError, UsageError
from m2kr.search.store.format import (
    DTYPE,
    STORE,
    journal_name,
    read_store_header,
    token_file_names,
)
from m2kr.search.store.mapped import fill, read_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from m2kr.search.store.records import ShardRecord


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive passages.

    Attributes:
        first: Number of the first one.
        tokens: (all tokens x dim) float16, passage after passage.
        offsets: int64; passage ``first + i`` owns ``tokens[offsets[i]:offsets[i + 1]]``.
    """

    first: int
    tokens: "NDArray[np.float16]"
    offsets: "NDArray[np.int64]"

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True, eq=False)
class TokenStore:
    """The passages of the complete shards, numbered in the order they were written.

    Attributes:
        folder: Where it lies.
        dim: Numbers in a vector.
        meta: What the writer's caller recorded.
        shards: The records of the shards.
        lengths: int32, tokens of each passage.
        offsets: int64, one more than passages: where each passage begins among all tokens.
    """

    folder: Path
    dim: int
    meta: "Mapping[str, Any]"
    shards: "Sequence[ShardRecord]"
    lengths: "NDArray[np.int32]"
    offsets: "NDArray[np.int64]"
    _crcs: "NDArray[np.uint32]"
    _starts: "NDArray[np.int64]"  # first passage of each shard, and the number of passages

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens a store; reads 8 bytes a passage, and checks their SHA-256.

        Raises:
            MissingError: there is none.
            InputError: it is of another format.
            CheckError: a record, lengths, checksums or settings were changed, or a file is cut short.
        """
        header = read_store_header(folder)
        shards = STORE.read_records(folder, token_file_names)
        lengths: list[NDArray[Any]] = [np.zeros(0, np.int32)]
        crcs: list[NDArray[Any]] = [np.zeros(0, np.uint32)]
        for shard in shards:
            tokens, *tables, _ = token_file_names(shard.number)
            for name, arrays in zip(tables, (lengths, crcs), strict=True):
                arrays.append(STORE.read_array(folder, name, shard.sha256, shard.passages))
            size = (folder / tokens).stat().st_size if (folder / tokens).is_file() else -1
            right = shard.tokens * header.dim * DTYPE.itemsize
            if size != right or int(lengths[-1].sum()) != shard.tokens:
                raise STORE.damaged(folder / tokens, f"it has {size} bytes instead of {right}")
        every = np.concatenate(lengths)
        return cls(
            folder,
            header.dim,
            header.meta,
            shards,
            every,
            np.concatenate([[0], np.cumsum(every, dtype=np.int64)]),
            np.concatenate(crcs),
            np.cumsum([0, *(shard.passages for shard in shards)], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def unfinished(self) -> str | None:
        """What it lacks, as a sentence says it, if its writer was cut off or is at it; else None.

        It is known if the writer was told how many rows there are (``rows`` in ``meta``), or died
        within a shard.
        """
        wanted, number = self.meta.get("rows"), len(self.shards)
        if type(wanted) is int and len(self) < wanted:
            return f"it holds {len(self):,} of {wanted:,} passages"
        begun = (token_file_names(number)[0], journal_name(number))
        if any((self.folder / name).exists() for name in begun):
            return f"the shard behind its {len(self):,} passages is not complete"
        return None

    def require_whole(self) -> None:
        """Refuses a store that is not complete: a search or an index would miss the rest in silence.

        Raises:
            CheckError: it lacks passages.
        """
        if self.unfinished:
            raise CheckError(
                f"its writing was cut off, or goes on: {self.unfinished}",
                where=str(self.folder),
                expected="a whole token store",
                fix="run the command that writes it again: it goes on where it ended",
            )

    @property
    def tokens(self) -> int:
        """Tokens of all passages."""
        return int(self.offsets[-1])

    def ids(self) -> "pa.ChunkedArray":
        """The passages' ids, as one string column of a chunk per shard, checked by SHA-256.

        Raises:
            CheckError: a file of ids was changed.
        """
        return STORE.read_ids(self.folder, lambda number: token_file_names(number)[3], self.shards)

    def read(
        self, first: int, last: int, out: "NDArray[np.float16] | None" = None
    ) -> "NDArray[np.float16]":
        """The tokens of passages ``first`` to ``last - 1``, (all their tokens x dim).

        Args:
            first: Number of the first passage.
            last: One past the last.
            out: (at least as many tokens x dim) float16, C-contiguous, to read into; the result
                is then its beginning.

        Raises:
            UsageError: there are no such passages, or ``out`` is too small.
            CheckError: a passage differs from its checksum.
        """
        if not 0 <= first <= last <= len(self):
            raise UsageError(f"passages {first} to {last} of {len(self)} were asked for")
        base = int(self.offsets[first])
        count = int(self.offsets[last]) - base
        if out is None:
            out = np.empty((count, self.dim), DTYPE)
        elif len(out) < count:
            raise UsageError(f"{count} tokens don't fit the {len(out)} rows of the buffer")
        tokens = out[:count]
        shard = int(np.searchsorted(self._starts, first, side="right")) - 1
        while first < last:
            end = min(last, int(self._starts[shard + 1]))
            with self._tokens_file(shard) as file:
                self._read_from(shard, first, end, tokens[int(self.offsets[first]) - base :], file)
            first, shard = end, shard + 1
        return tokens

    def _tokens_file(self, shard: int) -> io.FileIO:
        path = self.folder / token_file_names(shard)[0]
        try:
            return path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise STORE.damaged(path, "it is gone") from error

    def _read_from(
        self, shard: int, first: int, last: int, out: "NDArray[np.float16]", file: io.FileIO
    ) -> None:
        from isal.isal_zlib import crc32

        spans = self.offsets[first : last + 1] * (self.dim * DTYPE.itemsize)
        start = int(self.offsets[self._starts[shard]]) * self.dim * DTYPE.itemsize
        view = out.reshape(-1).view(np.uint8).data[: int(spans[-1] - spans[0])]
        file.seek(int(spans[0]) - start)
        if not fill(file, view):
            raise self._ends_early(file)
        places = (spans - spans[0]).tolist()
        wanted = self._crcs[first:last].tolist()
        for number, (a, b) in enumerate(pairwise(places)):
            if crc32(view[a:b]) != wanted[number]:
                raise self._differs(file, first + number)

    @staticmethod
    def _ends_early(file: io.FileIO) -> CheckError:
        return STORE.damaged(Path(str(file.name)), "it ends before its last passage")

    @staticmethod
    def _differs(file: io.FileIO, number: int) -> CheckError:
        return STORE.damaged(
            Path(str(file.name)), f"passage {number} differs from its checksum: a byte was changed"
        )

    def read_some(self, numbers: "NDArray[np.int64]", out: "NDArray[np.float16]") -> None:
        """Reads the tokens of some passages, one after another.

        Args:
            numbers: Which, ascending, each once.
            out: (at least as many tokens x dim) float16, C-contiguous, to read into.

        Raises:
            CheckError: a passage differs from its checksum.
        """
        from isal.isal_zlib import crc32

        width = self.dim * DTYPE.itemsize
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        places = (self.offsets[numbers] - self.offsets[self._starts[shards]]) * width
        sizes = self.lengths[numbers].astype(np.int64) * width
        view = out.reshape(-1).view(np.uint8).data
        wanted = zip(
            *(side.tolist() for side in (shards, numbers, places, sizes, self._crcs[numbers])),
            strict=True,
        )
        end = 0
        for shard, passages in groupby(wanted, key=itemgetter(0)):
            with self._tokens_file(shard) as file:
                for _, number, place, size, crc in passages:
                    piece = view[end : end + size]
                    end += size
                    file.seek(place)
                    if not fill(file, piece):
                        raise self._ends_early(file)
                    if crc32(piece) != crc:
                        raise self._differs(file, number)

    def take(self, numbers: "Sequence[int] | NDArray[np.integer]") -> "list[NDArray[np.float16]]":
        """The token matrices of some passages, in the order asked for.

        Raises:
            UsageError: there is no such passage.
            CheckError: a passage differs from its checksum.
        """
        return [self.read(int(number), int(number) + 1) for number in numbers]

    def verify(self) -> None:
        """Compares every byte of the store with the SHA-256 sums of its records.

        Raises:
            CheckError: a file was changed; names it.
        """
        for shard in self.shards:
            STORE.check_sha256(self.folder, shard.sha256)


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


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A range of a source as a source of its own, its passages numbered from 0.

    Attributes:
        source: The whole.
        first: Number there of the range's first passage.
        offsets: Where each begins among the range's tokens, and where the last one ends.
    """

    source: TokenSource
    first: int
    offsets: "NDArray[np.int64]"

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.source.dim

    def read(
        self, first: int, last: int, out: "NDArray[np.float16] | None" = None
    ) -> "NDArray[np.float16]":
        """The tokens of passages ``first`` to ``last - 1`` of the range, in ``out`` if given."""
        return self.source.read(self.first + first, self.first + last, out)


def store_behind(source: TokenSource) -> tuple[TokenStore, int] | None:
    """The token store that a source is, or is a range of, and the number there of its first passage."""
    first = 0
    while isinstance(source, Slice):
        first += source.first
        source = source.source
    return (source, first) if isinstance(source, TokenStore) else None


def ids_of(source: TokenSource) -> "pa.ChunkedArray":
    """The ids of a store's passages.

    Raises:
        UsageError: it is no store, so it has none.
    """
    if not isinstance(source, TokenStore):
        raise UsageError(
            "the ranks of the passages' ids are needed", fix="m2kr.ranking.id_ranks(ids)"
        )
    return source.ids()


def block_spans(offsets: "NDArray[np.int64]", rows: int) -> list[tuple[int, int]]:
    """Cuts passages into runs of at most ``rows`` tokens, or of one passage if it is longer."""
    cuts = []
    first, n = 0, len(offsets) - 1
    while first < n:
        end = int(np.searchsorted(offsets, offsets[first] + rows, side="right")) - 1
        last = min(n, max(first + 1, end))
        cuts.append((first, last))
        first = last
    return cuts


def read_ahead(source: TokenSource, rows: int) -> Iterator[Block]:
    """Reads a source block by block, the next one while the caller works on this one.

    Args:
        source: What to read.
        rows: Tokens a block at most, unless a single passage has more.

    Yields:
        Blocks in order; a block's tokens are overwritten two blocks later.
    """
    offsets = source.offsets
    cuts = block_spans(offsets, rows)
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
