"""The store of fetched images: plain tar shards that any reader of image roots opens in place.

Writing it, taking it over after a kill, and checking it byte for byte.
"""

import io
import os
import tarfile
import tempfile
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from m2kr import atomic
from m2kr.building.formats.limits import is_safe
from m2kr.building.images.tar_index import Row, write_tar_index
from m2kr.data.images.archives import Header
from m2kr.data.images.index import MAX_BYTES
from m2kr.data.images.shards import index_of, shard_name, shards_in
from m2kr.data.images.tar_offsets import BLOCK, TarFacts, TarOffsets
from m2kr.errors import InputError, M2KRError, UsageError, as_m2kr_error, plainly
from m2kr.hashes import name_digest
from m2kr.locks import Held, hold
from m2kr.progress import SILENT, Progress

SHARD_BYTES = 1 << 30
SHARD_MEMBERS = 200_000
BATCH_BYTES = 64 << 20
_TRAILER = bytes(2 * BLOCK)
_DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError)
_HASH = np.dtype([("hi", "<u8"), ("lo", "<u8")])


class ShardWriter:
    """A folder of tar shards, ``images-00000.tar`` and so on, that only grows; use it in ``with``.

    Each shard has an offset index beside it (see `m2kr.data.images.tar_offsets`), so that opening a store
    reads these and not the images. What is guaranteed:

    - One process at a time writes; others wait for it.
    - What `add` has returned from survives a kill of the process: the next `ShardWriter` takes over every
      whole member behind the last commit, by its checksum, and cuts off a torn one.
    - What `commit` has returned from survives a power cut. It happens every 64 MiB, and at the end.
    - Readers see what was committed when they opened the folder, also while it grows.
    - A shard has 1 GiB or 200,000 members at most, unless a single member is larger.

    Args:
        folder: Made if it isn't there.
        shard_bytes: Of one shard.

    Raises:
        InputError: A tar in the folder is not the store's, or a shard was damaged.
        M2KRError: The folder can't be written.
    """

    def __init__(self, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self._limit = shard_bytes
        self._stack = ExitStack()
        self._held: Held | None = None
        self._names = NameSet()
        self._file: BinaryIO | None = None
        self._number = -1
        self._end = self._committed = 0
        self._rows: list[Row] = []
        self._trailing = False  # something is behind the last member

    def __enter__(self) -> Self:
        try:
            with plainly(self.folder):
                self._held = self._stack.enter_context(
                    hold(self.folder / ".lock", f"the image store {self.folder}")
                )
                self._load()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                # The error that is on its way matters more; what can't be saved is found next time.
                with suppress(M2KRError):
                    self._finish()
        finally:
            if self._file is not None:
                self._file.close()
            self._file = self._held = None
            self._stack.close()

    def __len__(self) -> int:
        return len(self._names)

    def has(self, name: str) -> bool:
        """Whether an image of this name is there."""
        return name in self._names

    def names(self) -> Iterator[str]:
        """The names of all images, in the order they were added."""
        for number, shard in shards_in(self.folder).items():
            if number == self._number:
                yield from (row[0] for row in self._rows)
            else:
                for batch in TarOffsets(index_of(shard), checksum=False).batches():
                    yield from batch.column(0).to_pylist()

    def add(self, name: str, data: bytes) -> bool:
        """Keeps an image, unless one of this name is there.

        Args:
            name: Its relative path, in normal form.
            data: The image file.

        Returns:
            Whether it was added.

        Raises:
            InputError: The name is no such path, or the file larger than a reader takes.
            M2KRError: It can't be written; nothing of it stays.
        """
        if self._held is None:
            raise UsageError("an image store is used in a with block")
        if not is_safe(name) or len(name.encode()) > 4096:
            raise InputError(f"{name[:200]!r} is no path below an image root")
        if len(data) > MAX_BYTES:
            raise InputError(
                f"{len(data):,} bytes in one image", where=name, expected=f"at most {MAX_BYTES:,}"
            )
        if name in self._names:
            return False
        raw, content = _member_bytes(name, data)
        full = self._end + len(raw) > self._limit or len(self._rows) >= SHARD_MEMBERS
        with plainly(self.folder):
            if self._file is None or (self._rows and full):
                self._begin()
            assert self._file is not None
            if self._trailing:
                self._file.truncate(self._end)
                self._trailing = False
            self._write(self._file, raw)
        header = raw[content - 512 : content]
        self._rows.append((name, self._end + content, len(data), zlib.crc32(header)))
        self._names.add(name)
        self._end += len(raw)
        if self._end - self._committed >= BATCH_BYTES:
            self.commit()
        return True

    def commit(self) -> None:
        """Makes what was added survive a power cut, and shows it to readers.

        Raises:
            M2KRError: Another process took the store over, or the disk failed.
        """
        if self._held is None or self._file is None or self._end == self._committed:
            return
        self._held.check()
        with plainly(self.folder):
            os.fsync(self._file.fileno())
            self._write_index(self._number, self._rows, self._end)
        self._committed = self._end

    def _load(self) -> None:
        """Takes over what is there."""
        shards = shards_in(self.folder)
        for number, shard in shards.items():
            if not index_of(shard).exists():
                self._adopt(number, shard)
        self._names = NameSet(self.names())
        if shards:
            self._reopen(*list(shards.items())[-1])

    def _adopt(self, number: int, shard: Path) -> None:
        """Makes a lost index anew, for a shard of which nothing else is missing."""
        rows: list[Row] = []
        end = 0
        with shard.open("rb") as file:
            for row, end in _whole_members(file, 0):  # noqa: B007 - the last one is wanted
                rows.append(row)
            file.seek(end)
            if not rows or file.read(len(_TRAILER)).strip(b"\0"):
                raise _foreign(str(shard))
        self._write_index(number, rows, end)

    def _reopen(self, number: int, shard: Path) -> None:
        """Goes on with the last shard, behind its last whole member."""
        offsets = TarOffsets(index_of(shard), checksum=False)
        file = self._file = shard.open("r+b", buffering=0)
        self._number, self._trailing = number, True
        self._end = self._committed = offsets.facts.size
        if os.fstat(file.fileno()).st_size < self._end:
            raise _foreign(str(shard))
        self._rows = [*_rows(offsets)]
        with shard.open("rb") as reader:
            for row, end in _whole_members(reader, self._end):
                if row[0] not in self._names:
                    self._names.add(row[0])
                self._rows.append(row)
                self._end = end
        self.commit()

    def _begin(self) -> None:
        """Completes the shard and begins the next."""
        self._finish()
        self._names.settle()
        if self._file is not None:
            self._file.close()
        self._number += 1
        self._rows, self._end, self._committed = [], 0, 0
        shard = self.folder / shard_name(self._number)
        # The index first: a shard without one is not ours to cut.
        self._write_index(self._number, [], 0)
        self._file = shard.open("x+b", buffering=0)
        self._trailing = False
        atomic.fsync_dir(self.folder)

    def _finish(self) -> None:
        """Commits, and writes the end mark of a tar. The next member will replace it."""
        if self._file is None:
            return
        self.commit()
        with plainly(self.folder):
            self._trailing = True
            self._write(self._file, _TRAILER)
            self._file.truncate()
            os.fsync(self._file.fileno())

    def _write(self, file: BinaryIO, data: bytes) -> None:
        """Writes at the end of what is whole, all or nothing."""
        try:
            file.seek(self._end)
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            with suppress(OSError):
                file.truncate(self._end)
            raise

    def _write_index(self, number: int, rows: list[Row], size: int) -> None:
        name = shard_name(number)
        with atomic.writing(index_of(self.folder / name)) as aside:
            write_tar_index(aside, rows, lambda: TarFacts(name, size))


def check_store(folder: Path, progress: Progress = SILENT) -> str:
    """Reads all shards and indexes of a store; what is wrong with the first bad one, or nothing.

    Args:
        folder: The store.
        progress: Told of the images.
    """
    for shard in shards_in(folder).values():
        progress.start(shard.name, None, "images")
        try:
            problem = _problem(shard, progress)
        except Exception as error:  # noqa: BLE001 - a shard that can't be checked is damaged
            problem = as_m2kr_error(error).what
        progress.done(shard.name)
        if problem:
            return f"{shard}: {problem}"
    return ""


def _problem(shard: Path, progress: Progress) -> str:
    import pyarrow.parquet as pq

    index = index_of(shard)
    offsets = TarOffsets(index, checksum=False)
    rows: list[Row] = []
    with shard.open("rb") as file:
        end = 0
        for row in _rows(offsets):
            name, offset, size, header = row
            file.seek(offset)
            raw, content = _member_bytes(name, file.read(size))
            file.seek(end)
            if offset != end + content or file.read(len(raw)) != raw:
                return f"the image {name!r} is not as it was written"
            if zlib.crc32(raw[content - 512 : content]) != header:
                return f"its index is damaged at {name!r}"
            end += len(raw)
            rows.append(row)
            progress.advance(shard.name, 1)
        if end != offsets.facts.size:
            return "its index names another size"
        for _, after in _whole_members(file, end):  # of a writer that was killed
            end = after
        file.seek(end)
        if any(piece.strip(b"\0") for piece in iter(lambda: file.read(1 << 20), b"")):
            return "something that is no image follows the last one"
    with tempfile.TemporaryDirectory(prefix="m2kr-") as folder:
        again = Path(folder, index.name)
        write_tar_index(again, rows, lambda: TarFacts(shard.name, offsets.facts.size))
        # Another pyarrow writes other bytes.
        same_writer = pq.read_metadata(again).created_by == pq.read_metadata(index).created_by
        damaged = same_writer and again.read_bytes() != index.read_bytes()
    return "its index is damaged" if damaged else ""


def _rows(offsets: TarOffsets) -> Iterator[Row]:
    for batch in offsets.batches():
        yield from zip(*batch.to_pydict().values(), strict=True)


def _member_bytes(name: str, data: bytes) -> tuple[bytes, int]:
    """A member as it stands in a shard, and at which byte of it its content begins.

    The owner's name, which nobody needs, holds the crc32 of the content: see `_whole_members`.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    info.uname = f"{zlib.crc32(data):08x}"
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8")
    return header + data + bytes(-len(data) % BLOCK), len(header)


def _whole_members(file: BinaryIO, start: int) -> Iterator[tuple[Row, int]]:
    """The members from an offset on that are all there, and where each ends, blocks filled up.

    Args:
        file: A shard.
        start: Of a member.
    """
    end = file.seek(0, io.SEEK_END)
    while start < end:
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as tar:
                info = tar.next()
        except _DAMAGE:
            return
        if info is None:
            return
        file.seek(info.offset_data - BLOCK)
        header, data = file.read(BLOCK), file.read(info.size)
        start = info.offset_data + info.size + -info.size % BLOCK
        if start > end or info.uname != f"{zlib.crc32(data):08x}":
            return
        yield (info.name, info.offset_data, info.size, zlib.crc32(header)), start


def _foreign(shard: str) -> InputError:
    """The error for a tar in the folder of a store that the store didn't write."""
    return InputError(
        "this is no shard of an image store, or one that was damaged",
        where=shard,
        expected="the tar that m2kr wrote, with its index beside it",
        fix="move it elsewhere (it can be an image root of its own)",
    )


class NameSet:
    """Remembers names by 128-bit hashes.

    Args:
        names: To begin with.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._settled = np.zeros(0, _HASH)
        self._new: set[bytes] = set()
        for name in names:
            self.add(name)
            if len(self._new) >= 1 << 20:
                self.settle()
        self.settle()

    def __len__(self) -> int:
        return len(self._settled) + len(self._new)

    def __contains__(self, name: str) -> bool:
        digest = name_digest(name)
        if digest in self._new:
            return True
        hi, lo = np.frombuffer(digest, _HASH)[0]
        column = self._settled["hi"]
        first, last = bisect_left(column, hi), bisect_right(column, hi)
        return bool((self._settled["lo"][first:last] == lo).any())

    def add(self, name: str) -> None:
        """Takes a name in that is not there yet."""
        self._new.add(name_digest(name))

    def settle(self) -> None:
        """Moves names from a set, which takes 100 bytes each, to the sorted array."""
        if self._new:
            new = np.frombuffer(b"".join(self._new), _HASH)
            both = np.concatenate([self._settled, new])
            self._settled = both[np.argsort(both["hi"], kind="stable")]
            self._new.clear()
