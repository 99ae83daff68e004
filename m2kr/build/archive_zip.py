"""Members of zip archives, at random access."""

import stat
import zipfile
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from m2kr.build.archive_guard import Guard, Member, stream
from m2kr.errors import UsageError

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


def zip_members(file: BinaryIO, size: int, guard: Guard) -> Iterator[Member]:
    """The regular files of a zip archive of ``size`` bytes, in the order of its directory.

    Raises:
        InputError: see `m2kr.build.archives.members`.
    """
    with guard.reading():
        archive = zipfile.ZipFile(file)
    with archive:
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


def _open(archive: zipfile.ZipFile, guard: Guard, info: zipfile.ZipInfo, name: str) -> BinaryIO:
    if archive.fp is None:
        raise UsageError(f"{name!r} was opened after its archive was closed")
    with guard.reading(name):
        inner = archive.open(info)
    return stream(inner, guard, name, info.file_size)
