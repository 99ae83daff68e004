"""Writing a compressed index: a stream of passages into shards, resumable and appendable."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from m2kr import atomic
from m2kr.errors import UsageError
from m2kr.hashes import file_sha256
from m2kr.search.index.files import code_type, read_index_records
from m2kr.search.index.format import INDEX, MOST_PASSAGES, index_file_names, read_index_header
from m2kr.search.index.ivf import InvertedLists
from m2kr.search.store.records import ShardRecord, save_array, save_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.locks import Held


# Of tokens (tokens x dim): codes, packed residuals and, where the kind has them, sizes.
TokenCoder = Callable[
    ["NDArray[np.float16]"],
    "tuple[NDArray[np.integer], NDArray[np.uint8], NDArray[np.float16] | None]",
]


class ShardedIndexWriter:
    """Adds passages to an index whose settings are written; use it in ``with``.

    A shard exists from the moment it is full, or the ``with`` block is left without an error; what
    a killed writer had in the open shard is lost, and its files are removed by the next writer.
    Of the open shard, 6 bytes a token are in memory.

    Args:
        folder: The index.
        lock: The right to write to it, held while this writes.
        coder: Codes tokens.
        shard_passages: Passages after which a shard is closed.
    """

    def __init__(
        self,
        folder: Path,
        lock: "Held",
        coder: TokenCoder,
        *,
        shard_passages: int = MOST_PASSAGES,
    ) -> None:
        if not 1 <= shard_passages <= MOST_PASSAGES:
            raise UsageError(f"{shard_passages} passages a shard", expected=f"1 to {MOST_PASSAGES}")
        self._folder, self._lock = folder, lock
        self._code, self._limit = coder, shard_passages
        self._header = read_index_header(folder)
        self._header_sha256 = file_sha256(folder / INDEX.header)
        self._number = len(read_index_records(folder, self._header))
        self._source, self._first = "", 0
        self._file: IO[bytes] | None = None
        self._clear()

    def _clear(self) -> None:
        for name in self._names().values():
            (self._folder / name).unlink(missing_ok=True)
        self._sha256 = hashlib.sha256()
        self._codes: list[NDArray[np.integer]] = []
        self._sizes: list[NDArray[np.float16]] = []
        self._lengths: list[int] = []
        self._crcs: list[int] = []
        self._ids: list[str] = []

    def _names(self) -> dict[str, str]:
        return index_file_names(self._number, self._header.kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish_shard()
        elif self._file is not None:
            self._file.close()
            if not self._lock.lost:
                self._clear()

    def append(
        self,
        ids: "Sequence[str]",
        tokens: "NDArray[np.float16]",
        lengths: "Sequence[int]",
        *,
        source: str,
        first: int,
    ) -> None:
        """Adds passages, at most as many as `room` says.

        Args:
            ids: One a passage.
            tokens: (all their tokens x dim).
            lengths: Tokens of each.
            source: What they were read from; one shard holds passages of one source.
            first: Number of the first of them there.
        """
        from isal.isal_zlib import crc32

        if self._file is None:
            self._lock.check()
            self._source, self._first = source, first
            self._file = atomic.create(self._folder / self._names()["residuals"])
        codes, packed, sizes = self._code(tokens)
        data = np.ascontiguousarray(packed).reshape(-1).data
        self._file.write(data)
        self._sha256.update(data)
        self._codes.append(codes.astype(code_type(self._header.centroids)))
        if sizes is not None:
            self._sizes.append(sizes)
        start = 0
        for length in lengths:
            end = start + length * packed.shape[1]
            self._crcs.append(crc32(data[start:end]))
            start = end
        self._lengths.extend(lengths)
        self._ids.extend(ids)
        if self.room <= 0:
            self._finish_shard()

    @property
    def room(self) -> int:
        """Passages that the open shard still takes."""
        return self._limit - len(self._ids)

    def _finish_shard(self) -> None:
        """Syncs the open shard's files, then writes its record."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._lock.check()
        codes = np.concatenate(self._codes)
        lengths = np.array(self._lengths, "<i4")
        lists = InvertedLists.of(codes, lengths, self._header.centroids)
        tables: dict[str, NDArray[Any]] = {
            "codes": codes,
            "lengths": lengths,
            "crc32": np.array(self._crcs, "<u4"),
            "members": lists.documents.astype("<u2"),
            "lists": lists.offsets.astype("<u4"),
        }
        if self._sizes:
            tables["sizes"] = np.concatenate(self._sizes).astype("<f2")
        names = self._names()
        for part, table in tables.items():
            save_array(self._folder / names[part], table)
        save_ids(self._folder / names["ids"], self._ids)
        sums = {
            name: file_sha256(self._folder / name)
            for part, name in names.items()
            if part != "residuals"
        }
        sums[names["residuals"]] = self._sha256.hexdigest()
        atomic.fsync_dir(self._folder)
        shard = ShardRecord(
            self._number,
            len(lengths),
            len(codes),
            self._header_sha256,
            sums,
            self._source,
            self._first,
        )
        self._lock.check()
        INDEX.write_record(self._folder, shard)
        self._number += 1
        self._clear()
