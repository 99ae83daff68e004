"""Members of zip archives, at random access."""

import stat
import zipfile
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import IO, BinaryIO, cast

from m2kr.building.formats.limits import Guard, Member, stream
from m2kr.errors import UsageError

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_MOST_DIRECTORY = 128 << 20


def zip_members(file: BinaryIO, size: int, guard: Guard) -> Iterator[Member]:
    """The regular files of a zip archive of ``size`` bytes, in the order of its directory.

    Raises:
        InputError: see `m2kr.building.formats.archives.members`.
    """
    source = _Source(file)
    with guard.reading():
        archive = zipfile.ZipFile(cast("IO[bytes]", source))
    source.opening = False
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
            yield Member(name, info.file_size, partial(_open, archive, guard, info, name))


class _Source:
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


def _open(archive: zipfile.ZipFile, guard: Guard, info: zipfile.ZipInfo, name: str) -> BinaryIO:
    if archive.fp is None:
        raise UsageError(f"{name!r} was opened after its archive was closed")
    with guard.reading(name):
        inner = archive.open(info)
    return stream(inner, guard, name, info.file_size)
