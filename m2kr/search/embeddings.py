"""Embeddings on disk: one flat memory-mapped array, and offsets where a row has several vectors."""

import logging
import os
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

logger = logging.getLogger("m2kr.search")

VECTORS, OFFSETS = "vectors.npy", "offsets.npy"
DENSE_DTYPE, TOKEN_DTYPE = np.dtype("<f4"), np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The encoded rows of one side.

    Attributes:
        vectors: (rows x dim) float32 when dense; (all tokens x dim) float16 for late interaction.
        offsets: None when dense; else row i owns ``vectors[offsets[i]:offsets[i + 1]]``.
    """

    vectors: "NDArray[np.floating]"
    offsets: "NDArray[np.int64] | None" = None

    def __len__(self) -> int:
        return len(self.vectors) if self.offsets is None else len(self.offsets) - 1

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps what `EmbeddingWriter` wrote; nothing is read yet."""
        vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        at = folder / OFFSETS
        return cls(vectors, np.load(at, allow_pickle=False) if at.exists() else None)

    def search(
        self,
        documents: "Embeddings",
        k: int,
        ranks: "NDArray[np.int64]",
        *,
        similarity: Literal["dot", "cosine"],
        memory: int,
    ) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
        """Exact top-k of these (query) embeddings in ``documents``; see `dense.search`, `reference.search`.

        Raises:
            InputError: one side is dense and the other late interaction, or the dims differ.
        """
        if (self.offsets is None) != (documents.offsets is None):
            raise InputError(
                "queries and passages are encoded in different forms",
                expected="a 2-D array on both sides, or a list of 2-D arrays on both",
            )
        if len(self) and len(documents) and self.vectors.shape[1] != documents.vectors.shape[1]:
            raise InputError(
                f"query vectors have {self.vectors.shape[1]} dimensions, passage vectors "
                f"{documents.vectors.shape[1]}",
                expected="the same on both sides",
            )
        if self.offsets is None or documents.offsets is None:
            from m2kr.search import dense

            return dense.search(
                self.vectors, documents.vectors, k, ranks, similarity=similarity, memory=memory
            )
        from m2kr.search.late import reference

        matrices = [self.vectors[a:b] for a, b in zip(self.offsets, self.offsets[1:], strict=False)]
        return reference.search(matrices, documents.vectors, documents.offsets, k, ranks)


class EmbeddingWriter:
    """Writes encoded rows as they come, without knowing how many will.

    The first row decides the form: 1-D rows are dense (float32), 2-D ones late interaction
    (float16, all-zero token rows left out). An unfinished folder has no array under its final name.

    Args:
        folder: Where the arrays go; made if need be, old arrays are replaced.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (VECTORS, OFFSETS):
            (folder / name).unlink(missing_ok=True)
        self._folder = folder
        self._aside = folder / f"{VECTORS}.partial"
        self._file: IO[bytes] = self._aside.open("wb")
        self._ndim = 0
        self._dim = 0
        self._rows = 0
        self._lengths: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._aside.unlink(missing_ok=True)

    def append(self, rows: "Sequence[NDArray[Any]]") -> None:
        """Adds rows: all 1-D, or all 2-D.

        Raises:
            InputError: forms or dimensions are mixed, or a value is too big for the stored type.
        """
        if not len(rows):
            return
        if not self._ndim:
            self._ndim, self._dim = rows[0].ndim, rows[0].shape[-1]
            self._header()
        for row in rows:
            if row.ndim not in (1, 2) or row.ndim != self._ndim or row.shape[-1] != self._dim:
                raise InputError(
                    f"a row is encoded with shape {row.shape} after rows of {self._ndim} axes and "
                    f"{self._dim} dimensions",
                    expected="a 2-D array, or a list of 2-D arrays, with one dim throughout",
                )
        stored = self._stored(np.stack(rows) if self._ndim == 1 else np.concatenate(rows))
        if self._ndim == 2:
            real = stored.any(axis=1)
            starts = np.cumsum([0, *map(len, rows)])
            kept = np.concatenate([[0], np.cumsum(real)])
            self._lengths.extend(np.diff(kept[starts]).tolist())
            stored = stored[real]
        self._rows += len(stored)
        self._file.write(stored.tobytes())

    def _stored(self, vectors: "NDArray[Any]") -> "NDArray[np.floating]":
        dtype = TOKEN_DTYPE if self._ndim == 2 else DENSE_DTYPE
        with np.errstate(over="ignore"):
            stored: NDArray[np.floating] = vectors.astype(dtype)
        if not np.isfinite(stored).all():
            raise InputError(
                f"an encoded value is NaN, infinite or too big for {dtype.name}",
                expected=f"at most {np.finfo(dtype).max}; normalise the vectors",
            )
        return stored

    def _header(self) -> int:
        """Writes the header; numpy pads it, so that the same bytes fit any number of rows."""
        self._file.seek(0)
        shape = (self._rows, self._dim)
        dtype = TOKEN_DTYPE if self._ndim == 2 else DENSE_DTYPE
        layout = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, layout)
        return self._file.tell()

    def close(self) -> Embeddings:
        """Finishes the files and maps them."""
        if not self._ndim:
            self._header()
        self._header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._ndim == 2:
            offsets = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
            aside = self._folder / f"{OFFSETS}.partial"
            with aside.open("wb") as file:
                np.save(file, offsets)
                file.flush()
                os.fsync(file.fileno())
            atomic.replace(aside, self._folder / OFFSETS)
        atomic.replace(self._aside, self._folder / VECTORS)
        return Embeddings.open(self._folder)
