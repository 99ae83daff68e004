"""Rows of big arrays in buffers: pages of a memory map would count as the process's own memory."""

from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from m2kr.errors import InputError

if TYPE_CHECKING:
    import io

    from numpy.typing import NDArray


def read_rows(
    array: "NDArray[Any]", first: int, last: int, out: "NDArray[Any] | None" = None
) -> "NDArray[Any]":
    """Rows ``first`` to ``last - 1`` of an array; of a memory-mapped one, by reading its file.

    Args:
        array: (rows x dim).
        first: The first row.
        last: One past the last.
        out: (at least as many rows x dim) to fill, of any float type; the result is then its
            beginning. Otherwise it is a view of an array in memory, or new.

    Raises:
        InputError: the file ends early.
    """
    place = file_of(array)
    if out is None:
        if place is None:
            return array[first:last]
        out = np.empty((last - first, *array.shape[1:]), array.dtype)
    rows = out[: last - first]
    if place is None or rows.dtype != array.dtype or not rows.flags.c_contiguous:
        with np.errstate(over="ignore"):
            rows[...] = array[first:last]
        return rows
    path, start = place
    with path.open("rb", buffering=0) as file:
        file.seek(start + first * array.strides[0])
        if not fill(file, rows.reshape(-1).view(np.uint8).data):
            raise InputError("the file ends before its last row", where=str(path))
    return rows


def file_of(array: "NDArray[Any]") -> tuple[Path, int] | None:
    """The file of an array that is all of a memory map, and where in it the array begins."""
    base = cast("Any", array.base)
    if not (isinstance(array, np.memmap) and isinstance(base, mmap)):
        return None
    if not array.flags.c_contiguous:
        return None
    return Path(str(array.filename)), int(array.offset)


def fill(file: "io.FileIO", view: memoryview) -> bool:
    """Reads until the view is full; False if the file ends before."""
    while view:
        n = file.readinto(view)
        if not n:
            return False
        view = view[n:]
    return True
