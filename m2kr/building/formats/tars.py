"""Members of tar archives, plain or gzip, streamed in constant memory."""

import io
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import IO, Any, BinaryIO, cast

from m2kr.building.formats.gzip import Inflated
from m2kr.building.formats.limits import Guard, Member, stream
from m2kr.data.images.archives import Header
from m2kr.errors import UsageError

_TRAILER_LIMIT = 1 << 20


class TarReader:
    """The members of one tar archive.

    Args:
        file: The archive, at its beginning.
        guard: What its members are held to.
        packed: It is compressed by gzip.
    """

    def __init__(self, file: BinaryIO, guard: Guard, *, packed: bool) -> None:
        self._guard = guard
        self._inflated = Inflated(file, guard) if packed else None
        self._file = self._inflated or file
        self._current: tarfile.TarInfo | None = None
        self._opened: tarfile.TarInfo | None = None
        with guard.reading():
            # tarfile seeks forward only: in a plain tar members nobody reads cost nothing, and in
            # a packed one its own stream class would copy all bytes twice.
            self._tar = tarfile.open(  # noqa: SIM115 - closed by members()
                fileobj=cast("IO[bytes]", self._file), mode="r:", tarinfo=Header
            )

    def members(self) -> Iterator[Member]:
        """The regular files in order; each can be read until the next is asked for.

        Raises:
            InputError: see `m2kr.building.formats.archives.members`.
        """
        with self._tar:
            try:
                while self._advance() is not None:
                    member = self._member(cast("tarfile.TarInfo", self._current))
                    if member is not None:
                        yield member
            finally:
                self._current = None
        if self._inflated is not None:
            with self._guard.reading():
                # The checksum of a gzip file lies behind the end mark of the tar.
                self._inflated.read(_TRAILER_LIMIT)

    def _advance(self) -> tarfile.TarInfo | None:
        with self._guard.reading(self._current.name if self._current else None):
            self._current = self._tar.next()
        # tarfile keeps every header it has seen: gigabytes for millions of members.
        cast("Any", self._tar).members = []
        return self._current

    def _member(self, info: tarfile.TarInfo) -> Member | None:
        name = self._guard.entry(info.name, info.size)
        if info.isdir():
            return None
        if not info.isreg() or info.issparse():
            raise self._guard.refusal("a member is a link, a device or sparse", name)
        self._guard.file(name)
        return Member(name, info.size, partial(self._open, info, name))

    def _open(self, info: tarfile.TarInfo, name: str) -> BinaryIO:
        if info is self._opened and self._inflated is not None:
            raise UsageError(
                f"{name!r} was opened a second time, and a compressed tar only goes forward",
                fix="keep what was read the first time",
            )
        self._opened = info
        if info is not self._current:
            raise UsageError(
                f"{name!r} was opened after the next member of its tar was asked for",
                fix="read a member before going on to the next",
            )
        return stream(_Slice(self._file, info.offset_data, info.size), self._guard, name, info.size)


class _Slice(io.RawIOBase):
    """The bytes of a member, where they are."""

    def __init__(self, file: BinaryIO | Inflated, start: int, size: int) -> None:
        self._file = file
        self._at = start
        self._end = start + size

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer) as view, view[: self._end - self._at] as wanted:
            if not wanted.nbytes:
                return 0
            self._file.seek(self._at)
            count = cast("Any", self._file).readinto(wanted) or 0
        self._at += count
        return cast("int", count)
