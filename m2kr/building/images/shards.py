"""Writing one tar shard, and finding what is whole in one whose writer was killed."""

import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from m2kr.building.images.tar_index import Row
from m2kr.data.images.archives import Header
from m2kr.data.images.tar_offsets import BLOCK
from m2kr.errors import InputError

TRAILER = bytes(2 * BLOCK)
_DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError)


def member_bytes(name: str, data: bytes) -> tuple[bytes, int]:
    """A member as it stands in a shard, and at which byte of it its content begins.

    The owner's name, which nobody needs, holds the crc32 of the content: see `whole_members`.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    info.uname = f"{zlib.crc32(data):08x}"
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8")
    return header + data + bytes(-len(data) % BLOCK), len(header)


def whole_members(file: BinaryIO, start: int) -> Iterator[tuple[Row, int]]:
    """The members from an offset on that are all there, and where each ends, blocks filled up.

    Args:
        file: A shard.
        start: Of a member.
    """
    end = file.seek(0, io.SEEK_END)
    while start < end:
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as tar:
                info = tar.next()
        except _DAMAGE:
            return
        if info is None:
            return
        file.seek(info.offset_data - BLOCK)
        header, data = file.read(BLOCK), file.read(info.size)
        start = info.offset_data + info.size + -info.size % BLOCK
        if start > end or info.uname != f"{zlib.crc32(data):08x}":
            return
        yield (info.name, info.offset_data, info.size, zlib.crc32(header)), start


def foreign(shard: str) -> InputError:
    """The error for a tar in the folder of a store that the store didn't write."""
    return InputError(
        "this is no shard of an image store, or one that was damaged",
        where=shard,
        expected="the tar that m2kr wrote, with its index beside it",
        fix="move it elsewhere (it can be an image root of its own)",
    )
