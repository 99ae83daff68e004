"""Images kept as bytes in a column of an Arrow IPC or Parquet file."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.data.images.index import Entry, IndexedFile, Member, check_size, locked
from m2kr.errors import InputError
from m2kr.parquet import ParquetReader

if TYPE_CHECKING:
    import pyarrow as pa

PATH_COLUMNS = ("img_path", "image_path", "path", "file_name")
BYTES_COLUMNS = ("bytes", "image_bytes", "image")


class ArrowRoot(IndexedFile):
    """An Arrow IPC or Parquet file with a path column and a column of image bytes.

    The bytes may also lie in a struct column ``image`` with fields ``bytes`` and ``path``, as the
    ``datasets`` library writes it.

    Args:
        path: The file.
        kind: ``arrow`` or ``parquet``.
        cache: Folder for the index.
    """

    def __init__(self, path: Path, kind: str, cache: Path | None) -> None:
        super().__init__(path, cache)
        self._kind = kind
        self._opened: _Chunks | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._kind, self._cache)

    def _chunks(self) -> "_Chunks":
        if self._opened is None:
            with locked():
                self._opened = self._opened or _Chunks(self.path, self._kind)
        return self._opened

    def _scan(self) -> Iterator[Member]:
        for number, names in enumerate(self._chunks().names()):
            for row, name in enumerate(names):
                if name is not None:
                    yield name, number, row, 0, 0, 0

    def _find(self, name: str) -> Entry | None:
        return self.index(self._scan).find(name)

    def has(self, name: str) -> bool:
        """Whether a row has this path."""
        return self._find(name) is not None

    def read(self, name: str) -> bytes | None:
        """The row's bytes, or None."""
        entry = self._find(name)
        if entry is None:
            return None
        data = self._chunks().value(entry.offset, entry.stored)
        check_size(len(data or b""), f"{self.path}, row of '{name}'")
        return data


class _Chunks:
    """The record batches of an Arrow file or the row groups of a Parquet file."""

    def __init__(self, path: Path, kind: str) -> None:
        import pyarrow as pa

        self._path = path
        self._file: ParquetReader | None = None
        self._table: Any = None
        self._held: tuple[int, Any] = (-1, None)
        try:
            if kind == "parquet":
                self._file = ParquetReader(path, memory_map=True)
                schema = self._file.schema
            else:
                source = pa.memory_map(str(path))
                start = source.read(6)
                source.seek(0)
                opener = pa.ipc.open_file if start == b"ARROW1" else pa.ipc.open_stream
                self._table = opener(source).read_all()
                schema = self._table.schema
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error
        self._name, self._bytes = _columns(schema, path)

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"the file is damaged: {error}", where=str(self._path))

    def _column(self, number: int, name: str) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        first, *rest = name.split(".")
        try:
            if self._file is None:
                array = self._table.column(first).chunk(number)
                # A damaged file can hold offsets that point anywhere in memory.
                array.validate(full=True)
            else:
                array = self._file.group(number, [name]).column(first).combine_chunks()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error
        return pc.struct_field(array, rest) if rest else array

    def names(self) -> Iterator[list[str | None]]:
        """Paths by batch or row group."""
        table, file = self._table, self._file
        n = table.column(self._name.split(".")[0]).num_chunks if file is None else file.groups
        for number in range(n):
            yield self._column(number, self._name).to_pylist()

    def value(self, number: int, row: int) -> bytes | None:
        """The bytes at one place. The last batch or row group is kept at hand."""
        with locked():
            if self._held[0] != number:
                self._held = (number, self._column(number, self._bytes))
            value: bytes | None = self._held[1][row].as_py()
        return value


def _columns(schema: "pa.Schema", path: Path) -> tuple[str, str]:
    """The names of the path column and of the bytes column, dotted inside a struct."""
    import pyarrow as pa

    def binary(type_: Any) -> bool:
        return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))

    def text(type_: Any) -> bool:
        return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))

    flat = {field.name: field.type for field in schema}
    for field in schema:
        if pa.types.is_struct(field.type):
            flat |= {f"{field.name}.{inner.name}": inner.type for inner in field.type}
    names = [c for c in (*PATH_COLUMNS, "image.path") if c in flat and text(flat[c])]
    data = [c for c in (*BYTES_COLUMNS, "image.bytes") if c in flat and binary(flat[c])]
    if not names or not data:
        raise InputError(
            "the file has no column of image bytes by path",
            where=f"{path}, columns {', '.join(schema.names)}",
            expected="a string column 'img_path' and a binary column 'bytes'",
        )
    return names[0], data[0]
