"""Parquet files that strangers wrote, read in bounded memory.

A kilobyte can stand for gigabytes three times over: rows (or values of a nested column) that repeat take no
bytes, a page may unpack to a thousand times its size, and a long text is stored once in a dictionary that
every row points to. So the footer's claims are held against the file's size before a page is read, and
the longest text of each dictionary decides in which way its rows are read.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import InputError
from m2kr.unicode_halves import mended_array

if TYPE_CHECKING:
    import pyarrow as pa

MOST_COLUMNS = 1000
MOST_DEPTH = 32
# Beyond these, values per byte of the file and unpacked bytes per packed one are a bomb's.
_FREE_VALUES, _VALUES_A_BYTE = 4 << 20, 64
_FREE_BYTES, _RATIO = 64 << 20, 300
_CHUNK = 2 << 30  # unpacked bytes of a column in one row group
_STEP = 64 << 20  # bytes that one batch may take


class ParquetReader:
    """A Parquet file whose footer was checked; not for several threads at once.

    Args:
        path: The file.
        memory_map: Read through a map of it.

    Attributes:
        rows: How many there are.
        groups: Row groups.
        schema: Of the columns, as they are without this module.
        unpacked: Bytes that the rows read by `batches` take once every text is written out.

    Raises:
        InputError: It is no Parquet file, or claims to hold what such a small file can't.
    """

    def __init__(self, path: Path, *, memory_map: bool = False) -> None:
        import pyarrow as pa

        self._path, self._map = path, memory_map
        try:
            self._size = path.stat().st_size
            if not path.is_file():
                raise ValueError("it is no file")
            self._file = self._file_of()
            self._meta = self._file.metadata
            self._footer = self._footer_of()
            self.schema: pa.Schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise self._refusal(
                f"the file can't be read, not a readable Parquet: {error}"
            ) from error
        self.rows: int = self._meta.num_rows
        self.groups: int = self._meta.num_row_groups
        self.unpacked = 0
        self._coded: Any = None
        self._check_schema()

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """Keys and values of the footer."""
        return dict(self._meta.metadata or {})

    def close(self) -> None:
        """Ends the use of the file."""
        self._file.close()
        self._footer.close(force=True)
        if self._coded is not None:
            self._coded.close()

    def __enter__(self) -> "ParquetReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def group(self, number: int, columns: Sequence[str]) -> "pa.Table":
        """One row group; texts may be dictionary-coded.

        Raises:
            InputError: it is damaged, or a bomb.
        """
        rows = self._meta.row_group(number).num_rows
        coded = self._check_group(number, columns, rows=rows)
        try:
            table = self._opened(coded).read_row_group(number, columns=columns, use_threads=False)
            self._check_bytes(_validated(table))
        except _errors() as error:
            raise self._refusal(f"the file is damaged: {error}") from error
        if table.num_rows != rows:
            raise self._refusal(f"the file is damaged: row group {number} lacks rows")
        return table

    def batches(
        self, columns: Sequence[str] | None = None, *, rows: int = 256
    ) -> Iterator["pa.RecordBatch"]:
        """All rows, some at a time; texts may be dictionary-coded.

        Args:
            columns: Their names; all if absent.
            rows: In a batch, at most.

        Raises:
            InputError: it is damaged, or a bomb.
        """
        names = list(self.schema.names) if columns is None else list(columns)
        self.unpacked = 0
        for number in range(self.groups):
            coded = self._check_group(number, names, rows=rows)
            chosen = self._opened(coded).iter_batches(
                rows, row_groups=[number], columns=names, use_threads=False
            )
            while True:
                try:
                    batch = next(chosen, None)
                    if batch is None:
                        break
                    batch = _in_utf8(batch)
                    self.unpacked += _bytes(batch)
                    self._check_bytes(self.unpacked)
                except _errors() as error:
                    raise self._refusal(f"the file is damaged: {error}") from error
                yield from self._paced(batch) if coded else [batch]

    def _paced(self, batch: "pa.RecordBatch") -> Iterator["pa.RecordBatch"]:
        """A batch of coded texts in pieces that take little memory as Python objects."""
        step = max(1, len(batch) * _STEP // max(1, _bytes(batch)))
        for start in range(0, len(batch), step):
            yield batch.slice(start, step)

    def _check_bytes(self, unpacked: int) -> None:
        if unpacked > max(_FREE_BYTES, _RATIO * self._size):
            raise self._refusal(
                f"{self._size:,} bytes unpack to more than {unpacked:,}",
                f"at most {_RATIO} times its own size",
            )

    def _check_schema(self) -> None:
        meta = self._meta
        if meta.num_columns > MOST_COLUMNS:
            raise self._refusal(
                f"it has {meta.num_columns:,} columns", f"at most {MOST_COLUMNS:,} columns"
            )
        for i in range(meta.num_columns):
            if meta.schema.column(i).max_definition_level > MOST_DEPTH:
                raise self._refusal(f"column {i} is nested too deeply")
        groups = [meta.row_group(i).num_rows for i in range(self.groups)]
        if min(groups, default=0) < 0 or sum(groups) != self.rows:
            raise self._refusal(f"its footer says {self.rows:,} rows, its parts {sum(groups):,}")
        self._check_values("rows", self.rows)

    def _check_values(self, what: str, count: int) -> None:
        most = max(_FREE_VALUES, _VALUES_A_BYTE * self._size)
        if not 0 <= count <= most:
            raise self._refusal(
                f"{self._size:,} bytes claim to hold {count:,} {what}",
                f"at most {most:,} in a file of this size",
            )

    def _check_group(self, number: int, columns: Sequence[str], *, rows: int) -> bool:
        """Refuses a row group that unpacks to too much; whether its texts must be read as dictionaries."""
        chunks = self._chunks(number, columns)
        for chunk in chunks:
            name = chunk.path_in_schema.partition(".")[0]
            self._check_values(f"values in column {name!r}", chunk.num_values)
            size, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
            most = max(_FREE_BYTES, _RATIO * packed)
            if not 0 <= size <= min(most, _CHUNK) or not 0 <= packed <= self._size:
                raise self._refusal(
                    f"row group {number} has {packed:,} bytes of column {name!r} that unpack to {size:,}",
                    f"at most {_RATIO} times as many, and {_CHUNK:,}: write smaller row groups",
                )
        return self._is_suspicious(number, chunks, rows)

    def _chunks(self, number: int, columns: Sequence[str]) -> list[Any]:
        """What the footer says of the columns' chunks, if it agrees with itself."""
        try:
            # What is wrong there raises in a read; where pyarrow is asked for it, it ends the process.
            self._footer.read_row_group(number, columns=columns, use_threads=False)
        except _NoBytes as stopped:
            # pyarrow keeps the exception, and its frames all that callers hold.
            stopped.__traceback__ = None
        except _errors() as error:
            raise self._refusal(f"the file is damaged: {error}") from error
        group = self._meta.row_group(number)
        paths = (self._meta.schema.column(i).path for i in range(self._meta.num_columns))
        return [group.column(i) for i, path in enumerate(paths) if _is_of(path, columns)]

    def _is_suspicious(self, number: int, chunks: Sequence[Any], rows: int) -> bool:
        """Whether the rows could take much memory, if each has its dictionary's longest text."""
        texts = [c for c in chunks if _has_dictionary(c)]
        # Not even all of its bytes as one text in every value would be much.
        texts = [c for c in texts if c.total_uncompressed_size * _at_once(c, rows) > _STEP]
        if not texts:
            return False
        try:
            file = self._opened(coded=True)
            names = [c.path_in_schema for c in texts]
            first = next(file.iter_batches(1, row_groups=[number], columns=names), None)
        except _errors() as error:
            raise self._refusal(f"the file is damaged: {error}") from error
        if first is None:
            return False
        longest = max((_longest(column) for column in first.columns), default=0)
        return any(longest * _at_once(c, rows) > _STEP for c in texts)

    def _opened(self, coded: bool) -> Any:
        """The file, or the file whose texts are read as dictionaries: slower, but each text once."""
        if not coded:
            return self._file
        if self._coded is None:
            schema = self._meta.schema
            leaves = (schema.column(i) for i in range(self._meta.num_columns))
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            self._coded = self._file_of(texts)
        return self._coded

    def _file_of(self, texts: Sequence[str] = ()) -> Any:
        """The file, these leaves as dictionaries; the checksums of its pages are held against them."""
        import pyarrow.parquet as pq

        return pq.ParquetFile(
            self._path,
            memory_map=self._map,
            read_dictionary=list(texts),
            page_checksum_verification=True,
        )

    def _footer_of(self) -> Any:
        """The file without its pages; a read looks at all that the footer says of them first."""
        import pyarrow.parquet as pq

        return pq.ParquetFile(_Pageless(self._path), metadata=self._meta, pre_buffer=True)

    def _refusal(self, what: str, expected: str = "a whole Parquet file") -> InputError:
        return InputError(what[:300], where=str(self._path), expected=expected)


class _NoBytes(Exception):
    """Bytes were asked for."""


class _Pageless(io.FileIO):
    """A file that is only as long as it is."""

    def read(self, *_: Any) -> bytes:
        raise _NoBytes


def _errors() -> tuple[type[BaseException], ...]:
    import pyarrow as pa

    return pa.ArrowException, OSError, ValueError, MemoryError, OverflowError


def _is_of(path: str, columns: Sequence[str]) -> bool:
    """Whether a leaf belongs to one of the columns, which may be named down to the leaf."""
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def _has_dictionary(chunk: Any) -> bool:
    return chunk.physical_type == "BYTE_ARRAY" and any("DICT" in e for e in chunk.encodings)


def _at_once(chunk: Any, rows: int) -> int:
    """Values that are read together: a row of a nested column may have all of them."""
    nested = ".list." in chunk.path_in_schema or "." in chunk.path_in_schema
    return int(chunk.num_values if nested else min(rows, chunk.num_values))


def _longest(array: Any) -> int:
    """Bytes of the longest text among the dictionaries of an array and what it is made of."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        return int(pc.max(pc.binary_length(array.dictionary)).as_py() or 0)
    return max(map(_longest, _children(array)), default=0)


def _validated(rows: "pa.Table | pa.RecordBatch") -> int:
    """Bytes of rows whose offsets were checked: a damaged file's can point anywhere in memory."""
    rows.validate(full=True)
    return _bytes(rows)


def _in_utf8(batch: "pa.RecordBatch") -> "pa.RecordBatch":
    """A batch that was checked as `_validated` does, halves of surrogate pairs as U+FFFD."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        arrays = [mended_array(column) for column in batch.columns]
        return pa.record_batch(arrays, names=batch.schema.names)
    return batch


def _bytes(rows: Any) -> int:
    """Bytes that rows take once every text is written out."""
    return sum(
        _array_bytes(chunk)
        for column in rows.columns
        for chunk in getattr(column, "chunks", [column])
    )


def _array_bytes(array: Any) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        if not len(array.dictionary):
            return 0
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(lengths).as_py() or 0) + 8 * len(array)
    children = _children(array)
    if not children:
        return int(array.nbytes)
    return sum(map(_array_bytes, children)) + 8 * len(array)


def _children(array: Any) -> list[Any]:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_struct(kind):
        return list(array.flatten())
    if pa.types.is_map(kind):
        return [array.keys, array.items]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [array.flatten()]
    return []
