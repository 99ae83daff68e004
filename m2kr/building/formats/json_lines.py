"""Records of big JSON lines files, streamed: faulty lines are told, not fatal."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import orjson

from m2kr.building.formats.delimited import BadRecord
from m2kr.unicode_halves import loads

LINE_LIMIT = 64 << 20


def read_json_lines(
    stream: BinaryIO,
    *,
    on_fault: Callable[[BadRecord], None],
    keys: Sequence[str] = (),
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers (from 1) and objects of a JSON lines stream; blank lines are passed over.

    Halves of surrogate pairs become U+FFFD, ``NaN`` and ``Infinity`` null.

    Args:
        stream: UTF-8 bytes.
        on_fault: Told of each line that is no JSON object, lacks one of ``keys`` or is too long.
        keys: Keys that every record must have.
    """
    number = 0
    while line := stream.readline(LINE_LIMIT + 1):
        number += 1
        if len(line) > LINE_LIMIT:
            on_fault(_fault(number, f"a line of more than {LINE_LIMIT:,} bytes", line))
            while line and not line.endswith(b"\n"):
                line = stream.readline(LINE_LIMIT)
            continue
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        try:
            record = loads(text)
        except orjson.JSONDecodeError as error:
            on_fault(_fault(number, f"no JSON: {error}", line))
            continue
        if not isinstance(record, dict):
            on_fault(_fault(number, f"a JSON {type(record).__name__}, no object", line))
            continue
        lacking = [key for key in keys if key not in record]
        if lacking:
            on_fault(_fault(number, f"no key {lacking[0]!r}", line))
            continue
        yield number, record


def _fault(number: int, problem: str, line: bytes) -> BadRecord:
    return BadRecord(number, problem, line[:80].decode("utf-8", "backslashreplace"))
