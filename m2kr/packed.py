"""How a file is packed, by its first bytes: names say it wrongly, or not at all."""

import gzip
from pathlib import Path
from typing import IO, cast

from m2kr.errors import InputError

_BEGINS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_LONGEST = max(map(len, _BEGINS))
_FREE, _RATIO = 64 << 20, 300  # bytes that a gzip file may unpack to, and times its own size
_BLOCK = 1 << 22


def is_gzip(path: Path) -> bool:
    """Whether a file is gzip's, whatever it is called.

    Raises:
        InputError: it is packed in another way.
    """
    with path.open("rb") as file:
        begin = file.read(_LONGEST)
    packed = next((name for magic, name in _BEGINS.items() if begin.startswith(magic)), "")
    if packed not in ("", "gzip"):
        raise InputError(
            f"the file is packed by {packed}", where=str(path), expected="plain or gzip"
        )
    return bool(packed) or path.name.lower().endswith(".gz")


def open_unpacked(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked if they are gzip's.

    Raises:
        InputError: it is packed in another way; when read, that it unpacks to far more than its size.
    """
    return cast("IO[bytes]", _Unpacked(path)) if is_gzip(path) else path.open("rb")


class _Unpacked(gzip.GzipFile):
    """The content of a gzip file that may not grow without end, as one of line feeds alone does."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._path, self._most = path, max(_FREE, _RATIO * path.stat().st_size)

    def read(self, size: int | None = -1) -> bytes:
        left = size if size is not None and size >= 0 else self._most + 1
        parts = []
        while left > 0 and (part := super().read(min(left, _BLOCK))):
            parts.append(part)
            left -= len(part)
            if self.tell() > self._most:
                raise InputError(
                    f"unpacks to more than {self._most:,} bytes",
                    where=str(self._path),
                    expected=f"at most {_RATIO} times its own size",
                )
        return b"".join(parts)
