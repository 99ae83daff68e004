"""The content of gzip files, inflated while it is read: by isal, several times faster than zlib."""

import io
from pathlib import Path
from typing import Any, BinaryIO, cast

from isal import igzip

from m2kr.building.formats.limits import Guard, Limits, open_file, stream
from m2kr.errors import UsageError

_MAGIC = b"\x1f\x8b"
_SKIP = 1 << 20
# Bigger blocks come from fresh pages each time, which costs more than it saves.
_PIECE = 1 << 18


class Inflated(io.RawIOBase):
    """The content of a gzip file, watched while it grows; it only goes forward.

    Args:
        packed: The gzip file, at its beginning; of several members the contents are joined. It is
            closed with this one.
        guard: What its growth is held to.
    """

    def __init__(self, packed: BinaryIO, guard: Guard) -> None:
        self._packed = packed
        self._gzip = cast("Any", igzip).IGzipFile(fileobj=packed, mode="rb")
        self._guard = guard
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, fewer only at the end."""
        if size is None or size < 0:
            return self.readall()
        block: bytes = self._gzip.read(size)
        self._at += len(block)
        self._guard.ratio(self._at, self._packed.tell())
        return block

    def readinto(self, buffer: Any) -> int:
        """Fills the beginning of a buffer; 0 at the end."""
        with memoryview(buffer) as view:
            block = self.read(min(view.nbytes, _PIECE))
            view[: len(block)] = block
        return len(block)

    def tell(self) -> int:
        """How many bytes were read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes forward to a place; to the end, if that comes first."""
        if whence != io.SEEK_SET or offset < self._at:
            raise UsageError("a compressed file was to be read backwards, and it only goes forward")
        while self._at < offset and self.read(min(offset - self._at, _SKIP)):
            pass
        return self._at

    def close(self) -> None:
        """Closes the gzip file too."""
        self._gzip.close()
        self._packed.close()
        super().close()


def open_gzip(path: Path, limits: Limits | None = None) -> BinaryIO:
    """The content of a ``.gz`` file as a buffered stream, to be closed.

    Damage met while reading (a cut, a wrong checksum, something behind the end) is an `InputError`.

    Args:
        path: The file; it may be several gzip files one after the other.
        limits: Its ``ratio`` is the bound against bombs.

    Raises:
        MissingError: There is no such file.
        InputError: It cannot be read or is no gzip file.
    """
    guard = Guard(path, limits or Limits(), noun="file", expected="a whole gzip file")
    packed = cast("io.BufferedReader", open_file(path, "file"))
    if packed.peek(2)[:2] != _MAGIC:
        packed.close()
        raise guard.refusal("this is no gzip file, or an empty one")
    return stream(Inflated(packed, guard), guard)
