"""What the folders of token stores and of indexes have in common: a header, shards, checksums.

The header (``store.json``, ``index.json``) says what holds for the whole folder. A shard exists when
its record, ``shard-00000.json``, does: that is written last, after everything else is synced. It names
the SHA-256 of the shard's files and of the header, so that nothing can change unnoticed. The first
number without a record ends the folder.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import atomic
from m2kr.errors import CheckError, InputError, MissingError
from m2kr.hashes import file_sha256

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_MOST_JSON = 1 << 20


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A complete shard.

    Attributes:
        number: 0, 1, 2 ...
        passages: How many.
        tokens: How many, all passages together.
        header: SHA-256 of the header's file.
        sha256: SHA-256 of each of its files, by name.
        source: Of an index, what the passages were read from, see `index.settings.Pool`.
        first: And the number of the first passage there.
    """

    number: int
    passages: int
    tokens: int
    header: str
    sha256: Mapping[str, str]
    source: str = ""
    first: int = 0


@dataclass(frozen=True, slots=True)
class FolderKind:
    """Token stores, or indexes.

    Attributes:
        noun: What messages call it.
        header: File name of the header.
        format: What the header says.
        version: And this.
        again: How a damaged one is made again.
        make: The command for where there is none.
        has_sources: Whether records tell where passages came from.
    """

    noun: str
    header: str
    format: str
    version: int
    again: str
    make: str | None = None
    has_sources: bool = False

    def damaged(
        self, path: Path, what: str = "its bytes are not those that were written"
    ) -> CheckError:
        """The error for a file whose checksum is wrong."""
        return CheckError(what, where=str(path), fix=f"restore it from a copy, or {self.again}")

    def write_header(self, folder: Path, content: Mapping[str, Any]) -> None:
        """Writes the header, which makes the store or index exist."""
        atomic.write_json(folder / self.header, dict(content), alone=True)

    def read_header(self, folder: Path) -> dict[str, Any]:
        """What the header says.

        Raises:
            MissingError: there is none in the folder.
            InputError: it is of another format or version, or damaged.
        """
        path = folder / self.header
        if not path.is_file():
            raise MissingError(
                f"there is no {self.noun} here",
                where=str(folder),
                expected=f"a folder with {self.header}",
                fix=self.make,
            )
        content = read_json_object(path)
        if (content.get("format"), content.get("version")) != (self.format, self.version):
            raise InputError(
                f"it says format {content.get('format')!r}, version {content.get('version')!r}",
                where=str(path),
                expected=f"format {self.format!r}, version {self.version}",
                fix=f"{self.again} with this version of m2kr",
            )
        return content

    def write_record(self, folder: Path, shard: ShardRecord) -> None:
        """Writes a shard's record, which makes the shard exist."""
        record: dict[str, Any] = {
            "passages": shard.passages,
            "tokens": shard.tokens,
            "settings": shard.header,
            "sha256": dict(shard.sha256),
        }
        if self.has_sources:
            record |= {"source": shard.source, "first": shard.first}
        atomic.write_json(folder / record_name(shard.number), record, alone=True)

    def read_records(
        self, folder: Path, names: Callable[[int], Iterable[str]]
    ) -> list[ShardRecord]:
        """The records of all complete shards.

        Args:
            folder: With a header.
            names: Of a shard's files, by its number.

        Raises:
            CheckError: one is damaged, or of another header.
        """
        header = file_sha256(folder / self.header)
        records: list[ShardRecord] = []
        while (path := folder / record_name(len(records))).exists():
            record = self._read_record(path, len(records), names(len(records)))
            if record.header != header:
                raise self.damaged(folder / self.header, "it changed since a shard was written")
            records.append(record)
        return records

    def _read_record(self, path: Path, number: int, names: Iterable[str]) -> ShardRecord:
        try:
            content = read_json_object(path)
            values = [content[name] for name in ("passages", "tokens", "settings", "sha256")]
            values += [content[name] for name in ("source", "first") if self.has_sources]
            record = ShardRecord(number, *values)
        except (InputError, KeyError) as error:
            raise self.damaged(path, "the record of this shard is damaged") from error
        numbers = (record.passages, record.tokens, record.first)
        if (
            not all(type(n) is int and n >= 0 for n in numbers)
            or not all(isinstance(text, str) for text in (record.header, record.source))
            or not isinstance(record.sha256, dict)
            or sorted(record.sha256) != sorted(names)
        ):
            raise self.damaged(path, "the record of this shard is damaged")
        return record

    def read_bytes(self, folder: Path, name: str, sha256: Mapping[str, str]) -> bytes:
        """A whole file, compared with its SHA-256."""
        path = folder / name
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != sha256[name]:
            raise self.damaged(path)
        return data

    def read_array(
        self, folder: Path, name: str, sha256: Mapping[str, str], rows: int | None = None
    ) -> "NDArray[Any]":
        """An array, compared with its SHA-256 and with how many rows it should have."""
        data = self.read_bytes(folder, name, sha256)
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        if rows is not None and array.shape != (rows,):
            raise self.damaged(folder / name, f"it has shape {array.shape}, not ({rows},)")
        return array

    def read_ids(
        self, folder: Path, names: Callable[[int], str], records: Sequence[ShardRecord]
    ) -> "pa.ChunkedArray":
        """The passages' ids, as one string column of a chunk a shard, compared with their SHA-256."""
        import pyarrow as pa

        chunks = []
        for record in records:
            data = self.read_bytes(folder, names(record.number), record.sha256)
            with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
                chunks += stream.read_all().column("id").chunks
        return pa.chunked_array(chunks, pa.string())

    def check_sha256(self, folder: Path, sha256: Mapping[str, str]) -> None:
        """Compares files with their recorded SHA-256, byte by byte.

        Raises:
            CheckError: one differs, or is gone; names it.
        """
        for name, recorded in sha256.items():
            path = folder / name
            if not path.is_file():
                raise CheckError("the file is gone", where=str(path), fix="restore it from a copy")
            if file_sha256(path) != recorded:
                raise self.damaged(path)


def record_name(number: int) -> str:
    """File name of a shard's record."""
    return f"shard-{number:05}.json"


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a small JSON file.

    Raises:
        InputError: it can't be read as one.
    """
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError("too big")
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"it can't be read as JSON ({error})", where=str(path)) from error
    if not isinstance(content, dict):
        raise InputError("it is no JSON object", where=str(path))
    return content


def save_array(path: Path, array: "NDArray[Any]") -> None:
    """Writes an array and syncs it."""
    with atomic.create(path) as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def save_ids(path: Path, ids: Sequence[str]) -> None:
    """Writes ids as an Arrow stream of one string column."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    column = pa.record_batch([pa.array(ids, pa.string())], names=["id"])
    with pa.ipc.new_stream(sink, column.schema) as stream:
        stream.write_batch(column)
    atomic.write_bytes(path, sink.getvalue().to_pybytes(), alone=True)
