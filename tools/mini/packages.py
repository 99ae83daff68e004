"""Readers of the packages that the mini data is made from: .deb, .whl and Qt's .rcc resources."""

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def deb_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """The regular files of a Debian package, as (path without leading ``./``, content)."""
    raw = path.read_bytes()
    if raw[:8] != b"!<arch>\n":
        raise ValueError(f"{path} is not a Debian package (no ar header)")
    at = 8
    while at < len(raw):
        name = raw[at : at + 16].decode().strip().rstrip("/")
        size = int(raw[at + 48 : at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(raw[at + 60 : at + 60 + size])) as tar:
                for member in tar:
                    handle = tar.extractfile(member) if member.isfile() else None
                    if handle:
                        yield member.name.removeprefix("./"), handle.read()
            return
        at += 60 + size + size % 2
    raise ValueError(f"{path} holds no data archive")


def wheel_json(path: Path) -> dict[str, dict[str, Any]]:
    """Every JSON file of a wheel by its file name without ``.json``."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".json"))
        return {Path(n).stem: json.loads(archive.read(n)) for n in names}


def rcc_files(raw: bytes) -> dict[str, bytes]:
    """The uncompressed files of a Qt binary resource by their path inside it.

    Photos are stored as they are; compressed entries (program texts) are not read at all.
    """
    magic, version, tree, data, names = struct.unpack_from(">4s4I", raw)
    if magic != b"qres":
        raise ValueError("not a Qt resource file")
    node_size = 14 if version == 1 else 22
    found: dict[str, bytes] = {}

    def walk(index: int, parent: str) -> None:
        at = tree + index * node_size
        name_at, flags = struct.unpack_from(">IH", raw, at)
        (length,) = struct.unpack_from(">H", raw, names + name_at)
        start = names + name_at + 6
        name = raw[start : start + 2 * length].decode("utf-16-be") if index else ""
        path = f"{parent}/{name}" if parent else name
        if flags & 2:  # a folder: number of children, index of the first
            count, first = struct.unpack_from(">2I", raw, at + 6)
            for child in range(first, first + count):
                walk(child, path)
        elif not flags & 5:  # neither zlib (1) nor zstd (4)
            (offset,) = struct.unpack_from(">I", raw, at + 10)
            (size,) = struct.unpack_from(">I", raw, data + offset)
            found[path] = raw[data + offset + 4 : data + offset + 4 + size]

    walk(0, "")
    return found
