"""Writing a token store: a stream of encoded passages into shards, resumable and appendable.

Beside the tokens of the open shard a file ``open-00000.part`` says which passages had reached the
disk at some moment: an Arrow stream of their ids, lengths and CRC-32 with the SHA-256 of the store's
header, behind the stream's own SHA-256. A writer that opens the store after a kill goes on behind
them. What the file says is believed only as far as the tokens' bytes agree with it. It is no part of
a complete store, which readers know by its records.
"""

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from m2kr import atomic, locks
from m2kr.errors import InputError, M2KRError, UsageError
from m2kr.hashes import file_sha256
from m2kr.search.store.format import (
    DTYPE,
    STORE,
    StoreHeader,
    journal_name,
    read_store_header,
    token_file_names,
)
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.records import ShardRecord, save_array, save_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from hashlib import _Hash

    import pyarrow as pa
    from numpy.typing import NDArray

SHARD_BYTES = 1 << 30
_HEADER = b"settings"
_DIGEST = 32


@dataclass(slots=True)
class _OpenShard:
    """Passages written to a shard so far."""

    number: int
    ids: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # their tokens
    crcs: list[int] = field(default_factory=list)  # CRC-32 of each one's bytes
    nbytes: int = 0
    sha256: "_Hash" = field(default_factory=hashlib.sha256)  # of all bytes

    def add(self, passage_id: str, tokens: int, data: "memoryview | bytes") -> None:
        """Takes note of a passage whose bytes were written."""
        from isal.isal_zlib import crc32

        self.ids.append(passage_id)
        self.lengths.append(tokens)
        self.crcs.append(crc32(data))
        self.nbytes += len(data)
        self.sha256.update(data)

    def save(self, folder: Path, header_sha256: str) -> None:
        """Says on disk which passages there are; their bytes must be synced already."""
        import pyarrow as pa

        columns = [
            pa.array(self.ids, pa.string()),
            pa.array(self.lengths, pa.int32()),
            pa.array(self.crcs, pa.uint32()),
        ]
        batch = pa.record_batch(columns, names=["id", "length", "crc32"])
        batch = batch.replace_schema_metadata({_HEADER: header_sha256.encode()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        data = sink.getvalue().to_pybytes()
        atomic.write_bytes(
            folder / journal_name(self.number), hashlib.sha256(data).digest() + data, alone=True
        )


def _recover(folder: Path, number: int, dim: int, header_sha256: str) -> _OpenShard:
    """What a killed writer left of a shard: the passages whose bytes are what was noted of them.

    An empty one where nothing was noted, or the note is damaged or of another header.
    """
    from isal.isal_zlib import crc32

    shard = _OpenShard(number)
    noted = _noted(folder / journal_name(number), header_sha256)
    tokens = folder / token_file_names(number)[0]
    if not noted or not tokens.is_file():
        return shard
    with tokens.open("rb") as file:
        for passage_id, length, crc in noted:
            size = length * dim * DTYPE.itemsize
            data = file.read(size)
            if len(data) != size or crc32(data) != crc:
                break
            shard.add(passage_id, length, data)
    return shard


def _noted(path: Path, header_sha256: str) -> list[tuple[str, int, int]]:
    import pyarrow as pa

    if not path.is_file():
        return []
    content = path.read_bytes()
    digest, data = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        return []
    with pa.ipc.open_stream(data) as stream:
        table = stream.read_all()
    if (table.schema.metadata or {}).get(_HEADER) != header_sha256.encode():
        return []
    columns = [table.column(name).to_pylist() for name in ("id", "length", "crc32")]
    return list(zip(*columns, strict=True))


class TokenWriter:
    """Adds passages to a token store as they are encoded; use it in ``with``.

    Nothing but the batch at hand is in memory (besides 8 bytes and the id of each passage of the
    open shard). A shard exists from the moment it is full, or the writer is closed. What a killed
    writer had in the open one is lost, unless ``sync_seconds`` is given: then it is synced that
    often, after a call of `append`, and a writer that is opened later goes on behind it, to the same
    shards that one run would have made. To resume, open the same folder again and go on with passage
    number `passages`::

        with TokenWriter(folder, dim=128, meta={"checkpoint": sha256}) as writer:
            for batch in batches_from(writer.passages):
                writer.append(batch.ids, encode(batch))

    A folder that holds a complete store is appended to in the same way, in new shards.

    Args:
        folder: Made if need be.
        dim: Numbers in a vector.
        meta: See `store.format.StoreHeader`; must be what the folder has, if it has a store.
        shard_bytes: Bytes of vectors after which a shard is closed.
        sync_seconds: Least time between two syncs of the open shard, which read and write 30 bytes
            a passage of it; None for no syncs.

    Raises:
        InputError: the folder holds a store with other settings.
        UsageError: another process is writing to it.
        M2KRError: from any call: another process took it over, see `locks.Held.check`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dim: int,
        meta: "Mapping[str, Any] | None" = None,
        shard_bytes: int = SHARD_BYTES,
        sync_seconds: float | None = None,
    ) -> None:
        self.folder = folder
        self._sync_seconds = sync_seconds
        self._header = StoreHeader(dim, dict(meta or {}))
        self._limit = shard_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = locks.take(folder / ".lock", f"the token store {folder}", wait=False)
        try:
            self._open_folder()
        except BaseException:
            self._lock.release()
            raise

    def _open_folder(self) -> None:
        if (self.folder / STORE.header).exists():
            found = read_store_header(self.folder)
            if found.as_dict() != self._header.as_dict():
                raise InputError(
                    f"the store here was written with {found.as_dict()}",
                    where=str(self.folder),
                    expected=f"{self._header.as_dict()}",
                    fix="use another folder, or delete this one",
                )
        else:
            STORE.write_header(self.folder, self._header.as_dict())
        self._header_sha256 = file_sha256(self.folder / STORE.header)
        store = TokenStore.open(self.folder)
        self._complete, number = len(store), len(store.shards)
        self._file: IO[bytes] | None = None
        self._shard = _OpenShard(number)
        if self._sync_seconds is not None:
            self._shard = _recover(self.folder, number, self._header.dim, self._header_sha256)
        if not self._shard.ids:
            self._remove(number)
        self._passages = self._complete + len(self._shard.ids)
        self._synced = time.monotonic()

    @property
    def passages(self) -> int:
        """Passages in complete shards, or synced: where to go on after a kill."""
        return self._passages

    def ids(self) -> "pa.ChunkedArray":
        """Ids of these passages, in order.

        Raises:
            CheckError: a file of ids was changed.
        """
        import pyarrow as pa

        complete = TokenStore.open(self.folder).ids().chunks
        return pa.chunked_array([*complete, pa.array(self._shard.ids, pa.string())])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        if self._sync_seconds is not None and self._file is not None:
            with suppress(OSError, M2KRError):
                self._sync()
        self.abandon()

    def append(self, ids: "Sequence[str]", matrices: "Sequence[NDArray[Any]]") -> None:
        """Adds passages.

        Args:
            ids: One a passage; a store may hold an id more than once.
            matrices: One (tokens x dim) array a passage, of any float type, rounded to float16.
                All-zero rows are masked tokens and left out.

        Raises:
            InputError: a matrix has another form, or a value that is NaN or too big for float16;
                nothing of this call was added.
            UsageError: ids and matrices differ in number, or the writer is closed.
        """
        if self._lock.released:
            raise UsageError("the writer is closed", where=str(self.folder))
        if len(ids) != len(matrices):
            raise UsageError(f"{len(ids)} ids came with {len(matrices)} matrices")
        stored = [self._stored(i, matrix) for i, matrix in zip(ids, matrices, strict=True)]
        for passage_id, tokens in zip(ids, stored, strict=True):
            self._add(passage_id, tokens)
        due = self._sync_seconds is not None and self._file is not None
        if due and time.monotonic() - self._synced >= (self._sync_seconds or 0.0):
            self._sync()

    def _stored(self, passage_id: str, matrix: "NDArray[Any]") -> "NDArray[np.float16]":
        where = f"passage {passage_id}"
        if matrix.ndim != 2 or matrix.shape[1] != self._header.dim:
            raise InputError(
                f"a passage was encoded with shape {matrix.shape}",
                where=where,
                expected=f"(tokens, {self._header.dim})",
            )
        with np.errstate(over="ignore"):
            tokens = matrix.astype(DTYPE)
        if not np.isfinite(tokens).all():
            raise InputError(
                "an encoded value is NaN, infinite or too big for float16",
                where=where,
                expected=f"at most {np.finfo(np.float16).max}; normalise the vectors",
            )
        return np.ascontiguousarray(tokens[tokens.any(axis=1)])

    def _add(self, passage_id: str, tokens: "NDArray[np.float16]") -> None:
        if self._file is None:
            self._file = self._opened()
        data = tokens.reshape(-1).view(np.uint8).data
        self._file.write(data)
        self._shard.add(passage_id, len(tokens), data)
        if self._shard.nbytes >= self._limit:
            self._finish_shard()

    def _opened(self) -> IO[bytes]:
        """The open shard's tokens, cut behind what is known of them."""
        self._lock.check()
        path = self.folder / token_file_names(self._shard.number)[0]
        file = atomic.reopen(path)
        file.truncate(self._shard.nbytes)
        file.seek(self._shard.nbytes)
        return file

    def _sync(self) -> None:
        assert self._file is not None
        self._lock.check()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._shard.save(self.folder, self._header_sha256)
        self._passages = self._complete + len(self._shard.ids)
        self._synced = time.monotonic()

    def _finish_shard(self) -> None:
        """Syncs the open shard's files, then writes its record."""
        shard = self._shard
        if self._file is None:
            if not shard.ids:
                return
            self._file = self._opened()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._lock.check()
        tokens, lengths, crcs, ids = token_file_names(shard.number)
        save_array(self.folder / lengths, np.array(shard.lengths, "<i4"))
        save_array(self.folder / crcs, np.array(shard.crcs, "<u4"))
        save_ids(self.folder / ids, shard.ids)
        sums = {name: file_sha256(self.folder / name) for name in (lengths, crcs, ids)}
        record = ShardRecord(
            shard.number,
            len(shard.ids),
            sum(shard.lengths),
            self._header_sha256,
            {tokens: shard.sha256.hexdigest(), **sums},
        )
        atomic.fsync_dir(self.folder)
        self._lock.check()
        STORE.write_record(self.folder, record)
        (self.folder / journal_name(shard.number)).unlink(missing_ok=True)
        self._complete += len(shard.ids)
        self._passages = self._complete
        self._shard = _OpenShard(shard.number + 1)

    def close(self) -> TokenStore:
        """Finishes the open shard and opens the store for reading."""
        try:
            self._finish_shard()
        finally:
            self.abandon()
        return TokenStore.open(self.folder)

    def abandon(self) -> None:
        """Lets go of the store: as it is if it is synced, else without its open shard."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if self._sync_seconds is None and not self._lock.lost:
                self._remove(self._shard.number)
        self._lock.release()

    def _remove(self, number: int) -> None:
        for name in (*token_file_names(number), journal_name(number)):
            (self.folder / name).unlink(missing_ok=True)
