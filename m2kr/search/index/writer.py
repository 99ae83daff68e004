"""Writing a compressed index: a stream of passages into shards, resumable and appendable."""

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from m2kr import atomic
from m2kr.errors import UsageError
from m2kr.search.index import format as layout
from m2kr.search.index.files import code_type, read_records
from m2kr.search.index.ivf import InvertedLists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.locks import Held


class Encoder(Protocol):
    """Codes tokens for one kind of index."""

    def encode(
        self, tokens: "NDArray[np.float16]"
    ) -> "tuple[NDArray[np.integer], NDArray[np.uint8], NDArray[np.float16] | None]":
        """Codes, packed residuals and, where the kind has them, sizes of tokens (tokens x dim)."""
        ...


class IndexWriter:
    """Adds passages to an index whose settings are written; use it in ``with``.

    A shard exists from the moment it is full, or the ``with`` block is left without an error; what
    a killed writer had in the open shard is lost, and its files are removed by the next writer.
    Of the open shard, 6 bytes a token are in memory.

    Args:
        folder: The index.
        lock: The right to write to it, held while this writes.
        encoder: Codes tokens.
        shard_passages: Passages after which a shard is closed.
    """

    def __init__(
        self,
        folder: Path,
        lock: "Held",
        encoder: Encoder,
        *,
        shard_passages: int = layout.MOST_PASSAGES,
    ) -> None:
        if not 1 <= shard_passages <= layout.MOST_PASSAGES:
            raise UsageError(
                f"{shard_passages} passages a shard", expected=f"1 to {layout.MOST_PASSAGES}"
            )
        self._folder, self._lock = folder, lock
        self._encoder, self._limit = encoder, shard_passages
        self._settings = layout.read_settings(folder)
        self._sum = layout.sha256_of(folder / layout.SETTINGS)
        self._number = len(read_records(folder, self._settings))
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
        return layout.names(self._number, self._settings.kind)

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
        codes, packed, sizes = self._encoder.encode(tokens)
        data = np.ascontiguousarray(packed).reshape(-1).data
        self._file.write(data)
        self._sha256.update(data)
        self._codes.append(codes.astype(code_type(self._settings.centroids)))
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
        lists = InvertedLists.of(codes, lengths, self._settings.centroids)
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
            save(self._folder / names[part], table)
        _save_ids(self._folder / names["ids"], self._ids)
        sums = {
            name: layout.sha256_of(self._folder / name)
            for part, name in names.items()
            if part != "residuals"
        }
        sums[names["residuals"]] = self._sha256.hexdigest()
        atomic.fsync_dir(self._folder)
        shard = layout.Shard(
            self._number,
            len(lengths),
            len(codes),
            self._source,
            self._first,
            self._sum,
            sums,
        )
        self._lock.check()
        layout.write_record(self._folder, shard)
        self._number += 1
        self._clear()


def save(path: Path, array: "NDArray[Any]") -> None:
    """Writes an array and syncs it."""
    with atomic.create(path) as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _save_ids(path: Path, ids: "Sequence[str]") -> None:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    column = pa.record_batch([pa.array(ids, pa.string())], names=["id"])
    with pa.ipc.new_stream(sink, column.schema) as stream:
        stream.write_batch(column)
    atomic.write_bytes(path, sink.getvalue().to_pybytes(), alone=True)
