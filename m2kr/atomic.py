"""Writing files so that a reader sees the old one or the new one, never half of one."""

import json
import os
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes) -> None:
    """Writes aside, syncs and renames; the folder must exist."""
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, obj: Any, *, sort_keys: bool = True) -> None:
    """`write_bytes` of JSON with one-space indent and a final newline."""
    write_text(path, json.dumps(obj, ensure_ascii=False, indent=1, sort_keys=sort_keys) + "\n")


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
