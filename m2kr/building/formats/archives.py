"""Members of tar and zip archives, read where they are: nothing is ever unpacked to disk."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from m2kr.building.formats.gzip import Inflated
from m2kr.building.formats.limits import Guard, Limits, Member, is_litter, open_file, stream
from m2kr.data.images.archives import Header
from m2kr.errors import UsageError

_TRAILER_LIMIT = 1 << 20
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_MOST_DIRECTORY = 128 << 20


def members(path: Path, limits: Limits | None = None) -> Iterator[Member]:
    """The regular files of a tar (plain or gzip) or zip archive, in the archive's order.

    The kind is told by content, not by name. Tar archives are streamed, in constant memory. A name
    that occurs twice comes twice: the last one wins, as if the archive had been unpacked. What a
    file manager left beside the data (``__MACOSX/``, ``._x``, ``.DS_Store``) does not come.

    Args:
        path: The archive.
        limits: Bounds against bombs; generous ones by default.

    Raises:
        MissingError: There is no such file.
        InputError: It is damaged, cut short or no archive; has a member whose name is absolute or
            leaves the archive, or that is a link, a device or encrypted; or exceeds a limit.
    """
    with open_file(path, "archive") as file:
        magic = file.read(4)
        file.seek(0)
        guard = Guard(path, limits or Limits())
        if magic[:2] == b"PK":
            regular = _zip_members(file, path.stat().st_size, guard)
        else:
            regular = _tar_members(file, guard, packed=magic[:2] == b"\x1f\x8b")
        yield from (member for member in regular if not is_litter(member.name))


def _tar_members(file: BinaryIO, guard: Guard, *, packed: bool) -> Iterator[Member]:
    """The regular files of a tar archive, streamed in constant memory."""
    inflated = Inflated(file, guard) if packed else None
    with guard.reading():
        # tarfile seeks forward only: in a plain tar members nobody reads cost nothing, and in a
        # packed one its own stream class would copy all bytes twice.
        tar: Any = tarfile.open(  # noqa: SIM115 - closed below
            fileobj=cast("IO[bytes]", inflated or file), mode="r:", tarinfo=Header
        )
    current: tarfile.TarInfo | None = None
    opened: tarfile.TarInfo | None = None

    def open_member(info: tarfile.TarInfo, name: str) -> BinaryIO:
        nonlocal opened
        if info is opened and inflated is not None:
            raise UsageError(
                f"{name!r} was opened a second time, and a compressed tar only goes forward",
                fix="keep what was read the first time",
            )
        opened = info
        if info is not current:
            raise UsageError(
                f"{name!r} was opened after the next member of its tar was asked for",
                fix="read a member before going on to the next",
            )
        return stream(_Slice(inflated or file, info.offset_data, info.size), guard, name, info.size)

    with tar:
        try:
            while True:
                with guard.reading(current.name if current else None):
                    current = tar.next()
                tar.members = []  # it keeps every header: gigabytes for millions of members
                if current is None:
                    break
                name = guard.entry(current.name, current.size)
                if current.isdir():
                    continue
                if not current.isreg() or current.issparse():
                    raise guard.refusal("a member is a link, a device or sparse", name)
                guard.file(name)
                yield Member(name, current.size, partial(open_member, current, name))
        finally:
            current = None
    if inflated is not None:
        with guard.reading():
            # The checksum of a gzip file lies behind the end mark of the tar.
            inflated.read(_TRAILER_LIMIT)


class _Slice(io.RawIOBase):
    """The bytes of a tar's member, where they are."""

    def __init__(self, file: BinaryIO | Inflated, start: int, size: int) -> None:
        self._file = file
        self._at = start
        self._end = start + size

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer) as view, view[: self._end - self._at] as part:
            if not part.nbytes:
                return 0
            self._file.seek(self._at)
            count = cast("int", cast("Any", self._file).readinto(part) or 0)
        self._at += count
        return count


def _zip_members(file: BinaryIO, size: int, guard: Guard) -> Iterator[Member]:
    """The regular files of a zip archive of ``size`` bytes, in the order of its directory."""
    source = _ZipFile(file)
    with guard.reading():
        archive = zipfile.ZipFile(cast("IO[bytes]", source))
    source.opening = False

    def open_member(info: zipfile.ZipInfo, name: str) -> BinaryIO:
        if archive.fp is None:
            raise UsageError(f"{name!r} was opened after its archive was closed")
        with guard.reading(name):
            inner = archive.open(info)
        return stream(inner, guard, name, info.file_size)

    with archive:
        _refuse_overlaps(archive, guard)
        for info in archive.infolist():
            name = guard.entry(info.filename, info.file_size)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise guard.refusal("a member is a link or a device", name)
            if info.filename.endswith(("/", "\\")) or kind == stat.S_IFDIR:
                continue
            guard.file(name)
            if info.flag_bits & 1:
                raise guard.refusal("a member is encrypted", name)
            if info.compress_type not in _METHODS:
                raise guard.refusal(f"compression method {info.compress_type} is not read", name)
            guard.ratio(info.file_size, info.compress_size, name)
            guard.total_ratio(size)
            yield Member(name, info.file_size, partial(open_member, info, name))


class _ZipFile:
    """The file of an archive; bounds its directory, each entry of which costs zipfile 600 bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.opening = True
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if self.opening and size > _MOST_DIRECTORY:
            raise ValueError(f"its directory has {size:,} bytes, more than {_MOST_DIRECTORY:,}")
        return self._file.read(size)


def _refuse_overlaps(archive: zipfile.ZipFile, guard: Guard) -> None:
    """Refuses members that share bytes, as those of bombs do."""
    places = sorted((i.header_offset, i.compress_size, i.filename) for i in archive.infolist())
    for (start, size, name), (following, _, _) in pairwise(places):
        if start + zipfile.sizeFileHeader + size > following:  # type: ignore[attr-defined]
            raise guard.refusal("a member shares its bytes with another one", name)
