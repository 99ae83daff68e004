"""Writing files so that a reader sees the old one or the new one, never half of one."""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes, *, alone: bool = False) -> None:
    """Writes aside, syncs and renames; the folder must exist.

    Args:
        path: The file.
        data: All of it.
        alone: The caller holds a lock. What a killed writer leaves aside is then used by the next one.
    """
    aside = path.with_name(f".{path.name}.tmp" + ("" if alone else f"-{os.getpid()}"))
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, alone: bool = False) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode(), alone=alone)


def write_json(path: Path, obj: Any, *, sort_keys: bool = True, alone: bool = False) -> None:
    """`write_bytes` of JSON with one-space indent and a final newline."""
    text = json.dumps(obj, ensure_ascii=False, indent=1, sort_keys=sort_keys) + "\n"
    write_text(path, text, alone=alone)


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
    """Renames over ``dst`` and syncs its folder."""
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
        with src.open("rb") as old, dst.open("wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
            new.flush()
            os.fsync(new.fileno())
