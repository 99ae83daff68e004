"""A zip of many gigabytes that takes few on disk: its members lie far apart in sparse files."""

import os
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WIDE = 0xFFFFFFFF


@dataclass(frozen=True)
class SparseZip:
    """What was made.

    Attributes:
        paths: The parts.
        contents: Content of the members that are not zeros, by name.
        stored: Bytes of these in the archive, without headers.
        directory: Bytes of the directory with its end records.
    """

    paths: list[Path]
    contents: dict[str, bytes]
    stored: int
    directory: int


def make_sparse_zip(
    folder: Path,
    *,
    members: int = 100_000,
    size: int = 20_000_000_000,
    parts: int = 3,
    filled: int = 500,
    seed: int = 0,
) -> SparseZip:
    """Writes ``name.zip.001`` and so on: a 64-bit zip of members of 1 to 20,000 bytes.

    Args:
        folder: Where to.
        members: How many.
        size: Bytes up to the directory.
        parts: In how many files it is cut.
        filled: How many members, spread over it, have random content; the others are zeros.
        seed: Of sizes and contents.
    """
    draw = random.Random(seed)
    step = size // members
    cut = size // parts + 1
    chosen = set(range(0, members, members // filled))
    # The member before each cut goes on behind it.
    across = {-(-cut * k // step): cut * k - 10 for k in range(1, parts)}
    chosen |= set(across)
    paths = [folder / f"images.zip.{number:03d}" for number in range(1, parts + 1)]
    files = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in paths]
    pile = draw.randbytes(1 << 20)
    zeros = [0]
    for _ in range(20_000):
        zeros.append(zlib.crc32(b"\0", zeros[-1]))
    contents, stored = {}, 0
    directory = bytearray()
    try:
        for i in range(members):
            name = f"images/{i:08x}.jpg"
            n = draw.randrange(1, 20_001)
            if i in chosen:
                at = draw.randrange(len(pile) - n)
                deflated = len(contents) % 2
                data = pile[at : at + n // 4] * 4 + b"." if deflated else pile[at : at + n]
                contents[name] = data
                packed = _deflated(data) if deflated else data
                crc, n, weight = zlib.crc32(data), len(data), len(packed)
                stored += weight
                method = 8 if deflated else 0
            else:
                packed, method, crc, weight = b"", 0, zeros[n], n
            offset = across.get(i, i * step)
            raw = name.encode()
            head = struct.pack("<5H3L2H", 45, 0, method, 0, 33, crc, weight, n, len(raw), 9)
            local = b"PK\3\4" + head + raw + struct.pack("<2HLB", 0x5455, 5, 1, 0) + packed
            for start, piece in _cut(offset, local, cut):
                os.pwrite(files[start // cut], piece, start % cut)
            wide = offset >= WIDE
            extra = struct.pack("<2HQ", 1, 8, offset) if wide else b""
            facts = (45, 45, 0, method, 0, 33, crc, weight, n, len(raw), len(extra), 0, 0, 0, 0)
            place = WIDE if wide else offset
            directory += b"PK\1\2" + struct.pack("<6H3L5H2L", *facts, place) + raw + extra
        counts = (members, members, len(directory), size)
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *counts)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, size + len(directory), 1)
        end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, WIDE, WIDE, 0)
        for number, file in enumerate(files):
            os.ftruncate(file, cut if number < parts - 1 else size - cut * (parts - 1))
        os.pwrite(files[-1], directory + end, size - cut * (parts - 1))
    finally:
        for file in files:
            os.close(file)
    return SparseZip(paths, contents, stored, len(directory) + len(end))


def _deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


def _cut(offset: int, data: bytes, cut: int) -> Iterator[tuple[int, bytes]]:
    """Pieces that lie in one part each."""
    while data:
        n = min(len(data), cut - offset % cut)
        yield offset, data[:n]
        offset, data = offset + n, data[n:]
