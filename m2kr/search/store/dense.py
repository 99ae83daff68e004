"""Dense embeddings on disk: one array, a row a record, checked as it is read. Resumable while written.

Beside ``vectors.npy`` a record, ``vectors.json``, says how many rows there are, which (the hash of
their ids in order), and the CRC-32 of each 1,024 of them. Every block that is read is compared with
these, so a flipped byte is an error and never a score; to read all of it once more beforehand would
take as long as searching it.
"""

import io
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from m2kr import atomic
from m2kr.errors import CheckError, InputError, MissingError
from m2kr.search.store.mapped import fill

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

VECTORS, RECORD = "vectors.npy", "vectors.json"
DTYPE = np.dtype("<f4")
CHUNK = 1024  # rows of one checksum
_PARTIAL, _SYNCED = f"{VECTORS}.partial", "synced.json"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The encoded rows of one side.

    Attributes:
        folder: Where they lie.
        shape: Rows, and dimensions of each.
        order: Hash of the ids of the rows, in order; ``""`` if the writer wasn't told.
        crcs: CRC-32 of each `CHUNK` rows.
    """

    folder: Path
    shape: tuple[int, int]
    order: str
    crcs: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens what `EmbeddingWriter` wrote; no row is read yet.

        Raises:
            MissingError: there is none.
            CheckError: its record is damaged, or the array is not the one that the record is of.
        """
        path = folder / VECTORS
        if not path.is_file():
            raise MissingError("there are no encoded rows here", where=str(folder))
        try:
            record = _Record.of(json.loads((folder / RECORD).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged(folder / RECORD, "it is gone, or it can't be read") from error
        right = _header(record.rows, record.dim)
        with path.open("rb") as file:
            head, size = file.read(len(right)), os.fstat(file.fileno()).st_size
        if head != right or size != len(right) + record.nbytes:
            raise damaged(path, "its form or size is not what was written")
        return cls(folder, (record.rows, record.dim), record.order, record.crcs)

    def read(self, first: int, last: int) -> "NDArray[np.float32]":
        """Rows ``first`` to ``last - 1``, (rows x dim).

        Raises:
            CheckError: bytes differ from their checksum.
        """
        from isal.isal_zlib import crc32

        start = first - first % CHUNK
        end = min(len(self), -(-last // CHUNK) * CHUNK)
        rows = np.empty((max(0, end - start), self.shape[1]), DTYPE)
        view = rows.reshape(-1).view(np.uint8).data
        width = self.shape[1] * DTYPE.itemsize
        path = self.folder / VECTORS
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(len(_header(*self.shape)) + start * width)
                whole = fill(file, view)
        except FileNotFoundError as error:  # another process found it damaged
            raise damaged(path, "it is gone") from error
        if not whole:
            raise damaged(path, "it ends before its last row")
        for row in range(start, end, CHUNK):
            piece = view[(row - start) * width : (min(row + CHUNK, end) - start) * width]
            if crc32(piece) != self.crcs[row // CHUNK]:
                raise damaged(path, f"rows from {row} on differ from their checksum")
        return rows[first - start : last - start]

    @property
    def vectors(self) -> "NDArray[np.float32]":
        """All rows in memory, checked."""
        return self.read(0, len(self))


@dataclass(frozen=True, slots=True)
class _Record:
    """What is known of rows that are on disk: all of them, or those that were synced."""

    rows: int
    dim: int
    order: str
    crcs: tuple[int, ...]

    @classmethod
    def of(cls, found: "Mapping[str, Any]") -> Self:
        """Raises KeyError, TypeError or ValueError for what can't be one."""
        record = cls(found["rows"], found["dim"], found["order"], tuple(found["crc32"]))
        numbers = (record.rows, record.dim, *record.crcs)
        if not all(type(n) is int and n >= 0 for n in numbers) or not isinstance(record.order, str):
            raise ValueError(found)
        if len(record.crcs) != -(-record.rows // CHUNK) or (record.rows and not record.dim):
            raise ValueError(found)
        return record

    @property
    def nbytes(self) -> int:
        return self.rows * self.dim * DTYPE.itemsize

    def write(self, path: Path) -> None:
        told = {"rows": self.rows, "dim": self.dim, "order": self.order, "crc32": self.crcs}
        atomic.write_json(path, told)


class EmbeddingWriter:
    """Writes encoded rows as they come, without knowing how many will; use it in ``with``.

    An unfinished folder has no array under its final name.

    Args:
        folder: Where the array goes; made if need be, an old array is replaced.
        order: Hash of the ids of all rows to come, in order; kept beside them.
        sync_seconds: Least time between two syncs, behind which a writer that is opened after a kill
            goes on: with row number `rows`. None for neither.
    """

    def __init__(self, folder: Path, *, order: str = "", sync_seconds: float | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (VECTORS, RECORD):
            (folder / name).unlink(missing_ok=True)
        self._folder, self._order, self._sync_seconds = folder, order, sync_seconds
        self._rows, self._dim = 0, 0
        self._crcs: list[int] = []
        if sync_seconds is not None:
            self._rows, self._dim, self._crcs = _synced(folder, order)
        self._aside = folder / _PARTIAL
        self._file: IO[bytes] = atomic.reopen(self._aside)
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
        self._count(stored)
        if self._sync_seconds is not None and time.monotonic() - self._when >= self._sync_seconds:
            self._sync()

    def _count(self, stored: "NDArray[np.float32]") -> None:
        """Takes note of rows, and of their checksums."""
        from isal.isal_zlib import crc32

        done = 0
        while done < len(stored):
            inside = self._rows % CHUNK
            part = stored[done : done + CHUNK - inside]
            before = self._crcs.pop() if inside else 0
            self._crcs.append(crc32(part.reshape(-1).view(np.uint8).data, before))
            self._rows += len(part)
            done += len(part)

    def _begin(self) -> None:
        """Goes behind the rows that are there, and cuts off what follows."""
        head = _header(self._rows, self._dim)
        self._file.seek(0)
        self._file.write(head)
        end = len(head) + self._rows * self._dim * DTYPE.itemsize
        self._file.truncate(end)
        self._file.seek(end)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._record().write(self._folder / _SYNCED)
        self._when = time.monotonic()

    def _record(self) -> _Record:
        return _Record(self._rows, self._dim, self._order, tuple(self._crcs))

    def _forget(self) -> None:
        self._aside.unlink(missing_ok=True)
        (self._folder / _SYNCED).unlink(missing_ok=True)

    def close(self) -> Embeddings:
        """Finishes the files and opens them."""
        self._file.seek(0)
        self._file.write(_header(self._rows, self._dim))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._record().write(self._folder / RECORD)
        atomic.replace(self._aside, self._folder / VECTORS)
        self._forget()
        return Embeddings.open(self._folder)


def damaged(path: Path, what: str) -> CheckError:
    """The error for encoded rows that are not those that were written."""
    return CheckError(
        what, where=str(path), fix=f"delete {path.parent}, and they are encoded again"
    )


def _header(rows: int, dim: int) -> bytes:
    """The array's header; numpy pads it, so that the same bytes fit any number of rows."""
    out = io.BytesIO()
    layout = {"descr": DTYPE.str, "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(out, layout)
    return out.getvalue()


def _synced(folder: Path, order: str) -> tuple[int, int, list[int]]:
    """Rows, dim and checksums that a killed writer had synced, as far as the bytes agree with them."""
    from isal.isal_zlib import crc32

    nothing: tuple[int, int, list[int]] = (0, 0, [])
    try:
        record = _Record.of(json.loads((folder / _SYNCED).read_bytes()))
        file = (folder / _PARTIAL).open("rb", buffering=0)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return nothing
    if record.order != order or not record.dim:
        file.close()
        return nothing
    rows = 0
    with file:
        file.seek(len(_header(record.rows, record.dim)))
        for crc in record.crcs:
            count = min(CHUNK, record.rows - rows)
            piece = memoryview(bytearray(count * record.dim * DTYPE.itemsize))
            if not fill(file, piece) or crc32(piece) != crc:
                break
            rows += count
    return (rows, record.dim, list(record.crcs[: -(-rows // CHUNK)])) if rows else nothing
