"""Delimited bytes cut at ends of records: blocks of a stream, and the cells of a block, exactly."""

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

BOM = b"\xef\xbb\xbf"
_QUOTE, _NEWLINE = b'"', b"\n"
_READ = 1 << 20
_SCAN = 1 << 18

# A record's bytes without its line end, and its cells; none for a blank line.
Record = tuple[bytes, list[bytes]]


class Unreadable(Exception):
    """A record has no end; the message says which kind of end."""


def record_blocks(
    stream: BinaryIO, size: int, longest: int, delimiter: bytes | None
) -> Iterator[bytes]:
    """Whole records of a stream, about ``size`` bytes at a time, without its byte order mark.

    What an error of the stream leaves of a block comes before the error.

    Args:
        stream: From its beginning.
        size: Bytes of a block. It is more where one record is.
        longest: Bytes a record may have, roughly.
        delimiter: What is between cells that may be quoted; None if a quote is nothing special.

    Raises:
        Unreadable: A record is longer, or a quoted cell never ends.
    """
    size = max(size, len(BOM))
    rest, failure, first, ended = b"", None, True, False
    while not ended:
        # At least as much as there is: a long record is not looked at too often.
        parts, failure, ended = _read(stream, max(size, len(rest)))
        data = b"".join([rest, *parts])
        if first and data.startswith(BOM):
            data = data[len(BOM) :]
        first = False
        end, quoted = record_end(data, delimiter)
        if ended and failure is None:
            if quoted:
                if end:
                    yield data[:end]
                raise Unreadable("a quoted cell of this record has no closing quote")
            end = len(data)
        if end:
            yield data[:end]
        rest = data[end:]
        if len(rest) > longest:
            what = "a quoted cell that goes on" if quoted else "a line that goes on"
            raise Unreadable(f"{what} for more than {longest:,} bytes")
    if failure is not None:
        raise failure


def _read(stream: BinaryIO, size: int) -> tuple[list[bytes], Exception | None, bool]:
    """About so many bytes, the error that came behind them, and whether there is no more."""
    parts: list[bytes] = []
    while size > 0:
        try:
            part = stream.read(min(size, _READ))
        except Exception as error:  # noqa: BLE001 - raised again behind what came before
            return parts, error, True
        if not part:
            return parts, None, True
        parts.append(part)
        size -= len(part)
    return parts, None, False


def record_end(data: bytes, delimiter: bytes | None) -> tuple[int, bool]:
    """Where the last whole record ends, 0 for none; and whether the data end within quotes.

    Args:
        data: From the beginning of a record.
        delimiter: See `record_blocks`.
    """
    end = data.rfind(_NEWLINE)
    if delimiter is None:
        return end + 1, False
    quotes = _quotes(data, delimiter)
    if np.searchsorted(quotes, end) % 2:  # within quotes
        ends = _places(data, _NEWLINE)
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
        end = int(ends[-1]) if len(ends) else -1
    return end + 1, len(quotes) % 2 == 1


def _quotes(data: bytes, delimiter: bytes) -> np.ndarray:
    """Places of the quotes that open or close, by turns; a doubled one closes and opens again.

    As in Python's csv, a quote opens at the beginning of a cell only; elsewhere it is text.
    """
    places = _places(data, _QUOTE)
    if not len(places):
        return places
    before = np.frombuffer(data, np.uint8)[places - 1]  # at place 0 the last byte: not looked at
    opens = (before == delimiter[0]) | (before == _NEWLINE[0]) | (places == 0)
    doubles = np.zeros(len(places), bool)
    doubles[1:] = places[1:] == places[:-1] + 1
    # In clean data every other quote opens a cell or is the second of a pair.
    if (opens | doubles)[::2].all():
        return places
    real: list[int] = []
    closed = -2
    for place, may_open in zip(places.tolist(), opens.tolist(), strict=True):
        if len(real) % 2:
            closed = place
        elif not may_open and place != closed + 1:
            continue
        real.append(place)
    return np.array(real, np.int64)


def _places(data: bytes, byte: bytes) -> np.ndarray:
    if byte not in data:
        return np.zeros(0, np.int64)
    array = np.frombuffer(data, np.uint8)
    pieces = [  # by pieces that stay in the processor's cache
        np.flatnonzero(array[start : start + _SCAN] == byte[0]) + start
        for start in range(0, len(array), _SCAN)
    ]
    return np.concatenate(pieces)


def unquoted_records(data: bytes, delimiter: bytes, columns: int) -> Iterator[Record]:
    """The records of unquoted data. A blank line of one column is an empty cell."""
    for line in data.removesuffix(_NEWLINE).split(_NEWLINE):
        text = line.removesuffix(b"\r")
        yield text, text.split(delimiter) if text or columns == 1 else []


def quoted_records(data: bytes, delimiter: bytes) -> Iterator[Record]:
    """The records of data with quoted cells; the last one must not end within quotes."""
    d = re.escape(delimiter)
    cell = re.compile(
        rb'(?:"((?:[^"]++|"")*+)"([^' + d + rb"\n]*+)|([^" + d + rb"\n]*+))(" + d + rb"|\n|\Z)"
    )
    position = start = 0
    cells: list[bytes] = []
    while start < len(data):
        match = cell.match(data, position)
        assert match is not None  # its last alternative takes anything
        quoted, tail, bare, end = match.groups()
        text = tail if bare is None else bare
        if end != delimiter:
            text = text.removesuffix(b"\r")
        cells.append(text if quoted is None else quoted.replace(b'""', _QUOTE) + text)
        position = match.end()
        if end == delimiter:
            continue
        blank = len(cells) == 1 and quoted is None and not text
        yield (
            data[start:position].removesuffix(_NEWLINE).removesuffix(b"\r"),
            [] if blank else cells,
        )
        start, cells = position, []
