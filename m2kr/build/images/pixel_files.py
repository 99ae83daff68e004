"""``image_pixels`` files wherever they are: on disk, in a tar, on a server; inflated while they come."""

import io
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from m2kr.build.archive.guard import Guard, Limits, Member, is_litter, stream
from m2kr.build.archive.members import members
from m2kr.build.download.connection import is_http
from m2kr.build.download.job import Policy
from m2kr.build.formats.inflate import MAGIC, Inflated
from m2kr.build.images.remote import RemoteParts, name_of
from m2kr.build.images.runs import Run, read_runs
from m2kr.errors import InputError, MissingError
from m2kr.progress import Progress

_ENDING = ".csv.gz"
# Kaggle's other files are of the same ending.
_OTHERS = "resnet_embeddings"
_PIECE = 4 << 20


@dataclass(slots=True)
class PixelFile:
    """One file, not yet read.

    Attributes:
        name: For people.
        pieces: Begins to read it, packed as it is.
        progress: Told of its bytes.
        total: How many these are, if known.
        remote: Where it is read from, if on a server.
    """

    name: str
    pieces: Callable[[], Generator[bytes]]
    progress: Progress
    total: int | None = None
    remote: RemoteParts | None = None
    _opened: Generator[bytes] | None = field(default=None, init=False)

    def open(self) -> BinaryIO:
        """Its content, to be closed.

        Raises:
            InputError: it is no gzip file (here), or is damaged (while it is read).
            UpstreamError: the server fails.
        """
        total = self.remote.size if self.remote is not None else self.total
        self.progress.start(self.name, total)
        self._opened = self.pieces()
        packed = io.BufferedReader(_Forward(self._opened, self._seen), 1 << 18)
        guard = Guard(Path(self.name), Limits(), noun="file", expected="a whole gzip file")
        if packed.peek(2)[:2] != MAGIC:
            raise guard.refusal("this is no gzip file, or an empty one")
        return stream(Inflated(packed, guard), guard)

    def close(self) -> int:
        """Ends reading; returns how many bytes a server sent."""
        if self._opened is not None:
            self._opened.close()
            self.progress.done(self.name)
        if self.remote is None:
            return 0
        self.remote.close()
        return self.remote.received

    def _seen(self, count: int) -> None:
        self.progress.advance(self.name, count)


def files(
    sources: Iterable[Path | str], jobs: int, policy: Policy, progress: Progress
) -> Generator[PixelFile]:
    """The files in some sources, in order; those of a folder and of a tar as they are found.

    Raises:
        MissingError: a source is not there.
        InputError: a source has no such files, or is an address that can't be used.
    """
    for source in sources:
        if isinstance(source, str) and "://" in source:
            yield _remote(source, jobs, policy, progress)
            continue
        path = Path(source)
        if path.is_dir():
            found = sorted(
                each
                for each in path.rglob(f"*{_ENDING}")
                if _OTHERS not in each.parts and not is_litter(each.relative_to(path).as_posix())
            )
            if not found:
                raise _none(path)
            yield from (_local(each, progress) for each in found)
        elif not path.exists():
            raise MissingError("there is no such file", where=str(path))
        elif path.suffix == ".tar":
            yield from _in_tar(path, progress)
        else:
            yield _local(path, progress)


def _local(path: Path, progress: Progress) -> PixelFile:
    def pieces() -> Generator[bytes]:
        with path.open("rb") as file:
            yield from _pieces_of(file)

    return PixelFile(path.name, pieces, progress, path.stat().st_size)


def _in_tar(path: Path, progress: Progress) -> Iterator[PixelFile]:
    count = 0
    for member in members(path):
        if member.name.endswith(_ENDING) and _OTHERS not in member.name.split("/"):
            count += 1
            yield PixelFile(f"{path.name}/{member.name}", _member(member), progress, member.size)
    if not count:
        raise _none(path)


def _member(member: Member) -> Callable[[], Generator[bytes]]:
    def pieces() -> Generator[bytes]:
        with member.open() as file:
            yield from _pieces_of(file)

    return pieces


def _remote(url: str, jobs: int, policy: Policy, progress: Progress) -> PixelFile:
    if not is_http(url):
        raise InputError("this address can't be used", where=url[:300], expected="http(s)://…")
    parts = RemoteParts([url], policy=policy)

    def pieces() -> Generator[bytes]:
        size = parts.size
        runs = (Run(at, min(at + _PIECE, size), 0, 0, memory=0) for at in range(0, size, _PIECE))
        with closing(
            read_runs(
                parts, runs, lambda run, here: here.read(run.start, run.end - run.start), jobs=jobs
            )
        ) as read:
            yield from read

    return PixelFile(name_of(url), pieces, progress, remote=parts)


def _pieces_of(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _none(path: Path) -> InputError:
    return InputError(
        "there are no image_pixels files in it", where=str(path), expected=f"part-00000-…{_ENDING}"
    )


class _Forward(io.RawIOBase):
    """Pieces of a file as a stream.

    Args:
        pieces: They, in order.
        seen: Told how many bytes of them were taken.
    """

    def __init__(self, pieces: Iterator[bytes], seen: Callable[[int], object]) -> None:
        self._pieces, self._seen = pieces, seen
        self._piece = memoryview(b"")
        self._at = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
            self._seen(len(self._piece))
        with memoryview(buffer) as view:
            count = min(len(view), len(self._piece))
            view[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        self._at += count
        return count
