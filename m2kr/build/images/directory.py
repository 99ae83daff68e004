"""The directory at the end of a remote zip: each byte fetched once, over several runs if need be."""

from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from m2kr import atomic
from m2kr.build.download.part import disk_error
from m2kr.build.images.remote import RemoteParts
from m2kr.errors import InputError
from m2kr.progress import Progress

_TAIL = (1 << 16) + 256  # the longest comment, and the end records before it
_PIECE = 4 << 20


class Directory:
    """A remote zip for one that reads its end, and from there a stretch before it from first to last.

    That stretch lies in a file as far as it was read, so that a killed process loses none of it. It
    goes when the directory is whole, or damaged; use it in ``with``, in one process at a time.

    Args:
        parts: The archive.
        path: Of the file, without ending.
        progress: Told of the bytes.

    Attributes:
        size: Bytes of the archive.
    """

    def __init__(self, parts: RemoteParts, path: Path, progress: Progress) -> None:
        self._parts, self._path, self._progress = parts, path, progress
        self.size = parts.size
        self._tail_at = max(0, self.size - _TAIL)
        self._tail: bytes | None = None
        self._file: BinaryIO | None = None
        self._start = self._have = 0
        self._task = f"{parts.name}: directory"

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end."""
        size = max(0, min(size, self.size - offset)) if offset >= 0 else 0
        before = min(size, max(0, self._tail_at - offset))
        data = self._from_file(offset, before) if before else b""
        if size > before:
            if self._tail is None:
                self._tail = self._parts.read(self._tail_at, _TAIL)
            at = offset + before - self._tail_at
            data += self._tail[at : at + size - before]
        return data

    def _from_file(self, offset: int, size: int) -> bytes:
        try:
            return self._from_open_file(offset, size)
        except OSError as error:
            raise disk_error(self._path, error) from error

    def _from_open_file(self, offset: int, size: int) -> bytes:
        if self._file is None:
            self._begin(offset)
        at = offset - self._start
        if self._file is None or not 0 <= at <= self._have:
            # Not what a directory is read like: the end records of this archive are wrong.
            return self._parts.read(offset, size)
        while at + size > self._have:
            start = self._start + self._have
            piece = self._parts.read(start, min(_PIECE, self._tail_at - start))
            self._file.seek(self._have)
            self._file.write(piece)
            self._file.flush()
            self._have += len(piece)
            self._progress.advance(self._task, len(piece))
        self._file.seek(at)
        return self._file.read(size)

    def _begin(self, offset: int) -> None:
        # The offset is part of the name: what was kept may be of another reading of the end records.
        path = self._path.with_name(f"{self._path.name}-{offset}.part")
        self._file = atomic.reopen(path)
        self._start, self._have = offset, min(path.stat().st_size, self._tail_at - offset)
        self._progress.start(self._task, self._tail_at - offset)
        self._progress.advance(self._task, self._have)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._progress.done(self._task)
            if kind is None or issubclass(kind, InputError):
                Path(self._file.name).unlink(missing_ok=True)
