"""The form of packed submissions: a zip as we write it, which every program can open.

Members are stored, in the order of their names, without times, comments or further fields, so equal
submissions make equal files. What is read must be of that form to the last byte: nothing can be hidden
before, between or behind the members, and nothing grows when it is unpacked.
"""

import os
import re
import stat
import struct
import zlib
from pathlib import Path
from typing import IO

from m2kr.errors import plainly

from .problems import Problem, SubmissionRefused

README = "README.md"
MOST_README, MOST_RUN, MOST_TOGETHER = 100 << 10, 512 << 20, 2 << 30  # bytes
_LOCAL, _ENTRY, _END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_DATE = 33  # 1980-01-01
_MODE = (stat.S_IFREG | 0o644) << 16
_MOST_MEMBERS = 60
_MEMBER = re.compile(
    r"[a-z0-9-]{1,64}/(system\.yaml|README\.md|runs/[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_]{1,64}\.(parquet|trec\.gz))"
)
_BLOCK = 1 << 20
_FIX = "pack it by m2kr submit pack FOLDER --out FILE.zip, or hand in the folder"


def unpack(path: Path, target: Path) -> Path:
    """Unpacks what `m2kr_leaderboard.pack` made, and nothing else.

    Args:
        path: The packed submission.
        target: An empty folder.

    Returns:
        The submission's folder in it.

    Raises:
        SubmissionRefused: the file is not of that form.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with plainly(path):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _refusal(path, "it is no plain file")
        fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _refusal(path, "it is no plain file")
            if status.st_size > MOST_TOGETHER + (1 << 20):  # members are stored as they are
                most = f"runs of at most {MOST_TOGETHER:,} bytes together"
                raise _refusal(path, f"it has {status.st_size:,} bytes", most)
            return _unpacked(file, path, target)


def _unpacked(file: IO[bytes], path: Path, target: Path) -> Path:
    names: list[bytes] = []
    directory = b""
    while (magic := file.read(4)) == _LOCAL:
        offset = file.tell() - 4
        raw = file.read(26)
        if len(raw) < 26:
            raise _refusal(path, "it ends within a member")
        crc, size, length = struct.unpack("<10xL4xLH2x", raw)
        name = file.read(min(length, 300))
        if magic + raw + name != member_head(name, crc, size):
            raise _refusal(path, "a member is not written as m2kr writes it")
        try:
            member = name.decode("ascii")
        except UnicodeDecodeError as error:
            raise _refusal(path, f"a member's name is {ascii(name)[:80]}") from error
        if not _MEMBER.fullmatch(member):
            raise _refusal(path, f"a member's name is {ascii(member)[:80]}")
        if names and not names[-1] < name:
            raise _refusal(path, f"{member} is there twice, or not in its place")
        if names and member.partition("/")[0] != names[0].decode().partition("/")[0]:
            raise _refusal(path, "it holds several folders")
        names.append(name)
        most = (
            MOST_RUN
            if "/runs/" in member
            else MOST_README
            if member.endswith(README)
            else 256 << 10
        )
        if size > most:
            raise _refusal(path, f"{member} has {size:,} bytes", f"at most {most:,}")
        if len(names) > _MOST_MEMBERS:
            raise _refusal(path, f"it has more than {_MOST_MEMBERS} members")
        _copy(file, target / member, size, crc, path)
        directory += directory_entry(name, crc, size, offset)
    if not names:
        raise _refusal(path, "it does not begin as a zip of ours")
    end = directory + directory_end(len(names), len(directory), file.tell() - len(magic))
    if magic + file.read(len(end) + 1) != end:
        raise _refusal(path, "its directory does not list the members as they are, or more follows")
    return target / names[0].decode().partition("/")[0]


def _copy(file: IO[bytes], place: Path, size: int, expected: int, path: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    crc, left = 0, size
    with place.open("xb") as copy:
        while left and (block := file.read(min(left, _BLOCK))):
            crc, left = zlib.crc32(block, crc), left - len(block)
            copy.write(block)
    if left:
        raise _refusal(path, f"it ends within {place.name}")
    if crc != expected:
        raise _refusal(path, f"{place.name} is damaged: its checksum is another")


def _facts(name: bytes, crc: int, size: int) -> bytes:
    return struct.pack("<5H3L2H", 20, 0, 0, 0, _DATE, crc, size, size, len(name), 0)


def member_head(name: bytes, crc: int, size: int) -> bytes:
    """What stands before a member's bytes."""
    return _LOCAL + _facts(name, crc, size) + name


def directory_entry(name: bytes, crc: int, size: int, offset: int) -> bytes:
    """A member's entry in the directory."""
    made_by = struct.pack("<H", 3 << 8 | 20)  # Unix, for the mode
    rest = struct.pack("<3H2L", 0, 0, 0, _MODE, offset)
    return _ENTRY + made_by + _facts(name, crc, size) + rest + name


def directory_end(members: int, size: int, offset: int) -> bytes:
    """What stands behind the directory."""
    return _END + struct.pack("<4H2LH", 0, 0, members, members, size, offset, 0)


def _refusal(
    path: Path, what: str, expected: str = "a file of m2kr submit pack"
) -> SubmissionRefused:
    shown = path.name if path.name.isascii() and path.name.isprintable() else ascii(path.name)
    return SubmissionRefused([Problem("archive", shown[:80], what, expected, _FIX)])
