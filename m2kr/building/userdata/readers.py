"""Records from a user's files: JSON lines, CSV, TSV and Parquet, streamed, with the place of each."""

import codecs
import csv
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

from m2kr.building.formats.gzip import open_gzip
from m2kr.errors import InputError, MissingError
from m2kr.packed import is_gzip
from m2kr.unicode_halves import mended_bytes

MAX_LINE = 16 * 1024 * 1024
_BATCH_ROWS = 256
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_LOOK = 1 << 20  # bytes that tell how the lines of a file end
_MOST_FIELDS = 1000
_MOST_BLANK = 1_000_000  # a small gzip file can hold billions
_KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".json": "json",
}
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file of records.

    Attributes:
        path: Where it is.
        name: What messages call it; records that the caller gave have no file of their own.
        unit: What is counted from 1: lines, rows or records.
        flat: Cells are text, so lists come as JSON (CSV and TSV).
    """

    path: Path
    name: str
    unit: Literal["line", "row", "record"] = "line"
    flat: bool = False

    def where(self, n: int) -> str:
        """The place of record ``n`` for messages, such as ``passages.jsonl, line 3``."""
        return f"{self.name}, {self.unit} {n}"

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Line (or row) numbers and records, in order.

        Raises:
            InputError: a record can't be read; names file and line.
        """
        kind = _kind(self.path)
        if kind == "parquet":
            return _parquet(self)
        return _jsonl(self) if kind == "jsonl" else _delimited(self, kind)


def record_file(path: Path) -> RecordFile:
    """The records of a ``.jsonl``, ``.csv``, ``.tsv`` (each also ``.gz``) or ``.parquet`` file.

    Raises:
        MissingError: there is no such file.
        InputError: its name has another ending.
    """
    if path.is_dir():
        raise InputError(
            "it is a folder",
            where=str(path),
            expected="a file of records",
            fix=f"m2kr import NAME {shlex.quote(str(path))} --from beir|mbeir|ret-m2kr",
        )
    if not path.is_file():
        raise MissingError("there is no such file", where=str(path), expected="a file of records")
    kind = _kind(path)
    if kind == "parquet":
        return RecordFile(path, str(path), "row")
    return RecordFile(path, str(path), flat=kind in ("csv", "tsv"))


def text_file(path: Path) -> RecordFile:
    """A file of lines of text, whatever its name."""
    return RecordFile(path, str(path), flat=True)


def file_kind(path: Path) -> str:
    """``jsonl``, ``csv``, ``tsv``, ``parquet`` or ``json`` by a file's name; else empty."""
    *rest, last = ["", *(s.lower() for s in path.suffixes)]
    ending = rest[-1] if last == ".gz" and rest else last
    return "" if ending == ".parquet" and last == ".gz" else _KINDS.get(ending, "")


def _kind(path: Path) -> str:
    if (kind := file_kind(path)) not in ("", "json"):
        return kind
    ending = path.suffix.lower()
    raise InputError(
        f"files that end in '{path.suffix}' are not read",
        where=str(path),
        expected=".jsonl, .csv or .tsv (each also .gz), or .parquet",
        fix="write one JSON object per line into a .jsonl file" if ending == ".json" else None,
    )


def read_lines(file: RecordFile) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the lines of a file, plain or gzip, without line ends or a byte order mark.

    Lines end in LF or CRLF; in a file whose first lines know no LF, in CR.

    Raises:
        InputError: a line is no UTF-8, too long, or the compressed file is damaged.
    """
    for n, raw in _raw_lines(file):
        yield n, _decoded(file, n, raw)


def _decoded(file: RecordFile, n: int, raw: bytes) -> str:
    try:
        return mended_bytes(raw).decode("utf-8-sig" if n == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start + 1} of the line is not UTF-8",
            where=file.where(n),
            expected="UTF-8 text",
            fix="iconv -f LATIN1 -t UTF-8 OLD > NEW, if that is its encoding",
        ) from error


def _raw_lines(file: RecordFile) -> Iterator[tuple[int, bytes]]:
    n = blank = 0
    try:
        with _opened(file.path) as stream:
            first = stream.read(_LOOK)
        _refuse_utf16(file, first)
        with _opened(file.path) as stream:
            for raw in _cr_lines(stream) if _ends_in_cr(first) else _lf_lines(stream):
                n += 1
                blank = 0 if raw else blank + 1
                if blank > _MOST_BLANK:
                    raise InputError(f"{_MOST_BLANK:,} blank lines in a row", where=file.where(n))
                if len(raw) > MAX_LINE:
                    raise InputError(
                        "the line is too long",
                        where=file.where(n),
                        expected=f"at most {MAX_LINE:,} bytes",
                    )
                yield n, raw
    except OSError as error:
        raise InputError(f"the file can't be read: {error}", where=file.where(n + 1)) from error
    except InputError as error:
        if error.where != str(file.path):
            raise
        what = f"the file can't be read: {error.what}"
        raise InputError(what, where=file.where(n + 1), expected=error.expected) from error


def _opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked if they are gzip's, whatever it is called."""
    return open_gzip(path) if is_gzip(path) else path.open("rb")


def _lf_lines(stream: Any) -> Iterator[bytes]:
    while raw := stream.readline(MAX_LINE + 2):
        yield raw.removesuffix(b"\n").removesuffix(b"\r")


def _cr_lines(stream: Any) -> Iterator[bytes]:
    rest = b""
    while part := stream.read(_LOOK):
        *lines, rest = (rest + part).split(b"\r")
        yield from (line.removeprefix(b"\n") for line in lines)
        if len(rest) > MAX_LINE:
            break
    if rest:
        yield rest


def _ends_in_cr(first: bytes) -> bool:
    return b"\r" in first[:-1] and b"\n" not in first


def _refuse_utf16(file: RecordFile, first: bytes) -> None:
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first[:4]:
        raise InputError(
            "the text is UTF-16 or UTF-32, not UTF-8",
            where=file.where(1),
            expected="UTF-8 text",
            fix="iconv -f UTF-16 -t UTF-8 OLD > NEW",
        )


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse_json(text: str) -> Any:
    """The value of one JSON text; its texts may hold halves of surrogate pairs.

    Raises:
        ValueError: it is not JSON (NaN and Infinity are not), or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _plain_record(raw: bytes) -> Record | None:
    """A line's record where orjson surely reads it as Python does; else None."""
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if type(record) is not dict or len(record) > _MOST_FIELDS:
        return None
    for value in record.values():
        kind = type(value)
        # orjson rounds whole numbers of more than 64 bits: an id would become another.
        if kind in (list, dict) or (kind is float and abs(value) >= 2**63):
            return None if _LONG_NUMBER.search(raw) else record
    return record


def _jsonl(file: RecordFile) -> Iterator[tuple[int, Record]]:
    for n, raw in _raw_lines(file):
        if (record := _plain_record(raw)) is not None:
            yield n, record
            continue
        line = _decoded(file, n, raw)
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
        if len(record) > _MOST_FIELDS:
            raise _too_many_fields(file, n, len(record))
        yield n, record


def _too_many_fields(file: RecordFile, n: int, count: int) -> InputError:
    return InputError(
        f"the record has {count:,} fields",
        where=file.where(n),
        expected=f"at most {_MOST_FIELDS:,}",
    )


def _json_name(value: object) -> str:
    names = {list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def quoted_cells(
    file: RecordFile, lines: Iterable[tuple[int, str]]
) -> Iterator[tuple[int, list[str]]]:
    """The cells of CSV lines, and on which line they begin; quoted ones may go on over several.

    Raises:
        InputError: quotes don't end, or a cell is too long.
    """
    last = 0

    def texts() -> Iterator[str]:
        nonlocal last
        for number, line in lines:
            last = number
            yield line + "\n"

    reader = csv.reader(texts(), strict=True)
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
        yield n, cells


def _delimited(file: RecordFile, kind: str) -> Iterator[tuple[int, Record]]:
    """Records of a file whose first line names the columns. Quotes mean something in CSV alone."""
    rows: Iterable[tuple[int, list[str]]] = (
        quoted_cells(file, read_lines(file))
        if kind == "csv"
        else ((n, line.split("\t")) for n, line in read_lines(file))
    )
    split = "cells are split at commas" if kind == "csv" else "cells are split at tabs, not quoted"
    header: list[str] = []
    for n, cells in rows:
        if not any(cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if len(header) > _MOST_FIELDS:
                raise _too_many_fields(file, n, len(header))
            if len(set(header)) < len(header) or "" in header:
                raise InputError(
                    f"the header has an empty or double name: {', '.join(header)}"[:300],
                    where=file.where(n),
                    expected=f"a first line with a name for each column; {split}",
                )
            continue
        if len(cells) != len(header):
            raise InputError(
                f"the record has {len(cells)} cells",
                where=file.where(n),
                expected=f"{len(header)}, as the header: {', '.join(header)}"[:300] + f"; {split}",
            )
        yield n, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _parquet(file: RecordFile) -> Iterator[tuple[int, Record]]:
    from m2kr.parquet import ParquetReader

    n = 0
    with ParquetReader(file.path) as table:
        for batch in table.batches(rows=_BATCH_ROWS):
            try:
                records = batch.to_pylist()
            except (ValueError, OverflowError) as error:  # as of a date in the year 10,000
                raise InputError(
                    f"a value can't be read: {error}"[:300], where=file.where(n + 1) + " or after"
                ) from error
            for record in records:
                n += 1
                yield n, record
