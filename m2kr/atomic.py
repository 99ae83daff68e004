"""Writing files so that a reader sees the old one or the new one, never half of one."""

import errno
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from m2kr.errors import M2KRError, MissingError, UsageError


@contextmanager
def writing(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """A free place beside ``path`` for a new file or folder, which is synced and renamed at the end.

    What is there is removed if the ``with`` block fails.

    Args:
        path: What is replaced; the folder that it is in must exist.
        alone: The caller holds a lock. What a killed writer leaves aside is then removed by the next one.
    """
    aside = path.with_name(f".{path.name}.tmp" + ("" if alone else f"-{os.getpid()}"))
    discard(aside)
    try:
        yield aside
        if aside.is_dir():
            fsync_dir(aside)
        else:
            with aside.open("rb+" if os.name == "nt" else "rb") as file:
                os.fsync(file.fileno())
        replace(aside, path)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) == aside:
            error.filename = str(path)  # the name that the caller knows
        raise
    finally:
        discard(aside)


def write_bytes(path: Path, data: bytes, *, alone: bool = False) -> None:
    """A whole file by `writing`."""
    with writing(path, alone=alone) as aside, create(aside) as file:
        file.write(data)


def write_text(path: Path, text: str, *, alone: bool = False) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode(), alone=alone)


def write_json(path: Path, obj: Any, *, alone: bool = False) -> None:
    """`write_bytes` of JSON with one-space indent and a final newline."""
    text = json.dumps(obj, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    write_text(path, text, alone=alone)


def create(path: Path) -> BinaryIO:
    """A new, empty file to write to, in place of what is there; never through a link."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def reopen(path: Path, *, append: bool = False) -> BinaryIO:
    """A file to write on in, made if need be, unbuffered if it is appended to; never through a link."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)

    if append:
        return open(path, "ab", buffering=0, opener=opener)
    return open(path, "r+b", opener=opener)


def require_file(path: Path) -> None:
    """Refuses, before the work, a file that could not be written after it.

    Raises:
        MissingError: Its folder is not there.
        UsageError: Something else than a file is in its place.
        M2KRError: This user may not write there.
    """
    if path.exists() and not path.is_file():
        raise UsageError("this is no file", where=str(path), expected="the name of a file to write")
    require_parent(path)


def require_parent(path: Path) -> None:
    """Refuses, before the work, a file or folder whose folder is not there or may only be read.

    Raises:
        MissingError: It is not there.
        M2KRError: This user may not write there.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        what, fix = f"there is no such folder: {folder}", shlex.join(["mkdir", "-p", str(folder)])
        raise MissingError(what, where=str(path), fix=fix)
    if not os.access(folder, os.W_OK):
        raise M2KRError(f"this folder may only be read: {folder}", where=str(path))


def writable(folder: Path) -> bool:
    """Whether this user may write into a folder, or make it where it is not there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


def fsync_dir(path: Path) -> None:
    """Makes renames and new files in a folder survive a power cut, where the platform can."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(src: Path, dst: Path) -> None:
    """Renames over ``dst`` and syncs its folder; a device or a pipe is not replaced."""
    if dst.exists() and not (dst.is_file() or dst.is_dir() or dst.is_symlink()):
        raise FileExistsError(errno.EEXIST, "a device or pipe has this name", str(dst))
    src.replace(dst)
    fsync_dir(dst.parent)


def discard(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(src: Path, dst: Path) -> None:
    """A second name for a file that never changes; a copy where the file system has no hard links."""
    try:
        os.link(src, dst)
    except OSError:
        with src.open("rb") as old, create(dst) as new:
            shutil.copyfileobj(old, new, 1 << 20)
            new.flush()
            os.fsync(new.fileno())
