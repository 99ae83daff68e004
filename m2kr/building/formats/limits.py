"""What every archive is held to: safe names, bounds against bombs, damage told as one error."""

import io
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from isal import isal_zlib

from m2kr.errors import InputError, MissingError

_GIB = 1 << 30
_BUFFER = 1 << 18
# A ratio says nothing about small files: a page of blanks compresses a thousandfold.
_RATIO_FLOOR = 64 << 20
_LITTER = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
_LITTER_FOLDERS = frozenset({"__macosx", ".appledouble"})
_DAMAGE = (
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    cast("type[Exception]", isal_zlib.error),
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    OverflowError,
    IndexError,
    KeyError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold; beyond it is taken for a bomb.

    Attributes:
        members: Entries, folders included.
        member_bytes: Uncompressed bytes of one member.
        total_bytes: Uncompressed bytes of all members.
        ratio: Uncompressed bytes per compressed byte, once there are more than 64 MiB of them.
    """

    members: int = 50_000_000
    member_bytes: int = 256 * _GIB
    total_bytes: int = 4096 * _GIB
    ratio: float = 300.0

    def outgrown(self, unpacked: int, packed: int) -> bool:
        """Whether so many bytes unpack to too many."""
        return unpacked > _RATIO_FLOOR and unpacked > self.ratio * packed


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive.

    Attributes:
        name: Normalised relative path with ``/``.
        size: Uncompressed bytes.
        open: A new binary stream of the content, to be closed. For a tar it works until the next
            member is asked for, for a compressed tar once. Damage met while reading is an `InputError`.
    """

    name: str
    size: int
    open: Callable[[], BinaryIO]

    def read(self) -> bytes:
        """The whole content."""
        with self.open() as file:
            return file.read()


class Guard:
    """What is checked of every entry of one archive, and how its damage is told.

    Args:
        path: The archive.
        limits: Bounds against bombs.
        noun: What it is called when it is damaged.
        expected: What it should be.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        *,
        noun: str = "archive",
        expected: str = "a whole tar, tar.gz or zip archive of plain files",
    ) -> None:
        self._path = path
        self._limits = limits
        self._noun = noun
        self._expected = expected
        self._members = 0
        self._total = 0

    def refusal(self, what: str, name: str | None = None) -> InputError:
        """The error for this archive, or for a member of it."""
        where = str(self._path) if name is None else f"{self._path}, member {name!r}"
        return InputError(
            what,
            where=where,
            expected=self._expected,
            fix="delete it and fetch or copy it again; if it is the same then, do not trust it",
        )

    @contextmanager
    def reading(self, name: str | None = None) -> Iterator[None]:
        """Whatever the decoders raise inside is damage."""
        try:
            yield
        except _DAMAGE as error:
            text = str(error) or type(error).__name__
            raise self.refusal(f"the {self._noun} is damaged or cut short: {text}", name) from error

    def entry(self, name: str, size: int) -> str:
        """The normalised name of an entry that may pass."""
        try:
            normal = normal_name(name)
        except ValueError as error:
            raise self.refusal(f"a member has an unsafe name: {error}", name) from error
        limits = self._limits
        self._members += 1
        self._total += size
        if self._members > limits.members:
            raise self.refusal(f"more than {limits.members:,} members", name)
        if size > limits.member_bytes:
            raise self.refusal(
                f"{size:,} bytes, more than {limits.member_bytes:,} in a member", name
            )
        if self._total > limits.total_bytes:
            raise self.refusal(f"more than {limits.total_bytes:,} bytes in all members", name)
        return normal

    def file(self, name: str) -> None:
        """Refuses a file that has no name of its own."""
        if not name:
            raise self.refusal("a member without a name", name)

    def ratio(self, unpacked: int, packed: int, name: str | None = None) -> None:
        """Refuses what grows too much."""
        if self._limits.outgrown(unpacked, packed):
            raise self.refusal(
                f"{packed:,} bytes unpack to {unpacked:,} or more, over {self._limits.ratio:g} times",
                name,
            )

    def total_ratio(self, packed: int) -> None:
        """Refuses entries that together grow too much, as those that share their bytes do."""
        self.ratio(self._total, packed)


def open_file(path: Path, noun: str) -> BinaryIO:
    """A file to be read, and to be closed.

    Raises:
        MissingError: There is none.
        InputError: It can't be opened.
    """
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise MissingError(f"there is no such {noun}", where=str(path)) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error


def normal_name(name: str) -> str:
    """A member's name as a relative path with ``/``; "" for the root folder.

    Raises:
        ValueError: It is absolute, has a drive letter, ``..`` or a control character.
    """
    path = name.replace("\\", "/")
    if path.startswith("/") or re.match("[A-Za-z]:", path):
        raise ValueError("an absolute path")
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise ValueError("a control character in it")
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError("it leaves the archive by '..'")
    # Bytes that are no UTF-8 become visible escapes: such a name can be stored in a table.
    return "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_litter(name: str) -> bool:
    """Whether a member is what a file manager left beside the data: never taken for data.

    macOS puts ``__MACOSX/x/._data.json`` next to ``x/data.json``; there are ``.DS_Store``,
    ``Thumbs.db`` and ``desktop.ini``, too.
    """
    *folders, own = name.lower().split("/")
    return own.startswith("._") or own in _LITTER or not _LITTER_FOLDERS.isdisjoint(folders)


def is_safe(name: str) -> bool:
    """Whether a name is a relative path in its normal form, and text."""
    try:
        return bool(name) and normal_name(name) == name
    except ValueError:
        return False


class _Checked(io.RawIOBase):
    """A content whose damage is told as ours."""

    def __init__(self, inner: Any, guard: Guard, name: str | None, size: int | None) -> None:
        self._inner = inner
        self._guard = guard
        self._name = name
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._guard.reading(self._name):
            count: int = self._inner.readinto(buffer) or 0
            if self._left is not None:
                self._left -= count
                # zipfile believes a stream that ends early if its checksum fits.
                if not count and self._left and len(buffer):
                    raise EOFError(f"{self._left:,} bytes are missing")
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()


def stream(
    inner: IO[bytes] | io.RawIOBase,
    guard: Guard,
    name: str | None = None,
    size: int | None = None,
) -> BinaryIO:
    """A buffered stream whose damage, met while reading, is an `InputError`.

    Args:
        inner: The content. A read of more than 256 KiB goes straight to it.
        guard: Tells the damage.
        name: The member of the archive that it is.
        size: How many bytes there must be.
    """
    raw = _Checked(inner, guard, name, size)
    return io.BufferedReader(raw, min(max(size or _BUFFER, 1), _BUFFER))
