"""Blocks of delimited records, parsed by pyarrow as far as it can be trusted.

It fails a block for one bad record and takes a carriage return for a line end, so a block it cannot
read is halved until only the few records around the trouble are left for exact, slow code.
"""

import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from m2kr.building.formats import csv_blocks
from m2kr.building.formats.csv_blocks import BOM, Record

_SLOW_BYTES = 1 << 16

Parts = list["pa.RecordBatch | bytes"]


class Layout:
    """How a file is written, for pyarrow and for us.

    Args:
        columns: Names of the columns that are asked for.
        delimiter: One ASCII character.
        quoted: Cells may be quoted.
        places: Where each of these columns is in a record; one after the other if absent.
        width: Cells of a record; as many as ``columns`` if absent.
    """

    def __init__(
        self,
        columns: Sequence[str],
        delimiter: str,
        *,
        quoted: bool,
        places: Sequence[int] | None = None,
        width: int | None = None,
    ) -> None:
        self.delimiter = delimiter.encode()
        if len(self.delimiter) != 1 or delimiter in '"\r\n' or not columns:
            raise ValueError("a delimiter is one ASCII character, and there is a column")
        self.quoted = quoted
        self.schema = pa.schema([(name, pa.string()) for name in columns])
        # Names may repeat, and pyarrow tells its columns by name.
        self.names = [str(i) for i in range(len(columns) if width is None else width)]
        self.places = range(len(columns)) if places is None else places
        self.parse = pa.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            double_quote=quoted,
            escape_char=False,
            newlines_in_values=quoted,
            ignore_empty_lines=False,
        )
        self.convert = pa.csv.ConvertOptions(
            check_utf8=True,
            column_types=dict.fromkeys(self.names, pa.string()),
            null_values=[],
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        )

    def records(self, data: bytes) -> Iterator[Record]:
        """The records of a block, read exactly."""
        if self.quoted:
            return csv_blocks.records(data, self.delimiter)
        return csv_blocks.lines(data, self.delimiter, len(self.names))

    def halves(self, data: bytes) -> tuple[bytes, bytes] | None:
        """A block cut where a record ends."""
        half = data[: len(data) // 2]
        end, _ = csv_blocks.record_end(half, self.delimiter if self.quoted else None)
        return (data[:end], data[end:]) if end else None

    def plain(self, data: bytes) -> bytes | None:
        """What pyarrow makes the right thing of, if there is something it does."""
        if b"\r" in data:
            if not self.quoted:
                data = data.replace(b"\r\n", b"\n")
                if b"\r" in data:
                    return None
            elif data.count(b"\r") != data.count(b"\r\n"):
                return None
        # It drops a byte order mark wherever it begins to read.
        return BOM + data if data.startswith(BOM) else data


def parse(layout: Layout, data: bytes) -> Parts:
    """A block as batches of good records and, in between, bytes that are to be read exactly."""
    batch = _batch(layout, data)
    if batch is not None:
        return [batch]
    halves = layout.halves(data) if len(data) > _SLOW_BYTES else None
    if halves is None:
        return [data]
    return [part for half in halves for part in parse(layout, half)]


def _batch(layout: Layout, data: bytes) -> pa.RecordBatch | None:
    """The records of a block, if all are good."""
    plain = layout.plain(data)
    if plain is None:
        return None
    read = pa.csv.ReadOptions(
        use_threads=False, block_size=len(plain) + 1, column_names=layout.names
    )
    try:
        table = pa.csv.read_csv(pa.BufferReader(plain), read, layout.parse, layout.convert)
    except pa.ArrowInvalid:
        return None
    columns = [c.chunk(0) if c.num_chunks == 1 else c.combine_chunks() for c in table.columns]
    if (layout.quoted or len(columns) > 1) and _empty_row(columns) and _may_have_blank_line(plain):
        return None  # pyarrow makes a row of empty cells of a blank line
    return pa.record_batch([columns[place] for place in layout.places], schema=layout.schema)


def _may_have_blank_line(data: bytes) -> bool:
    """There is one, or a quoted cell has one."""
    if data.startswith((b"\n", b"\r\n")) or b"\n\n" in data:
        return True
    return b"\r" in data and b"\n\r\n" in data


def _empty_row(columns: Sequence[pa.Array]) -> bool:
    empty = [pc.equal(pc.binary_length(column), 0) for column in columns]
    return bool(pc.any(functools.reduce(pc.and_, empty)).as_py())
