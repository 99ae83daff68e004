"""Where the members of an archive lie: scanned once, kept as a sorted array, found in microseconds.

Names are kept as 128-bit hashes, so a million members cost 46 MB of memory, or of page cache where
the index is saved. Nothing is unpacked: an entry says at which offset of the archive to read.
"""

import hashlib
import logging
import os
import struct
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from m2kr import atomic
from m2kr.errors import InputError, MissingError
from m2kr.hashes import name_digest

log = logging.getLogger("m2kr.data.images.store")

# (name, offset, stored bytes, real bytes, crc32, zip compression method)
Member = tuple[str, int, int, int, int, int]
STORED, DEFLATED, ENCRYPTED, OVERLAPS = 0, 8, 99, 98  # the last two are ours


@dataclass(frozen=True, slots=True)
class TarMembers:
    """Files that follow each other in a tar.

    Attributes:
        names: As stored, usually UTF-8.
        offsets: Of their contents.
        sizes: Bytes of their contents.
    """

    names: list[bytes]
    offsets: "np.ndarray[Any, np.dtype[np.int64]]"
    sizes: "np.ndarray[Any, np.dtype[np.int64]]"


_FIELDS = [("hi", "<u8"), ("lo", "<u8"), ("offset", "<u8"), ("stored", "<u8"), ("size", "<u8")]
_ENTRY = np.dtype([*_FIELDS, ("crc", "<u4"), ("method", "<u2")])
_PLACE = ("offset", "stored", "size", "crc", "method")
_VERSION = 2
_BULK = 4096
ZIP_HEADER = 30  # bytes of a local header without name and extra field

Identity = tuple[str, int, int]
MAX_BYTES = 256 * 1024 * 1024  # of one image file

# One lock for all opening and indexing in the process. A forked child gets a new one: it must not
# wait for a thread that it did not inherit.
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def locked() -> threading.RLock:
    """The lock to hold while shared state of image roots changes."""
    return _lock


def stamp_of(paths: Sequence[Path]) -> str:
    """Path, bytes and times of some files, as text: another one when any of them was written."""
    facts = zip(paths, _facts(paths), strict=True)
    return "|".join(f"{p}:{f.st_size}:{f.st_mtime_ns}:{f.st_ctime_ns}" for p, f in facts)


def _facts(paths: Sequence[Path]) -> list[os.stat_result]:
    try:
        return [path.stat() for path in paths]
    except OSError as error:
        raise _gone(error) from error


def _gone(error: OSError) -> MissingError:
    return MissingError(
        f"the image root can't be read: {error.strerror}", where=str(error.filename or "image root")
    )


def check_size(size: int, where: str) -> None:
    """Refuses an image file that is too large to be one.

    Raises:
        InputError: it has more than `MAX_BYTES` bytes.
    """
    if size > MAX_BYTES:
        raise InputError(
            f"the image file has {size:,} bytes", where=where, expected=f"at most {MAX_BYTES:,}"
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one member lies; for Arrow files ``offset`` is the batch or row group, ``stored`` the row."""

    offset: int
    stored: int
    size: int
    crc: int
    method: int


def plain_name(name: str) -> str | None:
    """A member name without ``./`` and doubled slashes; None for one that no path can ask for."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if name.startswith("/") or ".." in parts or not parts else "/".join(parts)


class Index:
    """Finds members by name; of two with one name the last counts, as when unpacking.

    Args:
        entries: Packed entries, sorted by the first half of the hash.
    """

    def __init__(self, entries: "np.ndarray[Any, Any]") -> None:
        self.entries = entries
        self._hi = entries["hi"]

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, name: str) -> Entry | None:
        """The entry of a member, or None."""
        hi, lo = struct.unpack("<QQ", name_digest(name))
        # bisect reads log2(n) items of the mapped column; np.searchsorted would copy all of it.
        for row in range(bisect_right(self._hi, hi) - 1, bisect_left(self._hi, hi) - 1, -1):
            item = self.entries[row]
            if int(item["lo"]) == lo:
                return Entry(*(int(item[field]) for field in _PLACE))
        return None


def _make_index(members: Iterable[Member | TarMembers]) -> Index:
    """An index of the members of an archive, in the order they are stored."""
    parts = [_entries(*bulk) for bulk in _in_bulk(members)]
    entries = np.concatenate([np.empty(0, _ENTRY), *parts])
    parts.clear()
    # By half of the hash: `Index.find` looks at all that have it, the last one first.
    return Index(entries[np.argsort(entries["hi"].copy(), kind="stable")])


def _in_bulk(
    members: Iterable[Member | TarMembers],
) -> Iterator[tuple[list[bytes], dict[str, Any]]]:
    """Names and places of single members by the thousand; those of a store's shards come so already."""
    few: list[Member] = []
    for member in members:
        if isinstance(member, TarMembers):
            offsets, sizes = member.offsets, member.sizes
            yield member.names, {"offset": offsets, "stored": sizes, "size": sizes}
            continue
        few.append(member)
        if len(few) == _BULK:
            yield _columns(few)
            few = []
    if few:
        yield _columns(few)


def _columns(members: list[Member]) -> tuple[list[bytes], dict[str, Any]]:
    names, *places = zip(*members, strict=True)
    columns = zip(_PLACE, places, strict=True)
    return [name.encode("utf-8", "surrogateescape") for name in names], {
        field: np.array(values, _ENTRY[field]) for field, values in columns
    }


def _entries(names: list[bytes], places: dict[str, Any]) -> "np.ndarray[Any, Any]":
    names, kept = _plain_names(names)
    entries = np.zeros(len(names), _ENTRY)
    digests = b"".join([hashlib.blake2b(name, digest_size=16).digest() for name in names])
    pairs = np.frombuffer(digests, "<u8").reshape(-1, 2)
    entries["hi"], entries["lo"] = pairs[:, 0], pairs[:, 1]
    for field, values in places.items():
        entries[field] = values[kept]
    return entries


def _plain_names(names: list[bytes]) -> tuple[list[bytes], "slice | list[int]"]:
    """Names as `plain_name` has them, and the places of those that can be asked for."""
    stripped = [name.removeprefix(b"./") for name in names]
    together = b"\0".join([b"", *stripped, b""])
    # Looked at together: a part that is empty or begins with a point is rare.
    if not any(odd in together for odd in (b"\0/", b"\0.", b"\0\0", b"//", b"/.", b"/\0")):
        return stripped, slice(None)
    plain = [plain_name(name.decode("utf-8", "surrogateescape")) for name in names]
    kept = [i for i, name in enumerate(plain) if name is not None]
    return [name.encode("utf-8", "surrogateescape") for name in plain if name is not None], kept


def _mark_overlaps(index: Index) -> None:
    """Marks members of a zip that run into the next one, as those of bombs do: they can't be read then."""
    entries = index.entries
    order = np.argsort(entries["offset"], kind="stable")
    starts = entries["offset"][order]
    # Not the one run into: a single member that lies about its size must not spoil the others.
    room = np.diff(starts, append=np.uint64(1 << 63))
    runs_over = entries["stored"][order] > room - np.minimum(room, np.uint64(ZIP_HEADER))
    runs_over[1:] |= starts[1:] == starts[:-1]
    entries["method"][order[runs_over | (room == 0)]] = OVERLAPS


def cached_index(
    members: Iterable[Member | TarMembers],
    cache: Path | None,
    identity: Sequence[object],
    *,
    is_zip: bool = False,
) -> Index:
    """The saved index of a file of this identity, or a new one, saved in ``cache`` if that is given."""
    key = hashlib.sha256(repr((_VERSION, *identity)).encode()).hexdigest()[:32]
    path = None if cache is None else cache / f"images-{key}.npy"
    # Absent or damaged, it is made again.
    with suppress(OSError, ValueError, EOFError):
        entries = None if path is None else np.load(path, mmap_mode="r", allow_pickle=False)
        if entries is not None and entries.dtype == _ENTRY and entries.ndim == 1:
            return Index(entries)
    index = _make_index(members)
    if is_zip:
        _mark_overlaps(index)
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic.writing(path) as aside, atomic.create(aside) as file:
                np.save(file, index.entries, allow_pickle=False)
    except OSError as error:
        log.warning("the index of an image archive is not kept: %s", error)
    return index


class Readable(Protocol):
    """Bytes that can be had from any offset, by any thread."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end."""
        ...


class FileParts:
    """One file, or several that make one when put end to end, readable at any offset by any thread.

    Args:
        paths: The parts in order; opened at once, closed when the object goes.

    Attributes:
        size: Bytes of all.
        starts: Offset of each part.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        try:
            self._files = [path.open("rb", buffering=0) for path in paths]
        except OSError as error:
            raise _gone(error) from error
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.size = sum(sizes)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end. pread: no shared position to race for."""
        chunks: list[bytes] = []
        size = max(0, min(size, self.size - offset)) if offset >= 0 else 0
        while size:
            part = bisect_right(self.starts, offset) - 1
            try:
                chunk = os.pread(self._files[part].fileno(), size, offset - self.starts[part])
            except OSError as error:
                raise _gone(error) from error
            if not chunk:
                break
            chunks.append(chunk)
            offset, size = offset + len(chunk), size - len(chunk)
        return b"".join(chunks)

    def __del__(self) -> None:
        for file in getattr(self, "_files", ()):
            file.close()


class IndexedFile:
    """What archives, stores of shards and Arrow files share: opened and indexed on first use.

    Args:
        path: The file.
        cache: Folder for the index, or None to keep it in memory alone.
    """

    is_zip = False

    def __init__(self, path: Path, cache: Path | None) -> None:
        self.path = path
        self._cache = cache
        self._index: Index | None = None
        self._opened: FileParts | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens files for itself.
        return self.__dict__ | {"_index": None, "_opened": None}

    def files(self) -> list[Path]:
        """The files it is made of."""
        return [self.path]

    def identity(self) -> Identity:
        """Path, bytes and latest modification time (ns)."""
        facts = _facts(self.files())
        size = sum(f.st_size for f in facts)
        return str(self.files()[0]), size, max(f.st_mtime_ns for f in facts)

    def scan(self) -> Iterable[Member | TarMembers]:
        """Its members, in the order they are stored."""
        raise NotImplementedError

    def find(self, name: str) -> Entry | None:
        """Where an image lies in the file, or None."""
        if self._index is None:
            with _lock:
                if self._index is None:
                    stamp = [stamp_of(self.files())]
                    self._index = cached_index(self.scan(), self._cache, stamp, is_zip=self.is_zip)
        return self._index.find(name)

    def has(self, name: str) -> bool:
        """Whether an image of this path is there."""
        return self.find(name) is not None

    def stamper(self) -> Callable[[str], str | None]:
        """See `m2kr.data.images.roots.ImageRoot`; the file is looked at once."""
        files = stamp_of(self.files())

        def stamp(name: str) -> str | None:
            entry = self.find(name)
            return None if entry is None else f"{name}:{entry}:{files}"

        return stamp

    def parts(self) -> FileParts:
        """Its files, end to end."""
        if self._opened is None:
            with _lock:
                self._opened = self._opened or FileParts(self.files())
        return self._opened
