"""Big delimited files as Arrow record batches, streamed; what is wrong in them is told, not fatal.

pyarrow parses them as far as it can be trusted: it fails a block for one bad record and takes a carriage
return for a line end. A block it cannot read is halved until only the few records around the trouble
are left for exact, slow code.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from m2kr.building.formats.csv_blocks import (
    BOM,
    Unreadable,
    quoted_records,
    record_blocks,
    record_end,
    unquoted_records,
)
from m2kr.concurrency import work_ahead
from m2kr.errors import InputError
from m2kr.unicode_halves import mended_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 8 << 20
LONGEST = 64 << 20
_SLOW_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that was left out.

    Attributes:
        row: Its number, from 1. A header is not counted; without quotes it is the line number.
        problem: What is wrong with it.
        text: Its first 80 characters; what cannot be printed is escaped by backslashes.
    """

    row: int
    problem: str
    text: str


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Records that follow each other in the file.

    Attributes:
        first: The number of the first of them, from 1.
        batch: The good ones, with string columns and no nulls.
        records: How many there are, those that were left out included.
    """

    first: int
    batch: pa.RecordBatch
    records: int
    _kept: Sequence[int] | None = field(default=None, repr=False)

    def row(self, i: int) -> int:
        """The number of the record in row ``i`` of the batch."""
        return self.first + (i if self._kept is None else self._kept[i])

    def rows(self) -> "NDArray[np.int64]":
        """The numbers of the records in all rows of the batch."""
        kept = np.arange(len(self.batch)) if self._kept is None else np.asarray(self._kept)
        return self.first + kept.astype(np.int64)


def read_tsv(
    stream: BinaryIO,
    columns: Sequence[str],
    *,
    where: str,
    on_fault: Callable[[BadRecord], None],
    delimiter: str = "\t",
    block_bytes: int = BLOCK_BYTES,
    longest: int = LONGEST,
) -> Iterator[RecordBlock]:
    r"""The records of a file without header and quotes: a line each, of UTF-8 text.

    A ``\r`` before the line end is no text, elsewhere it is; a byte order mark is passed over, and
    halves of surrogate pairs become U+FFFD.
    Blank lines at the end are no records, if there is more than one column.

    Args: as of `read_csv`, but that ``columns`` are names for the cells of a line.

    Raises:
        InputError: A line is too long, or the stream raised it; the blocks before came first.
    """
    reader = _Reader(columns, delimiter, where, on_fault, quoted=False)
    yield from reader.blocks(record_blocks(stream, block_bytes, longest, None))


def read_csv(
    stream: BinaryIO,
    names: Sequence[str],
    *,
    where: str,
    on_fault: Callable[[BadRecord], None],
    delimiter: str = ",",
    block_bytes: int = BLOCK_BYTES,
    longest: int = LONGEST,
) -> Iterator[RecordBlock]:
    r"""Columns by name of a file with a header, whose cells may be quoted as RFC 4180 says.

    The header may have them in any order, and others, which are passed over; blanks around a name
    count for nothing. As in Python's csv a quote that does not begin a cell is text; a record ends at
    ``\n`` or ``\r\n`` only. A byte order mark and blank lines at the end are passed over, and halves
    of surrogate pairs become U+FFFD.

    Args:
        stream: The file; a thread reads it as long as the iterator is open.
        names: The columns to be read; a batch has them in this order.
        where: The file, for messages.
        on_fault: Told of each record that is left out, in order, before the block it belongs to.
        delimiter: One ASCII character.
        block_bytes: How much is parsed at once; five times as much is held at most.
        longest: Bytes a record may have, roughly.

    Raises:
        InputError: The header lacks one of the columns or has one twice, a quoted cell has no end, a
            record is too long, or the stream raised it; the blocks before came first.
    """
    cut = record_blocks(stream, block_bytes, longest, delimiter.encode())
    try:
        start = next(cut, b"")
    except Unreadable as error:
        raise _no_end(error, f"{where}, the header") from None
    raw, cells = next(quoted_records(start, delimiter.encode()), (b"", []))
    seen = [cell.decode("utf-8", "backslashreplace").strip() for cell in cells]
    if problem := _header_problem(seen, names):
        raise InputError(
            f"the header is {_excerpt(raw)!r}: it {problem}" if start else "the file is empty",
            where=where,
            expected=f"the columns {delimiter.join(names)!r}, in any order, others allowed",
            fix="if upstream changed the file, report it; if not, fetch or copy it again",
        )
    reader = _Reader(names, delimiter, where, on_fault, quoted=True, header=seen)
    rest = start[len(raw) :].removeprefix(b"\r").removeprefix(b"\n")
    yield from reader.blocks(itertools.chain([rest] if rest else [], cut))


def _header_problem(seen: Sequence[str], names: Sequence[str]) -> str:
    """What keeps columns from being found by name, if anything."""
    lacking = [name for name in names if name not in seen]
    if lacking:
        return f"has no column {', '.join(map(repr, lacking))}"
    twice = [name for name in names if seen.count(name) > 1]
    return f"has more than one column {twice[0]!r}" if twice else ""


def _no_end(error: Unreadable, where: str) -> InputError:
    return InputError(
        str(error),
        where=where,
        expected="a text file of whole records",
        fix="fetch or copy the file again; if it is the same then, upstream is broken",
    )


class _Reader:
    """Reads the records of one file, and numbers them as they come."""

    def __init__(
        self,
        columns: Sequence[str],
        delimiter: str,
        where: str,
        on_fault: Callable[[BadRecord], None],
        *,
        quoted: bool,
        header: Sequence[str] | None = None,
    ) -> None:
        self._delimiter = delimiter.encode()
        if len(self._delimiter) != 1 or delimiter in '"\r\n' or not columns:
            raise ValueError("a delimiter is one ASCII character, and there is a column")
        self._where, self._on_fault, self._quoted = where, on_fault, quoted
        self._schema = pa.schema([(name, pa.string()) for name in columns])
        # Names may repeat, and pyarrow tells its columns by name.
        self._names = [str(i) for i in range(len(columns if header is None else header))]
        self._places = [i if header is None else header.index(c) for i, c in enumerate(columns)]
        self._parse_options = pa.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            double_quote=quoted,
            escape_char=False,
            newlines_in_values=quoted,
            ignore_empty_lines=False,
        )
        self._convert_options = pa.csv.ConvertOptions(
            check_utf8=True,
            column_types=dict.fromkeys(self._names, pa.string()),
            null_values=[],
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        )
        self._next = 1
        # Blank lines that are faults if a record comes behind them.
        self._blank = 0

    def blocks(self, cut: Iterator[bytes]) -> Iterator[RecordBlock]:
        """The records of whole blocks of the file's bytes."""
        parsed = work_ahead(cut, self._parse)
        try:
            for parts in parsed:
                for part in parts:
                    yield from self._exact(part) if isinstance(part, bytes) else self._good(part)
        except Unreadable as error:
            raise _no_end(error, f"{self._where}, record {self._next + self._blank:,}") from None
        finally:
            parsed.close()

    def _parse(self, data: bytes) -> "list[pa.RecordBatch | bytes]":
        """A block as batches of good records and, in between, bytes that are to be read exactly."""
        batch = self._batch(data)
        if batch is not None:
            return [batch]
        half = data[: len(data) // 2] if len(data) > _SLOW_BYTES else b""
        end, _ = record_end(half, self._delimiter if self._quoted else None)
        return [*self._parse(data[:end]), *self._parse(data[end:])] if end else [data]

    def _batch(self, data: bytes) -> pa.RecordBatch | None:
        """The records of a block, if pyarrow can be trusted with it and all are good."""
        if b"\r" in data:
            if not self._quoted:
                data = data.replace(b"\r\n", b"\n")
            if data.count(b"\r") != data.count(b"\r\n"):
                return None
        if data.startswith(BOM):  # it drops one wherever it begins to read
            data = BOM + data
        read = pa.csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, column_names=self._names
        )
        try:
            table = pa.csv.read_csv(
                pa.BufferReader(data), read, self._parse_options, self._convert_options
            )
        except pa.ArrowInvalid:
            return None
        columns = [c.chunk(0) if c.num_chunks == 1 else c.combine_chunks() for c in table.columns]
        # It makes a row of empty cells of a blank line.
        if (
            (self._quoted or len(columns) > 1)
            and _may_have_blank_line(data)
            and _empty_row(columns)
        ):
            return None
        return pa.record_batch([columns[place] for place in self._places], schema=self._schema)

    def _good(self, batch: pa.RecordBatch) -> Iterator[RecordBlock]:
        """A block of good records."""
        if self._blank:
            first = self._next
            self._tell_blank_lines()
            yield RecordBlock(first, batch.slice(0, 0), self._next - first)
        self._next += len(batch)
        yield RecordBlock(self._next - len(batch), batch, len(batch))

    def _exact(self, data: bytes) -> Iterator[RecordBlock]:
        """A block of records some of which may be bad."""
        first, width = self._next, len(self._names)
        columns: list[list[str]] = [[] for _ in self._places]
        kept: list[int] = []
        records = (
            quoted_records(data, self._delimiter)
            if self._quoted
            else unquoted_records(data, self._delimiter, width)
        )
        for raw, cells in records:
            if not cells:
                self._blank += 1
                continue
            self._tell_blank_lines()
            problem = _problem(mended_bytes(raw), cells, width)
            if problem:
                self._on_fault(BadRecord(self._next, problem, _excerpt(raw)))
            else:
                kept.append(self._next - first)
                for column, place in zip(columns, self._places, strict=True):
                    column.append(mended_bytes(cells[place]).decode())
            self._next += 1
        if self._next > first:
            arrays = [pa.array(column, pa.string()) for column in columns]
            batch = pa.record_batch(arrays, schema=self._schema)
            rows = None if len(kept) == self._next - first else kept
            yield RecordBlock(first, batch, self._next - first, rows)

    def _tell_blank_lines(self) -> None:
        for _ in range(self._blank):
            self._on_fault(BadRecord(self._next, "a blank line", ""))
            self._next += 1
        self._blank = 0


def _may_have_blank_line(data: bytes) -> bool:
    """There is one, or a quoted cell has one."""
    if data.startswith((b"\n", b"\r\n")) or b"\n\n" in data:
        return True
    return b"\r" in data and b"\n\r\n" in data


def _empty_row(columns: Sequence[pa.Array]) -> bool:
    empty = [pc.equal(pc.binary_length(column), 0) for column in columns]
    return bool(pc.any(functools.reduce(pc.and_, empty)).as_py())


def _problem(raw: bytes, cells: Sequence[bytes], expected: int) -> str | None:
    if len(cells) != expected:
        return f"{len(cells)} cell{'s' if len(cells) > 1 else ''} instead of {expected}"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1:,} of the record is not UTF-8"
    return None


def _excerpt(raw: bytes) -> str:
    text = raw[:400].decode("utf-8", "backslashreplace")[:80]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
