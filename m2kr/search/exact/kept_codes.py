"""The kernel's codes of a token store, kept beside it: a search reads a byte a dimension, and codes nothing.

For each shard of the store there are::

    codes-00000.i8     the arrays of `cpu_fused.FusedCodes`, `_ARRAYS`, each from a multiple of 64 bytes on
    codes-00000.json   format and version, the SHA-256 of the tokens' file that they were made of, and the
                       CRC-32 of each `_PIECE` bytes

They are made when a store is first searched, and again if the store's tokens or the format are others, or
a byte is not what was written. They are no part of the store: who deletes them loses a few seconds. The
record is written last, after the codes are synced. Where nothing can be written (a folder that may only be
read, a disk that would be full) codes are made for each search.
"""

import logging
import mmap
import os
import shutil
import threading
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from m2kr import atomic
from m2kr.errors import InputError
from m2kr.search.exact.cpu_fused import GROUP, FusedCodes, code_width
from m2kr.search.store.format import token_file_names
from m2kr.search.store.reader import TokenStore, block_spans
from m2kr.search.store.records import read_json_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from m2kr.concurrency import Workers
    from m2kr.search.exact.cpu_fused import Kernel

logger = logging.getLogger("m2kr.search")

FORMAT, VERSION = "m2kr-codes", 1
_ARRAYS = ("codes", "starts", "scales", "residuals", "residual", "length", "shortest")
_PIECE = 16 << 20
_ALIGNED = 64
_TOKENS = 1 << 16  # coded at a time
_KEPT_MAPS = 64  # of shards, in a process
_making = threading.Lock()


def code_file_names(number: int) -> tuple[str, str]:
    """File names of a shard's codes and of their record."""
    return f"codes-{number:05}.i8", f"codes-{number:05}.json"


@dataclass(frozen=True, slots=True, eq=False)
class ShardCodes:
    """The kept codes of a shard.

    Attributes:
        first: Number of its first passage in the store.
        codes: Its codes, mapped.
    """

    first: int
    codes: FusedCodes
    _map: mmap.mmap

    def forget(self) -> None:
        """Lets go of the pages: they count as this process's memory."""
        _forget(self._map)


def kept_codes(
    store: TokenStore, first: int, last: int, kernel: "Kernel", workers: "Workers", memory: int
) -> list[ShardCodes] | None:
    """The codes of all shards that some passages lie in; made if need be.

    Args:
        store: The store.
        first: Number of the first passage.
        last: One past the last.
        kernel: Who codes.
        workers: Who helps.
        memory: Bytes for tokens that are being coded.

    Returns:
        The shards in order; None where codes can't be kept.

    Raises:
        InputError: a token is NaN or infinite.
        CheckError: a passage differs from its checksum.
    """
    found = []
    starts = np.cumsum([0, *(shard.passages for shard in store.shards)]).tolist()
    for shard, (begin, end) in zip(store.shards, pairwise(starts), strict=True):
        if end <= first or begin >= last:
            continue
        with _making:  # searches of several devices may need the same ones
            codes = _opened(store, shard.number, begin, end)
            if codes is None and _make(store, shard.number, begin, end, kernel, workers, memory):
                codes = _opened(store, shard.number, begin, end)
        if codes is None:
            return None
        found.append(codes)
    return found


def _layout(dim: int, offsets: "NDArray[np.int64]") -> tuple[dict[str, tuple[int, Any, Any]], int]:
    """Where each array is: its first byte, type and shape; and the bytes of all."""
    tokens, passages = int(offsets[-1]), len(offsets) - 1
    groups = int((-(-np.diff(offsets) // GROUP)).sum())
    shapes: dict[str, Any] = {
        "codes": (np.dtype(np.int8), (tokens, code_width(dim))),
        "starts": (np.dtype("<i4"), (tokens,)),
        "scales": (np.dtype("<f4"), (groups,)),
        "residuals": (np.dtype("<f4"), (groups,)),
        **{name: (np.dtype("<f4"), (passages,)) for name in ("residual", "length", "shortest")},
    }
    places, size = {}, 0
    for name in _ARRAYS:
        dtype, shape = shapes[name]
        places[name] = (size, dtype, shape)
        size += -(-int(np.prod(shape)) * dtype.itemsize // _ALIGNED) * _ALIGNED
    return places, size


def _opened(store: TokenStore, number: int, begin: int, end: int) -> ShardCodes | None:
    """A shard's codes, if they are there and right."""
    path, record = (store.folder / name for name in code_file_names(number))
    offsets = store.offsets[begin : end + 1] - store.offsets[begin]
    places, size = _layout(store.dim, offsets)
    try:
        content = read_json_object(record)
        state = path.stat()
    except (InputError, OSError):
        return None
    sums = content.get("crc32")
    if (
        content.get("format") != FORMAT
        or content.get("version") != VERSION
        or content.get("tokens") != _tokens_sha256(store, number)
        or state.st_size != size
        or not isinstance(sums, list)
    ):
        return None
    try:
        mapped = _mapped(path, state.st_ino, state.st_mtime_ns, size, tuple(sums))
    except (ValueError, OSError) as error:
        logger.warning("%s: %s; the store is coded again", path, error)
        return None
    arrays = {
        name: np.frombuffer(mapped, dtype, int(np.prod(shape)), place).reshape(shape)
        for name, (place, dtype, shape) in places.items()
    }
    groups = np.concatenate([[0], np.cumsum(-(-np.diff(offsets) // GROUP))]).astype(np.int64)
    return ShardCodes(begin, FusedCodes(store.dim, offsets, groups, **arrays), mapped)


@lru_cache(_KEPT_MAPS)
def _mapped(path: Path, _inode: int, _time: int, size: int, sums: tuple[int, ...]) -> mmap.mmap:
    """A file's bytes, compared with their CRC-32 when a process first needs them."""
    from isal.isal_zlib import crc32

    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    view = memoryview(mapped)
    for number, start in enumerate(range(0, size, _PIECE)):
        piece = view[start : start + _PIECE]
        if number >= len(sums) or crc32(piece) != sums[number]:
            raise ValueError("its bytes are not those that were written")
        _forget(mapped)
    return mapped


def _forget(mapped: mmap.mmap) -> None:
    """Lets go of a map's pages: they count as this process's memory."""
    if hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _tokens_sha256(store: TokenStore, number: int) -> str:
    return store.shards[number].sha256[token_file_names(number)[0]]


def _make(
    store: TokenStore,
    number: int,
    begin: int,
    end: int,
    kernel: "Kernel",
    workers: "Workers",
    memory: int,
) -> bool:
    """Codes a shard and writes that down; False where it can't be written."""
    path, record = (store.folder / name for name in code_file_names(number))
    offsets = store.offsets[begin : end + 1] - store.offsets[begin]
    places, size = _layout(store.dim, offsets)
    if not size or not os.access(store.folder, os.W_OK):
        return False
    if shutil.disk_usage(store.folder).free < 2 * size:
        logger.info("no codes are kept in %s: the disk would be nearly full", store.folder)
        return False
    try:
        record.unlink(missing_ok=True)
        with atomic.writing(path) as aside:
            with atomic.create(aside) as file:
                file.truncate(size)
                for span, codes in _coded(store, begin, offsets, kernel, workers, memory):
                    _write(file, places, span, codes)
            sums = _sums(aside)
        content = {"format": FORMAT, "version": VERSION, "tokens": _tokens_sha256(store, number)}
        atomic.write_json(record, content | {"crc32": sums})
    except OSError as error:
        logger.info("no codes are kept in %s: %s", store.folder, error)
        return False
    return True


def _coded(
    store: TokenStore,
    begin: int,
    offsets: "NDArray[np.int64]",
    kernel: "Kernel",
    workers: "Workers",
    memory: int,
) -> "Iterator[tuple[tuple[int, int, int], FusedCodes]]":
    """Pieces of a shard: (first passage, first token, first group) of the shard, and the codes."""
    width = 2 * store.dim + code_width(store.dim) + 40
    group = 0
    spans = block_spans(offsets, max(1, min(_TOKENS, memory // 2 // width)))
    room = max(int(offsets[last] - offsets[first]) for first, last in spans)
    buffer = np.empty((room, store.dim), np.float16)
    for first, last in spans:
        tokens = store.read(begin + first, begin + last, buffer)
        codes = kernel.code(
            tokens, offsets[first : last + 1] - offsets[first], workers, begin + first
        )
        yield (first, int(offsets[first]), group), codes
        group += len(codes.scales)


def _write(
    file: BinaryIO, places: "dict[str, Any]", span: tuple[int, int, int], codes: FusedCodes
) -> None:
    passage, token, group = span
    rows = {"codes": token, "starts": token, "scales": group, "residuals": group}
    for name, (place, dtype, shape) in places.items():
        array = getattr(codes, name)
        width = int(np.prod(shape[1:])) * dtype.itemsize
        file.seek(place + rows.get(name, passage) * width)
        file.write(np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data)


def _sums(path: Path) -> list[int]:
    from isal.isal_zlib import crc32

    with path.open("rb") as file:
        return [crc32(piece) for piece in iter(lambda: file.read(_PIECE), b"")]
