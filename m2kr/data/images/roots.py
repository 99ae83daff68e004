"""Image roots: a folder, an archive or an Arrow file, each giving an image's bytes by relative path."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from m2kr.data.images.archives import read_zip_member, scan_tar, scan_zip
from m2kr.data.images.index import (
    Entry,
    Identity,
    IndexedFile,
    Member,
    check_size,
    locked,
)
from m2kr.data.images.shards import ShardsRoot, holds_shards
from m2kr.errors import InputError, MissingError
from m2kr.parquet import ParquetReader

if TYPE_CHECKING:
    import pyarrow as pa

_PATH_COLUMNS = ("img_path", "image_path", "path", "file_name")
_BYTES_COLUMNS = ("bytes", "image_bytes", "image")


class ImageRoot(Protocol):
    """A place that holds images under relative paths. Picklable; usable by several threads."""

    path: Path

    def has(self, name: str) -> bool:
        """Whether an image of this path is there."""
        ...

    def read(self, name: str) -> bytes | None:
        """The bytes of an image file, or None if it is not there."""
        ...

    def identity(self) -> Identity:
        """Path, bytes and modification time (ns): changes when the content does."""
        ...

    def stamper(self) -> Callable[[str], str | None]:
        """What gives each image's stamp, None if it is not there; no image is read for it.

        A stamp is another one when the image's file, or the archive around it, was written since.
        """
        ...


def open_root(path: Path, cache: Path | None = None) -> ImageRoot:
    """The root at a path; what it is is read from its first bytes, not from its name.

    Args:
        path: A folder, of images or of the shards that ``m2kr images`` makes; a zip or uncompressed
            tar, or a folder inside one (``a.tar/01``); the first part of a zip cut in pieces
            (``a.zip.001``); an Arrow IPC or Parquet file.
        cache: Folder for the indexes of archives, which are otherwise made anew in every process.

    Raises:
        MissingError: nothing is there.
        InputError: the file is of another kind.
    """
    path = path.expanduser().absolute()
    if path.is_dir():
        return ShardsRoot(path, cache) if holds_shards(path) else FolderRoot(path)
    file, inner = path, ""
    while not file.exists() and file != file.parent:
        file, inner = file.parent, f"{file.name}/{inner}"
    if not file.is_file():
        raise MissingError(
            "the image root does not exist",
            where=str(path),
            expected="a folder, a .zip or .tar file, or an Arrow or Parquet file",
            fix="check the path given with --images",
        )
    kind = _kind(file)
    if kind in ("zip", "tar"):
        return ArchiveRoot(file, inner, kind, cache)
    if inner:
        raise InputError(f"{kind} files have no folders inside", where=str(path))
    return ArrowRoot(file, kind, cache)


PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip -k '{path}'"),
    b"BZh": ("bzip2", "bunzip2 -k '{path}'"),
    b"\xfd7zXZ": ("xz", "unxz -k '{path}'"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd '{path}'"),
    b"7z\xbc\xaf": ("7z", "7z x '{path}'"),
    b"Rar!": ("rar", "unrar x '{path}'"),
}


def _kind(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(
            f"the image root can't be read: {error.strerror}", where=str(path)
        ) from error
    for magic, (name, command) in PACKED.items():
        if head.startswith(magic):
            raise InputError(
                f"a {name} file has no random access",
                where=str(path),
                expected="a folder, a zip, an uncompressed tar, or an Arrow or Parquet file",
                fix=command.format(path=path) + ", then give the result",
            )
    for magic, kind in (
        (b"PK\3\4", "zip"),
        (b"PK\5\6", "zip"),
        (b"PAR1", "parquet"),
        (b"ARROW1", "arrow"),
        (b"\xff\xff\xff\xff", "arrow"),
    ):
        if head.startswith(magic):
            return kind
    if len(head) == 512 and (head[257:262] == b"ustar" or _is_old_tar(head)):
        return "tar"
    raise InputError(
        "this file is no image root",
        where=str(path),
        expected="a folder, a zip, an uncompressed tar, or an Arrow or Parquet file",
        fix="give the folder that img_path is relative to",
    )


def _is_old_tar(head: bytes) -> bool:
    digits = head[148:156].strip(b" \0")
    total = sum(head[:148]) + 8 * 0x20 + sum(head[156:])
    return bool(re.fullmatch(b"[0-7]+", digits)) and total == int(digits, 8)


class FolderRoot:
    """A plain folder. Links inside it are followed: who made the folder chose them.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, name: str) -> bool:
        """Whether a regular file is there."""
        return self._stat(name) is not None

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            found = (self.path / name).stat()
        except OSError:
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def read(self, name: str) -> bytes | None:
        """The file's bytes, or None."""
        found = self._stat(name)
        if found is None:
            return None
        check_size(found.st_size, str(self.path / name))
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"the image file can't be read: {error.strerror}", where=str(self.path / name)
            ) from error

    def stamper(self) -> Callable[[str], str | None]:
        """Stamps from path, size and times of each file."""

        def stamp(name: str) -> str | None:
            facts = self._stat(name)
            if facts is None:
                return None
            times = f"{facts.st_mtime_ns}:{facts.st_ctime_ns}"
            return f"{self.path}/{name}:{facts.st_size}:{times}"

        return stamp

    def identity(self) -> Identity:
        """Path, 0 and the folder's own time: changes deeper down do not show."""
        return str(self.path), 0, self.path.stat().st_mtime_ns


class ArchiveRoot(IndexedFile):
    """A zip or an uncompressed tar, read in place. Links inside an archive are left alone.

    Args:
        path: The archive, or the first part ``.001`` of a zip cut in pieces.
        inner: Folder inside the archive that paths are relative to, ``""`` or ending in a slash.
        kind: ``zip`` or ``tar``.
        cache: Folder for the index.
    """

    def __init__(self, path: Path, inner: str, kind: str, cache: Path | None) -> None:
        super().__init__(path, cache)
        self._inner = inner
        self.is_zip = kind == "zip"

    def files(self) -> list[Path]:
        """The archive, or all its parts in order."""
        if self.path.suffix != ".001":
            return [self.path]
        paths = [self.path]
        while (part := self.path.with_suffix(f".{len(paths) + 1:03d}")).exists():
            paths.append(part)
        return paths

    def identity(self) -> Identity:
        """Path with the folder inside, bytes and latest modification time (ns)."""
        path, size, time = super().identity()
        return str(Path(path, self._inner)), size, time

    def find(self, name: str) -> Entry | None:
        """Where the archive has such a file, or None."""
        return super().find(self._inner + name)

    def scan(self) -> Iterator[Member]:
        """Its regular files."""
        if self.is_zip:
            return scan_zip(self.parts(), str(self.path))
        return scan_tar(self.path)

    def read(self, name: str) -> bytes | None:
        """The member's bytes, or None."""
        entry = self.find(name)
        if entry is None:
            return None
        where = f"{self.path}/{self._inner}{name}"
        check_size(max(entry.size, entry.stored), where)
        if not self.is_zip:
            data = self.parts().read(entry.offset, entry.size)
            if len(data) == entry.size:
                return data
            raise InputError("the tar file is cut short", where=where, fix="copy it again")
        try:
            return read_zip_member(self.parts(), entry)
        except ValueError as error:
            raise InputError(f"the zip member can't be read: {error}", where=where) from error


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
        self._is_parquet = kind == "parquet"
        # A table or Parquet file, and the names of its two columns.
        self._file: tuple[Any, str, str] | None = None
        self._latest: tuple[int, Any] = (-1, None)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_file": None, "_latest": (-1, None)}

    def scan(self) -> Iterator[Member]:
        """Its rows, by record batch or row group."""
        file, name, _ = self._open()
        first = name.partition(".")[0]
        count = file.groups if self._is_parquet else file.column(first).num_chunks
        for number in range(count):
            for row, path in enumerate(self._column(number, name).to_pylist()):
                if path is not None:
                    yield path, number, row, 0, 0, 0

    def read(self, name: str) -> bytes | None:
        """The row's bytes, or None."""
        entry = self.find(name)
        if entry is None:
            return None
        column = self._open()[2]
        with locked():
            # The last batch or row group is kept at hand.
            if self._latest[0] != entry.offset:
                self._latest = (entry.offset, self._column(entry.offset, column))
            data: bytes | None = self._latest[1][entry.stored].as_py()
        check_size(len(data or b""), f"{self.path}, row of '{name}'")
        return data

    def _open(self) -> tuple[Any, str, str]:
        if self._file is None:
            with locked():
                if self._file is None:
                    file = self._opened_file()
                    self._file = (file, *_columns(file.schema, self.path))
        return self._file

    def _opened_file(self) -> "ParquetReader | pa.Table":
        import pyarrow as pa

        try:
            if self._is_parquet:
                return ParquetReader(self.path, memory_map=True)
            source = pa.memory_map(str(self.path))
            start = source.read(6)
            source.seek(0)
            opener = pa.ipc.open_file if start == b"ARROW1" else pa.ipc.open_stream
            return opener(source).read_all()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"the file is damaged: {error}", where=str(self.path))

    def _column(self, number: int, name: str) -> Any:
        """A column of one batch or row group."""
        import pyarrow as pa
        import pyarrow.compute as pc

        file = self._open()[0]
        first, *rest = name.split(".")
        try:
            if self._is_parquet:
                array = file.group(number, [name]).column(first).combine_chunks()
            else:
                array = file.column(first).chunk(number)
                # A damaged file can hold offsets that point anywhere in memory.
                array.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error
        return pc.struct_field(array, rest) if rest else array


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
    names = [c for c in (*_PATH_COLUMNS, "image.path") if c in flat and text(flat[c])]
    data = [c for c in (*_BYTES_COLUMNS, "image.bytes") if c in flat and binary(flat[c])]
    if not names or not data:
        raise InputError(
            "the file has no column of image bytes by path",
            where=f"{path}, columns {', '.join(schema.names)}",
            expected="a string column 'img_path' and a binary column 'bytes'",
        )
    return names[0], data[0]
