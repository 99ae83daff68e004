"""Members of tar and zip archives, read where they are: nothing is ever unpacked to disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from m2kr.building.formats.limits import Guard, Limits, Member, is_litter
from m2kr.building.formats.tars import TarReader
from m2kr.building.formats.zips import zip_members
from m2kr.errors import InputError, MissingError

__all__ = ["Limits", "Member", "is_litter", "members", "read_member"]


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
    with _opened(path) as file:
        magic = file.read(4)
        file.seek(0)
        guard = Guard(path, limits or Limits())
        if magic[:2] == b"PK":
            found = zip_members(file, path.stat().st_size, guard)
        else:
            found = TarReader(file, guard, packed=magic[:2] == b"\x1f\x8b").members()
        yield from (member for member in found if not is_litter(member.name))


def read_member(path: Path, name: str, limits: Limits | None = None) -> bytes:
    """The content of one member; of the last one, if the name occurs twice.

    A tar is read from its beginning to its end for that: for more than a few use ``members``.

    Raises:
        MissingError: There is no such archive, or no such member in it.
        InputError: As for ``members``.
    """
    found: bytes | None = None
    for member in members(path, limits):
        if member.name == name:
            found = member.read()
    if found is None:
        raise MissingError(f"there is no member {name!r} in this archive", where=str(path))
    return found


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise MissingError("there is no such archive", where=str(path)) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    with file:
        yield file
