"""The rows in the first bytes of a file, as the builders' own readers see them.

The bytes end anywhere: in the middle of a record, of an archive's member, of a gzip block. What is cut
off is no fault; whatever comes before must be as the builders expect.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from m2kr.build.formats.csv_stream import BOM, record_end
from m2kr.build.formats.delimited import Fault, read_csv, read_tsv
from m2kr.build.formats.json_lines import read_json_lines
from m2kr.build.formats.json_stream import array_items, object_members
from m2kr.build.probing.unpack import Drift, Piece, begins, content
from m2kr.build.spec import Shape
from m2kr.errors import InputError
from m2kr.unicode_halves import mended_json

PARSED = 16 << 20
# From so much text on a row could be expected in it.
_PLENTY = 64 << 10
_STRAY = 0.01  # share of faulty rows that is no drift: a build tells its ledger of them
_FILE = "the file"
_BLANKS = b" \t\r\n"
_TOKEN = 8  # an error so near the end may be the cut's
_MARKS = np.zeros(256, bool)
_MARKS[list(b'",[]{}')] = True
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found.

    Attributes:
        rows: Whole ones.
        note: Why there are none although nothing is wrong, or how many are faulty.
    """

    rows: int
    note: str = ""


def rows_in(
    head: bytes, name: str, shape: Shape | None, *, whole: bool, any_right: bool = False
) -> Seen | None:
    """The rows in the first bytes of a file; None if nobody knows what they look like.

    Args:
        head: The bytes.
        name: Of the file; its ending tells how it is packed.
        shape: What its rows are.
        whole: There are no more bytes.
        any_right: Lines may be faulty, or lacking, unless all are faulty: a build leaves such out.

    Raises:
        Drift: The file is another than the builders expect.
    """
    piece = content(Piece(head, whole), name, shape)
    if shape is None:
        return None
    if piece is None:
        which = f"the member {shape.member!r}" if shape.member else "the member with the rows"
        return Seen(0, f"{which} does not begin in the bytes read")
    if len(piece.data) > PARSED:
        piece = Piece(piece.data[:PARSED], False)
    if shape.kind == "json":
        seen = Seen(_count_json(piece, shape))
        missing = "no record ends in the bytes read"
        if shape.path:
            missing = f"no record of the list {shape.path!r} ends in the bytes read"
        expected = False
    else:
        text = _whole_lines(piece, shape)
        seen = _count_lines(text, shape, any_right) if text or piece.whole else Seen(0)
        if any_right:
            return seen
        missing = "no row ends in the bytes read"
        expected = len(piece.data) >= _PLENTY
    if seen.rows:
        return seen
    if piece.whole:
        raise Drift(f"no rows; expected {expected_rows(shape)}")
    if expected:
        raise Drift(f"no row ends in {len(piece.data):,} bytes; expected {expected_rows(shape)}")
    return Seen(0, missing)


def expected_rows(shape: Shape) -> str:
    """What rows of a shape look like."""
    names = ", ".join(shape.names)
    where = f" in a list {shape.path!r}" if shape.path else ""
    return {
        "tsv": f"lines of {len(shape.names)} cells ({names}), separated by tabs",
        "csv": f"a header with the columns {names}, and rows",
        "jsonl": f"lines of JSON objects with the keys {names}",
        "json": f"JSON objects with the keys {names}{where}",
    }[shape.kind]


def _whole_lines(piece: Piece, shape: Shape) -> bytes:
    """The text without its last record, if that may be cut."""
    text = piece.data.removeprefix(BOM)
    if piece.whole:
        return text
    end, _ = record_end(text, shape.delimiter.encode() if shape.kind == "csv" else None)
    return text[:end]


def _count_lines(text: bytes, shape: Shape, any_right: bool) -> Seen:
    """The rows of a text; a stray faulty one is a remark, as a build would leave it out."""
    faults: list[str] = []

    def tell(fault: Fault) -> None:
        faults.append(
            f"row {fault.row:,}: {fault.problem}; expected {expected_rows(shape)}; seen {fault.text!r}"
        )

    stream, count = io.BytesIO(text), 0
    try:
        if shape.kind == "jsonl":
            for number, record in read_json_lines(stream, on_fault=tell):
                try:
                    _check(record, f"row {number:,}", shape)
                    count += 1
                except Drift as fault:
                    faults.append(str(fault))
            count += len(faults)
        elif shape.kind == "tsv":
            blocks = read_tsv(stream, shape.names, where=_FILE, on_fault=tell)
            count = sum(block.records for block in blocks)
        else:
            blocks = read_csv(
                stream, shape.names, where=_FILE, on_fault=tell, delimiter=shape.delimiter
            )
            count = sum(block.records for block in blocks)
    except InputError as error:
        raise _drift(error) from error
    if faults and len(faults) > (count - 1 if any_right else _STRAY * count):
        raise Drift(faults[0])
    note = f"{len(faults):,} of {count:,} rows are faulty, first {faults[0]}" if faults else ""
    return Seen(count, note)


def _count_json(piece: Piece, shape: Shape) -> int:
    first = piece.data.removeprefix(BOM).lstrip(_BLANKS)[:1]
    if first not in ({b"", b"{"} if shape.path else {b"", b"{", b"["}):
        raise Drift(f"it begins with {begins(piece.data)}; expected {expected_rows(shape)}")
    data = piece.data if piece.whole else _closed(piece.data.removeprefix(BOM), shape)
    if not data.removeprefix(BOM).strip(_BLANKS):
        return 0
    stream, count = io.BytesIO(data), 0
    records: Iterator[Any]
    if first == b"[" or shape.path:
        records = array_items(stream, where=_FILE, key=shape.path or None)
    else:
        records = (record for _, record in object_members(stream, where=_FILE))
    try:
        for count, record in enumerate(records, 1):
            _check(record, f"record {count:,}", shape)
    except InputError as error:
        raise _drift(error) from error
    return count


def _closed(data: bytes, shape: Shape) -> bytes:
    """A document that is cut, without its last record and with what closes it; empty without records.

    What is left out must still be how a JSON document can go on.
    """
    codes = np.frombuffer(data.replace(b"\\\\", b"  ").replace(b'\\"', b"  "), np.uint8)
    places = np.flatnonzero(_MARKS[codes])
    quotes = codes[places] == ord('"')
    places = places[~quotes & (np.cumsum(quotes) % 2 == 0)]
    marks = codes[places]
    depths = np.cumsum(_STEPS[marks], dtype=np.int64)
    level = 2 if shape.path else 1
    commas = np.flatnonzero((marks == ord(",")) & (depths == level))
    if not len(commas):
        _check_start(b"", data)
        return b""
    last = int(commas[-1])
    opened = (_STEPS[marks[:last]] == 1) & (depths[:last] == level)
    opener = bytes(marks[np.flatnonzero(opened)[-1:]])
    record, rest = data[: places[last]], data[places[last] + 1 :]
    before = {b"{": b'{"":0,', b"[": b"[0,"}[opener]
    _check_start((b'{"":' if shape.path else b"") + before, rest)
    # Of lists of one name the first is read: the other one is for a document cut before it.
    empty = b",%b:[]}" % orjson.dumps(shape.path) if shape.path else b""
    return record + {b"{": b"}", b"[": b"]"}[opener] + empty


def _check_start(before: bytes, data: bytes) -> None:
    """Refuses what can't be the start of JSON behind ``before``."""
    text = mended_json(before + data).decode("utf-8", "replace")
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if error.pos < len(text) - _TOKEN:
            seen = text[max(len(before), error.pos - 20) : error.pos + 20]
            raise Drift(f"a record of this JSON document is damaged; seen {seen!r}") from error


def _check(record: Any, place: str, shape: Shape) -> None:
    if not isinstance(record, Mapping):
        seen = f"a JSON {type(record).__name__}"
        raise Drift(f"{place}: no object; expected {expected_rows(shape)}; seen {seen}")
    lacking = [name for name in shape.names if name not in record]
    if lacking:
        keys = ", ".join(map(repr, list(record)[:20])) or "none"
        raise Drift(
            f"{place}: no key {', '.join(map(repr, lacking))}; expected {expected_rows(shape)}; "
            f"seen the keys {keys[:300]}"
        )


def _drift(error: InputError) -> Drift:
    place = (error.where or "").removeprefix(_FILE).removeprefix(", ")
    expected = f"; expected {error.expected}" if error.expected else ""
    return Drift(f"{place}: {error.what}{expected}" if place else f"{error.what}{expected}")
