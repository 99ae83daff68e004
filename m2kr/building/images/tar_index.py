"""Making the offset index of a tar, from a local file or in one pass over a remote one."""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from m2kr import atomic
from m2kr.building.formats.limits import is_safe
from m2kr.building.images.remote_file import JOBS, RemoteFile, Span
from m2kr.data.images.archives import Header, scan_tar
from m2kr.data.images.index import plain_name
from m2kr.data.images.tar_offsets import BLOCK, TarFacts, index_schema
from m2kr.errors import InputError
from m2kr.progress import SILENT, Progress

if TYPE_CHECKING:
    import pyarrow.parquet as pq

# name, offset of the content, its size, crc32 of the header before it
Row = tuple[str, int, int, int]
_GROUP_ROWS = 50_000
_PIECE = 8 << 20


def index_tar(tar: Path, index: Path, *, sha256: str | None = None) -> int:
    """Writes the index of a local, uncompressed tar, and its checksum beside it.

    Only regular files whose names are paths below the archive are entered.

    Args:
        tar: The archive.
        index: The Parquet file to write; by custom ``<tar name>.index.parquet``.
        sha256: Of the archive, if known; entered as it is.

    Returns:
        How many members it has.

    Raises:
        InputError: the tar is damaged, cut short or compressed.
    """

    def rows() -> Iterator[Row]:
        with tar.open("rb", buffering=0) as file:
            for name, offset, size, *_ in scan_tar(tar):
                plain = _storable(name)
                if plain is not None:
                    header = os.pread(file.fileno(), BLOCK, offset - BLOCK)
                    yield plain, offset, size, zlib.crc32(header)

    size = tar.stat().st_size
    index.parent.mkdir(parents=True, exist_ok=True)
    with atomic.writing(index) as aside, IndexWriter(aside) as writer:
        writer.add(rows())
        writer.finish(TarFacts(tar.name, size, sha256=sha256))
    write_checksum(index)
    return writer.count


def index_remote_tar(
    parts: RemoteFile, index: Path, *, jobs: int = JOBS, progress: Progress = SILENT
) -> int:
    """Writes the index of a remote tar, all of which is read once for it, and none of it kept.

    The sha256 of the archive is found on the way and entered.

    Args:
        parts: The archive.
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
    progress.start(parts.name, parts.size)
    index.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic.writing(index) as aside,
        IndexWriter(aside) as writer,
        closing(_pieces(parts, jobs)) as pieces,
    ):
        stream = _Hashed(pieces, partial(progress.advance, parts.name))
        try:
            writer.add(_stream_rows(stream))
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise InputError(
                f"the tar file is damaged: {error}",
                where=parts.url,
                expected="a whole, uncompressed tar archive",
            ) from error
        while stream.read(_PIECE):
            pass
        (url, _, etag), *more = parts.identity()
        sha256 = stream.digest.hexdigest()
        writer.finish(TarFacts(parts.name, parts.size, url, None if more else etag or None, sha256))
    write_checksum(index)
    progress.done(parts.name)
    return writer.count


def write_checksum(index: Path) -> None:
    """Writes the sha256 of an index beside it, as ``sha256sum`` does."""
    with index.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    atomic.write_text(index.with_name(index.name + ".sha256"), f"{digest}  {index.name}\n")


class IndexWriter:
    """Writes an index, which is whole after `finish`. Use it in ``with``.

    Args:
        path: Of the index.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self.count = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Takes rows in, in the order of the archive."""
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _GROUP_ROWS:
                self._write(batch)
                batch = []
        if batch:
            self._write(batch)

    def finish(self, facts: TarFacts) -> None:
        """Completes the file with what is known of the archive."""
        import pyarrow.parquet as pq

        known = {key: value for key, value in asdict(facts).items() if value is not None}
        schema = index_schema(known)
        writer = self._opened()
        writer.add_key_value_metadata(schema.metadata)
        writer.close()
        self._writer = None
        assert pq.read_metadata(self._path).num_rows == self.count

    def _opened(self) -> "pq.ParquetWriter":
        import pyarrow.parquet as pq

        if self._writer is None:
            schema = index_schema().remove_metadata()
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        return self._writer

    def _write(self, rows: list[Row]) -> None:
        import pyarrow as pa

        columns = [list(column) for column in zip(*rows, strict=True)]
        schema = index_schema().remove_metadata()
        self._opened().write_table(pa.table(columns, schema=schema))
        self.count += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._writer is not None:
            self._writer.close()


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


def _pieces(parts: RemoteFile, jobs: int) -> Generator[bytes]:
    """The whole archive in order."""
    starts = range(0, parts.size, _PIECE)
    spans = (Span(start, min(start + _PIECE, parts.size)) for start in starts)
    with closing(parts.ahead(spans, lambda span: parts.read(span.start, _PIECE), jobs)) as results:
        for _, piece in results:
            yield piece


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
