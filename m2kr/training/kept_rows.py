"""Matrices that frozen networks make, computed once and kept on disk in float16, memory-mapped."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import atomic
from m2kr.progress import SILENT, Progress, task
from m2kr.retrieval.cache import hold_entry

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PART = 1 << 25  # values of a file, 64 MiB


class KeptRows:
    """One matrix an item, each of its own height.

    They lie in parts of about 64 MiB below ``<cache>/<first 16 digits of the key's SHA-256>/``. A part is
    written aside and renamed, so what a killed process had finished is gone on with. Float16 keeps 11
    bits: a value is off by at most 0.05 % of itself.

    Args:
        cache: Folder of the entries.
        key: All that decides the matrices. JSON values.
        heights: Rows of each item.
        width: Values of a row.
        make: Matrices of the items at some places, in order; called for one part after the other, so
            that batches are always the same.
        progress: Told of items made.
        name: Of the task there.

    Raises:
        M2KRError: The folder can't be written to.
    """

    def __init__(
        self,
        cache: Path,
        key: Mapping[str, Any],
        heights: "NDArray[np.int64]",
        width: int,
        make: "Callable[[range], Sequence[NDArray[np.floating]]]",
        *,
        progress: Progress = SILENT,
        name: str = "frozen features",
    ) -> None:
        text = json.dumps(key, sort_keys=True)
        self.folder = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._ends = np.cumsum(heights)
        self._width = width
        parts = (self._ends - 1) // max(1, _PART // width)
        self._first = np.flatnonzero(np.diff(parts, prepend=-1))  # items that begin a part
        if not self._complete():
            with hold_entry(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                atomic.write_json(self.folder / "key.json", {"key": dict(key)}, alone=True)
                self._make(make, progress, name)
        self._parts = [np.load(self._path(n), mmap_mode="r") for n in range(len(self._first))]

    def __getitem__(self, item: int) -> "NDArray[np.float16]":
        """The matrix of an item, (rows x width)."""
        part = int(np.searchsorted(self._first, item, side="right")) - 1
        begin = self._begin(int(self._first[part]))
        rows: NDArray[np.float16] = self._parts[part][
            self._begin(item) - begin : int(self._ends[item]) - begin
        ]
        return rows

    def _make(
        self,
        make: "Callable[[range], Sequence[NDArray[np.floating]]]",
        progress: Progress,
        name: str,
    ) -> None:
        with task(progress, name, len(self._ends)):
            for part in range(len(self._first)):
                items = self._items(part)
                if not self._is_there(part):
                    rows = np.concatenate(make(items)).astype(np.float16)
                    path = self._path(part)
                    with atomic.writing(path, alone=True) as aside, atomic.create(aside) as file:
                        np.save(file, rows)
                progress.advance(name, len(items))

    def _complete(self) -> bool:
        return all(map(self._is_there, range(len(self._first))))

    def _is_there(self, part: int) -> bool:
        items = self._items(part)
        rows = int(self._ends[items[-1]]) - self._begin(items[0])
        try:
            kept = np.load(self._path(part), mmap_mode="r")
        except (OSError, ValueError):
            return False
        return bool(kept.shape == (rows, self._width) and kept.dtype == np.float16)

    def _items(self, part: int) -> range:
        starts = [*map(int, self._first), len(self._ends)]
        return range(starts[part], starts[part + 1])

    def _begin(self, item: int) -> int:
        return int(self._ends[item - 1]) if item else 0

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:05}.npy"
