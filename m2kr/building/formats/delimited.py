"""Big delimited files as Arrow record batches, streamed; what is wrong in them is told, not fatal."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa

from m2kr.building.formats import csv_blocks
from m2kr.building.formats.ahead import ahead
from m2kr.building.formats.csv_blocks import Unreadable
from m2kr.building.formats.delimited_parse import Layout, parse
from m2kr.errors import InputError
from m2kr.unicode_halves import mended_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 8 << 20
LONGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Fault:
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
class Block:
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
    on_fault: Callable[[Fault], None],
    delimiter: str = "\t",
    block_bytes: int = BLOCK_BYTES,
    longest: int = LONGEST,
) -> Iterator[Block]:
    r"""The records of a file without header and quotes: a line each, of UTF-8 text.

    A ``\r`` before the line end is no text, elsewhere it is; a byte order mark is passed over, and
    halves of surrogate pairs become U+FFFD.
    Blank lines at the end are no records, if there is more than one column.

    Args:
        stream: The file; a thread reads it as long as the iterator is open.
        columns: Names for the cells of a line.
        where: The file, for messages.
        on_fault: Told of each record that is left out, in order, before the block it belongs to.
        delimiter: One ASCII character.
        block_bytes: How much is parsed at once; five times as much is held at most.
        longest: Bytes a record may have, roughly.

    Raises:
        InputError: A line is too long, or the stream raised it; the blocks before came first.
    """
    layout = Layout(columns, delimiter, quoted=False)
    cut = csv_blocks.blocks(stream, block_bytes, longest, None)
    yield from _read(cut, layout, where, on_fault)


def read_csv(
    stream: BinaryIO,
    names: Sequence[str],
    *,
    where: str,
    on_fault: Callable[[Fault], None],
    delimiter: str = ",",
    block_bytes: int = BLOCK_BYTES,
    longest: int = LONGEST,
) -> Iterator[Block]:
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
    cut = csv_blocks.blocks(stream, block_bytes, longest, delimiter.encode())
    try:
        start = next(cut, b"")
    except Unreadable as error:
        raise _no_end(error, f"{where}, the header") from None
    raw, cells = next(csv_blocks.records(start, delimiter.encode()), (b"", []))
    seen = [cell.decode("utf-8", "backslashreplace").strip() for cell in cells]
    if problem := _header_problem(seen, names):
        raise InputError(
            f"the header is {_excerpt(raw)!r}: it {problem}" if start else "the file is empty",
            where=where,
            expected=f"the columns {delimiter.join(names)!r}, in any order, others allowed",
            fix="if upstream changed the file, report it; if not, fetch or copy it again",
        )
    places = [seen.index(name) for name in names]
    layout = Layout(names, delimiter, quoted=True, places=places, width=len(seen))
    rest = start[len(raw) :].removeprefix(b"\r").removeprefix(b"\n")
    yield from _read(itertools.chain([rest] if rest else [], cut), layout, where, on_fault)


def _header_problem(seen: Sequence[str], names: Sequence[str]) -> str:
    """What keeps columns from being found by name, if anything."""
    lacking = [name for name in names if name not in seen]
    if lacking:
        return f"has no column {', '.join(map(repr, lacking))}"
    twice = [name for name in names if seen.count(name) > 1]
    return f"has more than one column {twice[0]!r}" if twice else ""


def _read(
    cut: Iterator[bytes], layout: Layout, where: str, on_fault: Callable[[Fault], None]
) -> Iterator[Block]:
    count = _Count(layout, on_fault)
    parsed = ahead(cut, partial(parse, layout))
    try:
        for parts in parsed:
            for part in parts:
                yield from count.exact(part) if isinstance(part, bytes) else count.batch(part)
    except Unreadable as error:
        raise _no_end(error, f"{where}, record {count.next + count.blank:,}") from None
    finally:
        parsed.close()  # type: ignore[attr-defined]


def _no_end(error: Unreadable, where: str) -> InputError:
    return InputError(
        str(error),
        where=where,
        expected="a text file of whole records",
        fix="fetch or copy the file again; if it is the same then, upstream is broken",
    )


class _Count:
    """Numbers the records of a file as they come, and reads those that are to be read exactly."""

    def __init__(self, layout: Layout, on_fault: Callable[[Fault], None]) -> None:
        self._layout = layout
        self._on_fault = on_fault
        self.next = 1
        # Blank lines that are faults if a record comes behind them.
        self.blank = 0

    def batch(self, batch: pa.RecordBatch) -> Iterator[Block]:
        """A block of good records."""
        if self.blank:
            first = self.next
            self._blank_lines()
            yield Block(first, batch.slice(0, 0), self.next - first)
        self.next += len(batch)
        yield Block(self.next - len(batch), batch, len(batch))

    def exact(self, data: bytes) -> Iterator[Block]:
        """A block of records some of which may be bad."""
        first = self.next
        places, width = self._layout.places, len(self._layout.names)
        columns: list[list[str]] = [[] for _ in places]
        kept: list[int] = []
        for raw, cells in self._layout.records(data):
            if not cells:
                self.blank += 1
                continue
            self._blank_lines()
            problem = _problem(mended_bytes(raw), cells, width)
            if problem:
                self._on_fault(Fault(self.next, problem, _excerpt(raw)))
            else:
                kept.append(self.next - first)
                for column, place in zip(columns, places, strict=True):
                    column.append(mended_bytes(cells[place]).decode())
            self.next += 1
        if self.next > first:
            arrays = [pa.array(column, pa.string()) for column in columns]
            batch = pa.record_batch(arrays, schema=self._layout.schema)
            rows = None if len(kept) == self.next - first else kept
            yield Block(first, batch, self.next - first, rows)

    def _blank_lines(self) -> None:
        for _ in range(self.blank):
            self._on_fault(Fault(self.next, "a blank line", ""))
            self.next += 1
        self.blank = 0


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
