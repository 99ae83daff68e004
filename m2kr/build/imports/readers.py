"""Records from a user's files: JSON lines, CSV, TSV and Parquet, streamed, with the place of each."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr.errors import InputError, MissingError

MAX_LINE = 16 * 1024 * 1024
_BATCH_ROWS = 256
_MAX_COLUMNS = 1000
_KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file of records.

    Attributes:
        path: Where it is.
        place: How messages name a record's place; ``{n}`` is its 1-based line or row.
        flat: Cells are text, so lists come as JSON (CSV and TSV).
    """

    path: Path
    place: str
    flat: bool = False

    def where(self, n: int) -> str:
        """The place of record ``n`` for messages, such as ``passages.jsonl, line 3``."""
        return self.place.format(n=n)

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Line (or row) numbers and records, in order.

        Raises:
            InputError: a record can't be read; names file and line.
        """
        kind = _kind(self.path)
        if kind == "parquet":
            return _parquet(self)
        return _jsonl(self) if kind == "jsonl" else _csv(self, "," if kind == "csv" else "\t")


def record_file(path: Path) -> RecordFile:
    """The records of a ``.jsonl``, ``.csv``, ``.tsv`` (each also ``.gz``) or ``.parquet`` file.

    Raises:
        MissingError: there is no such file.
        InputError: its name has another ending.
    """
    if not path.is_file():
        raise MissingError("there is no such file", where=str(path), expected="a file of records")
    kind = _kind(path)
    unit = "row" if kind == "parquet" else "line"
    shown = str(path).replace("{", "{{").replace("}", "}}")
    return RecordFile(path, f"{shown}, {unit} {{n}}", flat=kind in ("csv", "tsv"))


def _kind(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    ending = (
        suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    )
    if ending in _KINDS and (ending != ".parquet" or suffixes[-1] != ".gz"):
        return _KINDS[ending]
    raise InputError(
        f"files that end in '{path.suffix}' are not read",
        where=str(path),
        expected=".jsonl, .csv or .tsv (each also .gz), or .parquet",
        fix="write one JSON object per line into a .jsonl file" if ending == ".json" else None,
    )


def read_lines(file: RecordFile) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the lines of a file, plain or gzip, without line ends or a byte order mark.

    Raises:
        InputError: a line is no UTF-8, too long, or the compressed file is damaged.
    """
    packed = file.path.suffix.lower() == ".gz"
    n = 0
    try:
        opener: Any = gzip.open if packed else Path.open
        with opener(file.path, "rb") as stream:
            while raw := stream.readline(MAX_LINE + 1):
                n += 1
                if len(raw) > MAX_LINE:
                    raise InputError(
                        "the line is too long",
                        where=file.where(n),
                        expected=f"at most {MAX_LINE:,} bytes",
                    )
                text = raw.decode("utf-8-sig" if n == 1 else "utf-8")
                yield n, text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start + 1} of the line is not UTF-8",
            where=file.where(n),
            expected="UTF-8 text",
            fix="iconv -f LATIN1 -t UTF-8 OLD > NEW, if that is its encoding",
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"the file can't be read: {error}", where=file.where(n + 1)) from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse_json(text: str) -> Any:
    """The value of one JSON text.

    Raises:
        ValueError: it is not JSON (NaN and Infinity are not), or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _jsonl(file: RecordFile) -> Iterator[tuple[int, Record]]:
    for n, line in read_lines(file):
        if not line.strip():
            continue
        expected = 'one JSON object, such as {"id": "1", "text": "..."}'
        try:
            record = parse_json(line)
        except ValueError as error:
            raise InputError(
                f"the line is not JSON: {error}"[:300], where=file.where(n), expected=expected
            ) from error
        if not isinstance(record, dict):
            raise InputError(
                f"the line holds a JSON {_json_name(record)}",
                where=file.where(n),
                expected=expected,
                fix="jq -c '.[]' OLD.json > NEW.jsonl" if isinstance(record, list) else None,
            )
        yield n, record


def _json_name(value: object) -> str:
    names = {list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _csv(file: RecordFile, delimiter: str) -> Iterator[tuple[int, Record]]:
    header: list[str] = []
    n = last = 0

    def lines() -> Iterator[str]:
        nonlocal last
        for number, line in read_lines(file):
            last = number
            yield line + "\n"

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        n = last + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"the record is no CSV: {error}",
                where=file.where(n),
                expected="cells of at most 128 kB, quotes doubled inside quotes",
                fix="use .jsonl for long texts",
            ) from error
        if cells is None:
            return
        if not any(cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header) or "" in header:
                raise InputError(
                    f"the header has an empty or double name: {', '.join(header)}"[:300],
                    where=file.where(n),
                    expected="a first line with a name for each column",
                )
            continue
        if len(cells) != len(header):
            raise InputError(
                f"the record has {len(cells)} cells",
                where=file.where(n),
                expected=f"{len(header)}, as the header: {', '.join(header)}"[:300],
            )
        yield n, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _parquet(file: RecordFile) -> Iterator[tuple[int, Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = 0
    try:
        with pq.ParquetFile(file.path) as table:
            if table.metadata.num_columns > _MAX_COLUMNS:
                raise ValueError(f"it has {table.metadata.num_columns:,} columns")
            for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
                batch.validate(full=True)
                for record in batch.to_pylist():
                    n += 1
                    yield n, record
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"the file can't be read: {error}"[:300],
            where=file.where(n + 1),
            expected="a whole Parquet file",
        ) from error
