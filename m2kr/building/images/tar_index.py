"""Making the offset index of a tar, from a local file or in one pass over a remote one."""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

from m2kr import atomic
from m2kr.building.formats.limits import is_safe
from m2kr.building.images.remote_file import JOBS, RemoteFile, Span
from m2kr.concurrency import chunks
from m2kr.data.images.archives import Header, scan_tar
from m2kr.data.images.index import plain_name
from m2kr.data.images.tar_offsets import BLOCK, TarFacts, index_schema
from m2kr.errors import InputError
from m2kr.hashes import file_sha256
from m2kr.progress import SILENT, Progress

# name, offset of the content, its size, crc32 of the header before it
Row = tuple[str, int, int, int]
_GROUP_ROWS = 50_000
_PIECE = 8 << 20


def index_tar(tar: Path, index: Path) -> int:
    """Writes the index of a local, uncompressed tar, and its checksum beside it.

    Only regular files whose names are paths below the archive are entered.

    Args:
        tar: The archive.
        index: The Parquet file to write; by custom ``<tar name>.index.parquet``.

    Returns:
        How many members it has.

    Raises:
        InputError: the tar is damaged, cut short or compressed.
    """
    facts = TarFacts(tar.name, tar.stat().st_size)
    with tar.open("rb", buffering=0) as file:

        def rows() -> Iterator[Row]:
            for name, offset, size, *_ in scan_tar(tar):
                if plain := _storable(name):
                    header = os.pread(file.fileno(), BLOCK, offset - BLOCK)
                    yield plain, offset, size, zlib.crc32(header)

        return _write_with_checksum(index, rows(), lambda: facts)


def index_remote_tar(
    tar: RemoteFile, index: Path, *, jobs: int = JOBS, progress: Progress = SILENT
) -> int:
    """Writes the index of a remote tar, all of which is read once for it, and none of it kept.

    The sha256 of the archive is found on the way and entered.

    Args:
        tar: The archive.
        index: The Parquet file to write.
        jobs: Connections.
        progress: Told of the bytes.

    Returns:
        How many members it has.

    Raises:
        WholeOnlyError: the server has no ranges, or the tar is compressed.
        UpstreamError: it can't be read to its end.
        InputError: it is damaged or no tar.
    """
    spans = (Span(at, min(at + _PIECE, tar.size)) for at in range(0, tar.size, _PIECE))
    (url, _, etag), *more = tar.identity()
    progress.start(tar.name, tar.size)
    with closing(tar.ahead(spans, lambda span: tar.read(span.start, _PIECE), jobs)) as pieces:
        stream = _Hashed((piece for _, piece in pieces), partial(progress.advance, tar.name))

        def facts() -> TarFacts:
            while stream.read(_PIECE):
                pass
            sha256 = stream.digest.hexdigest()
            return TarFacts(tar.name, tar.size, url, None if more else etag or None, sha256)

        try:
            count = _write_with_checksum(index, _stream_rows(stream), facts)
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise InputError(
                f"the tar file is damaged: {error}",
                where=tar.url,
                expected="a whole, uncompressed tar archive",
            ) from error
    progress.done(tar.name)
    return count


def write_tar_index(path: Path, rows: Iterable[Row], facts: Callable[[], TarFacts]) -> int:
    """Writes an index in place.

    Args:
        path: Of the index.
        rows: In the order of the archive.
        facts: Gives what is known of the archive, once all rows were taken.

    Returns:
        How many rows there were.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = index_schema().remove_metadata(), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in chunks(rows, _GROUP_ROWS):
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))
            count += len(group)
        known = {key: value for key, value in asdict(facts()).items() if value is not None}
        writer.add_key_value_metadata(index_schema(known).metadata)
    return count


def _write_with_checksum(index: Path, rows: Iterable[Row], facts: Callable[[], TarFacts]) -> int:
    """Also writes the sha256 of the index beside it, as ``sha256sum`` does."""
    index.parent.mkdir(parents=True, exist_ok=True)
    with atomic.writing(index) as tmp:
        count = write_tar_index(tmp, rows, facts)
    atomic.write_text(
        index.with_name(index.name + ".sha256"), f"{file_sha256(index)}  {index.name}\n"
    )
    return count


def _storable(name: str) -> str | None:
    """The plain path of a member, if it is one that a table can hold."""
    plain = plain_name(name)
    return plain if plain and is_safe(plain) else None


class _Summed(Header):
    """A header that knows the crc32 of its block."""

    crc = 0

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The header in a block."""
        info = super().frombuf(buf, encoding, errors)
        info.crc = zlib.crc32(buf)
        return info


def _stream_rows(stream: "_Hashed") -> Iterator[Row]:
    # "r|": read forward, however far the next header is.
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE, tarinfo=_Summed) as tar:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]
            plain = _storable(info.name)
            if plain is not None and info.isreg() and not info.issparse():
                yield plain, info.offset_data, info.size, info.crc  # type: ignore[attr-defined]


class _Hashed(io.RawIOBase):
    """Pieces of a file as a stream; their sha256.

    Args:
        pieces: They, in order.
        on_bytes: Told how many bytes each has.
    """

    def __init__(self, pieces: Iterator[bytes], on_bytes: Callable[[int], object]) -> None:
        self._pieces, self._on_bytes = pieces, on_bytes
        self._rest = memoryview(b"")
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
            self.digest.update(self._rest)
            self._on_bytes(len(self._rest))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
