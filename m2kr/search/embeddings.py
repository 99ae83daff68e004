"""Dense embeddings on disk: one memory-mapped array, a row a record. Resumable while it is written."""

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Self

import numpy as np

from m2kr import atomic
from m2kr.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VECTORS = "vectors.npy"
DTYPE = np.dtype("<f4")
_PARTIAL, _SYNCED = f"{VECTORS}.partial", "synced.json"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The encoded rows of one side.

    Attributes:
        vectors: (rows x dim) float32.
    """

    vectors: "NDArray[np.float32]"

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps what `EmbeddingWriter` wrote; nothing is read yet.

        Raises:
            InputError: it is no such array.
        """
        path = folder / VECTORS
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"no array can be read: {error}", where=str(path)) from error
        if vectors.ndim != 2 or vectors.dtype != DTYPE:
            raise InputError(
                f"an array of shape {vectors.shape} and type {vectors.dtype}",
                where=str(path),
                expected="2 axes, float32",
            )
        return cls(vectors)

    def search(
        self,
        documents: "Embeddings",
        k: int,
        ranks: "NDArray[np.int64]",
        *,
        similarity: Literal["dot", "cosine"],
        memory: int,
    ) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
        """Exact top-k of these (query) embeddings in ``documents``; see `dense.search`.

        Raises:
            InputError: the dims differ.
        """
        if len(self) and len(documents) and self.vectors.shape[1] != documents.vectors.shape[1]:
            raise InputError(
                f"query vectors have {self.vectors.shape[1]} dimensions, passage vectors "
                f"{documents.vectors.shape[1]}",
                expected="the same on both sides",
            )
        from m2kr.search import dense

        return dense.search(
            self.vectors, documents.vectors, k, ranks, similarity=similarity, memory=memory
        )


class EmbeddingWriter:
    """Writes encoded rows as they come, without knowing how many will; use it in ``with``.

    An unfinished folder has no array under its final name.

    Args:
        folder: Where the array goes; made if need be, an old array is replaced.
        sync_seconds: Least time between two syncs, behind which a writer that is opened after a kill
            goes on: with row number `rows`. None for neither.
    """

    def __init__(self, folder: Path, *, sync_seconds: float | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VECTORS).unlink(missing_ok=True)
        self._folder, self._sync_seconds = folder, sync_seconds
        self._rows, self._dim = 0, 0
        if sync_seconds is not None:
            self._rows, self._dim = _synced(folder)
        self._aside = folder / _PARTIAL
        self._aside.touch()
        self._file: IO[bytes] = self._aside.open("r+b")
        self._begin()
        self._when = time.monotonic()

    @property
    def rows(self) -> int:
        """Rows written, or found when the writer was opened."""
        return self._rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file.closed:
            return
        if kind is not None and self._sync_seconds is not None:
            with suppress(OSError):
                self._sync()
            self._file.close()
            return
        self._file.close()
        self._forget()

    def append(self, rows: "Sequence[NDArray[Any]]") -> None:
        """Adds rows.

        Raises:
            InputError: forms or dimensions are mixed, or a value is too big for the stored type.
        """
        if not len(rows):
            return
        if not self._dim:
            self._dim = rows[0].shape[-1]
            self._begin()
        for row in rows:
            if row.shape != (self._dim,):
                raise InputError(
                    f"a row is encoded with shape {row.shape} after rows of {self._dim} dimensions",
                    expected="a 2-D array, or a list of 2-D arrays, with one dim throughout",
                )
        with np.errstate(over="ignore"):
            stored = np.stack(rows).astype(DTYPE)
        if not np.isfinite(stored).all():
            raise InputError(
                f"an encoded value is NaN, infinite or too big for {DTYPE.name}",
                expected=f"at most {np.finfo(DTYPE).max}; normalise the vectors",
            )
        self._file.write(stored.tobytes())
        self._rows += len(stored)
        if self._sync_seconds is not None and time.monotonic() - self._when >= self._sync_seconds:
            self._sync()

    def _begin(self) -> None:
        """Goes behind the rows that are there, and cuts off what follows."""
        end = self._header() + self._rows * self._dim * DTYPE.itemsize
        self._file.truncate(end)
        self._file.seek(end)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        atomic.write_json(self._folder / _SYNCED, {"rows": self._rows, "dim": self._dim})
        self._when = time.monotonic()

    def _header(self) -> int:
        """Writes the header; numpy pads it, so that the same bytes fit any number of rows."""
        self._file.seek(0)
        layout = {"descr": DTYPE.str, "fortran_order": False, "shape": (self._rows, self._dim)}
        np.lib.format.write_array_header_1_0(self._file, layout)
        return self._file.tell()

    def _forget(self) -> None:
        self._aside.unlink(missing_ok=True)
        (self._folder / _SYNCED).unlink(missing_ok=True)

    def close(self) -> Embeddings:
        """Finishes the file and maps it."""
        self._header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        atomic.replace(self._aside, self._folder / VECTORS)
        self._forget()
        return Embeddings.open(self._folder)


def _synced(folder: Path) -> tuple[int, int]:
    """Rows and dim that a killed writer had synced; zeros where there is nothing to go on with."""
    try:
        found = json.loads((folder / _SYNCED).read_bytes())
        rows, dim = int(found["rows"]), int(found["dim"])
        size = (folder / _PARTIAL).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
    whole = rows >= 0 and dim > 0 and size >= rows * dim * DTYPE.itemsize
    return (rows, dim) if whole else (0, 0)
