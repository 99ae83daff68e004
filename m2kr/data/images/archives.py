"""Reading the tables of contents of tar and zip archives, and zip members in place."""

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self, cast

from m2kr.data.images.index import (
    DEFLATED,
    ENCRYPTED,
    OVERLAPS,
    STORED,
    ZIP_HEADER,
    Entry,
    Member,
    Readable,
)
from m2kr.errors import InputError

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_GNU = b"ustar  \0"
_LONGEST = 1 << 20  # bytes of a tar header that extends another
_LONG_HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
_LINK, _TYPE = 0o120000, 0o170000
_MOST_MEMBERS = 50_000_000  # 2.3 GB of index; what has more is taken for a bomb


class Header(tarfile.TarInfo):
    """A tar header that is either right or an error; tarfile takes a bad one for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The header in a block."""
        info = super().frombuf(buf, encoding, errors)
        if info.type in _LONG_HEADERS and not 0 <= info.size <= _LONGEST:
            raise tarfile.ReadError(f"a header of {info.size:,} bytes")
        if buf[257:265] == _GNU and buf[345]:
            # GNU keeps times where ustar has the beginning of a long name.
            info.name = tarfile.nts(buf[:100], encoding, errors).rstrip("/")  # type: ignore[attr-defined]
        return info

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """The next header of an archive."""
        before = cast("Any", tarfile_).offset
        try:
            info = super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at offset {before}") from error
        if info.size < 0 or cast("Any", tarfile_).offset <= before:
            raise tarfile.ReadError(f"a member of negative size at offset {before}")
        return info


class _LastHeader(Header):
    """A header of an archive that may end without an end mark, as some programs leave it."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """The next header of an archive."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.ReadError as error:
            if isinstance(error.__cause__, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
                raise tarfile.EOFHeaderError("no end mark") from error  # type: ignore[attr-defined]
            raise


def scan_tar(path: Path) -> Iterator[Member]:
    """Regular members of an uncompressed tar; links, devices and sparse files are passed over.

    Raises:
        InputError: it is cut short or damaged.
    """
    try:
        with (
            path.open("rb", buffering=0) as file,
            tarfile.open(fileobj=file, mode="r:", tarinfo=_LastHeader, encoding="utf-8") as tar,
        ):
            end = os.fstat(file.fileno()).st_size
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]
                content = info.size if info.isreg() and not info.issparse() else 0
                if info.offset_data + content > end:
                    raise tarfile.ReadError(f"{info.name!r} ends after the file")
                if info.isreg() and not info.issparse():
                    yield info.name, info.offset_data, info.size, info.size, 0, STORED
    except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"the tar file is damaged: {error}",
            where=str(path),
            expected="a whole tar archive",
            fix="download or copy it again",
        ) from error


class _Section(io.RawIOBase):
    """A stretch of an archive as a stream."""

    def __init__(self, parts: Readable, start: int, size: int) -> None:
        self._parts, self._at, self._end = parts, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._parts.read(self._at, min(len(buffer), self._end - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def _damage_told(where: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, struct.error) as error:
        raise InputError(
            f"the zip file is damaged: {error}",
            where=where,
            expected="a whole zip archive (or all its parts .001, .002 ... in one folder)",
            fix="download or copy it again",
        ) from error


def scan_zip(parts: Readable, where: str) -> Iterator[Member]:
    """File members of a zip, from its central directory; offsets are those of local headers.

    Raises:
        InputError: it is cut short, damaged or one of a multi-volume set.
    """
    with _damage_told(where):
        start, size = _central_directory(parts)
        stream = io.BufferedReader(_Section(parts, start, size), 1 << 20)
        count = 0
        while header := stream.read(_CENTRAL.size):
            count += 1
            if count > _MOST_MEMBERS:
                raise zipfile.BadZipFile(f"more than {_MOST_MEMBERS:,} members")
            member = _member(header, stream)
            if member is not None:
                yield member


def directory_start(parts: Readable, where: str) -> int:
    """Offset of the central directory of a zip, of which little more than the end is read.

    Raises:
        InputError: it is cut short, damaged or one of a multi-volume set.
    """
    with _damage_told(where):
        return _central_directory(parts)[0]


def _central_directory(parts: Readable) -> tuple[int, int]:
    """Offset and size of the central directory."""
    tail_at = max(0, parts.size - (1 << 16) - _END.size)
    tail = parts.read(tail_at, parts.size - tail_at)
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        raise zipfile.BadZipFile("its end record is missing")
    _, disk, _, _, _, size, offset, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    locator = parts.read(end - 20, 20) if end >= 20 else b""
    if locator[:4] == b"PK\6\7":
        found = parts.read(end - 20 - _END64.size, _END64.size)
        if found[:4] != b"PK\6\6":
            raise zipfile.BadZipFile("its 64-bit end record is missing")
        *_, disk, _, _, _, size, offset = _END64.unpack(found)
    if disk:
        raise zipfile.BadZipFile("it is the last volume of a split zip (.z01, .z02 ...)")
    if size and parts.read(offset, 4) != b"PK\1\2":
        raise zipfile.BadZipFile("its directory is not where it should be")
    return offset, size


def _member(header: bytes, stream: IO[bytes]) -> Member | None:
    """One entry of the central directory; None for folders and links."""
    fields = _CENTRAL.unpack(header)
    sig, made_by, _, flags, method, _, _, crc, stored, size, n_name, n_extra, n_note = fields[:13]
    mode, offset = fields[15] >> 16, fields[16]
    if sig != b"PK\1\2":
        raise zipfile.BadZipFile("its directory is broken")
    raw, extra, _ = stream.read(n_name), stream.read(n_extra), stream.read(n_note)
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<2H", extra)
        if tag == 1:
            wide = struct.unpack_from(f"<{length // 8}Q", extra, 4)
            big = iter(wide)
            size, stored, offset = (
                next(big, value) if value == 0xFFFFFFFF else value
                for value in (size, stored, offset)
            )
        extra = extra[4 + length :]
    if raw.endswith(b"/") or (made_by >> 8 == 3 and mode & _TYPE == _LINK):
        return None
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("cp437")
    return name, offset, stored, size, crc, ENCRYPTED if flags & 1 else method


def read_zip_member(parts: Readable, entry: Entry) -> bytes:
    """The content of one member, checked against its size and crc.

    Raises:
        ValueError: it is damaged, encrypted or packed in a way not supported; says which.
    """
    if entry.method not in (STORED, DEFLATED):
        odd = {ENCRYPTED: "is encrypted", OVERLAPS: "shares its bytes with another member"}
        raise ValueError(f"it {odd.get(entry.method, f'is packed by method {entry.method}')}")
    header = parts.read(entry.offset, ZIP_HEADER)
    if len(header) < ZIP_HEADER or header[:4] != b"PK\3\4":
        raise ValueError("its local header is broken")
    n_name, n_extra = struct.unpack_from("<2H", header, 26)
    data = parts.read(entry.offset + ZIP_HEADER + n_name + n_extra, entry.stored)
    if entry.method == DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1)
        except zlib.error as error:
            raise ValueError(f"it does not unpack ({error})") from None
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise ValueError("its size or checksum is wrong")
    return data
