"""Big JSON files, streamed: JSON lines, and one huge document, read member by member in little memory.

A line that is wrong is told, not fatal; a document is right or an error.

numpy follows strings and depth, in linear time whatever the content, and orjson decodes many members at
once. Ends of an object's members are first guessed by a search for bytes, which is faster for long ones,
and proven by orjson: what is whole JSON once its bracket is closed can end nowhere else.
"""

import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import orjson

from m2kr.building.formats.delimited import BadRecord
from m2kr.errors import InputError
from m2kr.unicode_halves import loads, mended_json

LIMIT, LINE_LIMIT = 256 << 20, 64 << 20
_CHUNK, _SPAN = 1 << 18, 1 << 19  # bytes read and scanned, and bytes decoded at once
_TOKEN = 1 << 10  # no number or escape is longer
_PATIENCE = 63  # so many buffers at most without another guess
_BLANKS = b" \t\r\n"
_GAP = rb"[ \t\r\n]*"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_HEAD = re.compile(_GAP + b"(" + _STRING + b")" + _GAP + b":" + _GAP + rb"([^ \t\r\n])", re.S)
_NEXT_MEMBER = re.compile(_GAP + b"," + _GAP + b'"')
_STEPS = np.zeros(256, np.int64)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_CLOSERS = {b"{": b"}", b"[": b"]"}
_NAMES = {b"{": "a JSON object", b"[": "a JSON list", b"": "empty"}
_READ_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


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


def object_members(
    stream: BinaryIO, *, where: str, limit: int = LIMIT
) -> Iterator[tuple[str, Any]]:
    """Keys and values of the members of a document that is one JSON object, in its order.

    A key that occurs twice comes twice. Values are orjson's: integers beyond 64 bits are floats.
    Halves of surrogate pairs, which no UTF-8 can hold, become U+FFFD.

    Args:
        stream: The document, UTF-8 with or without a byte order mark; it need not be seekable.
        where: How messages name it.
        limit: The most bytes a member may have.

    Raises:
        InputError: It is damaged, cut short, no object, or has a member that is too large or nested
            too deeply. All members before that one have been yielded, unless it could not be read.
    """
    return _Document(stream, where, limit, b"{").read(None)


def array_items(
    stream: BinaryIO, *, where: str, key: str | None = None, limit: int = LIMIT
) -> Iterator[Any]:
    """Items of a document that is one JSON list, or of the list ``key`` of one that is an object.

    What precedes the list ``key`` is passed over in little memory, only its keys, strings and depth
    checked; what follows is not read; the first of equal keys counts. Else as ``object_members``.

    Raises:
        InputError: As there; or the object has no such key, or no list for it.
    """
    return _Document(stream, where, limit, b"[" if key is None else b"{").read(key)


@dataclass(slots=True)
class _Document:
    """The part of a document that is in memory; from ``pos`` on it is still to be decoded."""

    stream: BinaryIO
    where: str
    limit: int
    opener: bytes  # of the object or list whose members are read
    buf: bytes = b""
    pos: int = 0
    base: int = 0  # bytes of the document before the buffer
    count: int = 0  # members decoded
    depth: int = 0  # of brackets, and
    quoted: int = 0  # whether within a string: where ``scan_block`` is

    def read(self, key: str | None) -> Iterator[Any]:
        """All members, of the document or of its list ``key``, and a look at what follows."""
        self.more()
        self.pos = 3 if self.buf.startswith(b"\xef\xbb\xbf") else 0
        if (first := self.next_byte()) != self.opener:
            what = _NAMES.get(first, "no JSON object or list")
            raise self.error(f"this is {what}", self.pos, expected=_NAMES[self.opener])
        self.pos += 1
        if key is not None:
            self.seek(key)
        yield from self.parts()
        if self.next_byte() not in ((b"",) if key is None else (b",", b"}")):
            what = "there is more after its end" if key is None else "no comma or bracket follows"
            raise self.error(what, self.pos)

    def more(self) -> bool:
        """Read on: as much again as there is, so that a huge member is copied few times only."""
        parts = [self.buf[self.pos :]]
        missing = max(_CHUNK, len(parts[0]))
        try:
            while missing > 0 and (part := self.stream.read(missing)):
                parts.append(part)
                missing -= len(part)
        except _READ_ERRORS as error:
            raise self.error(f"the document can't be read: {error}", len(self.buf)) from error
        self.base += self.pos
        self.buf, self.pos = b"".join(parts), 0
        return len(parts) > 1

    def need_more(self) -> None:
        """Read on, for a member that does not end in the buffer, if it is right so far."""
        end = len(self.buf)
        if end - self.pos > min(_CHUNK, self.limit):
            self.check(end, margin=_TOKEN)
        if not self.more():
            self.check(len(self.buf))
            raise self.error("the document is cut short here", len(self.buf))

    def wrapped(self, stop: int) -> bytes:
        """What is before ``stop``, as a document of its own."""
        return b"".join((self.opener, self.buf[self.pos : stop], _CLOSERS[self.opener]))

    def check(self, stop: int, *, margin: int = 0) -> None:
        """Raise an error if what is before ``stop`` is no JSON so far or too large."""
        text = mended_json(self.wrapped(stop)[:-1])
        error_at, what = len(text), ""
        try:
            text.decode()
            orjson.loads(text)
        except orjson.JSONDecodeError as error:
            error_at, what = len(error.doc[: error.pos].encode()), f"this is not JSON: {error.msg}"
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                error_at, what = error.start, "this byte is not UTF-8"
        if error_at < len(text) - margin:
            raise self.error(what, self.pos + error_at - 1)
        if stop - self.pos > self.limit:
            raise self.error("it is too large", self.pos, expected=f"at most {self.limit:,} bytes")

    def error(
        self, what: str, offset: int, *, expected: str = "JSON in UTF-8, whole"
    ) -> InputError:
        """An error at buffer position ``offset``, in the member that begins at ``pos``."""
        place = f"{'member' if self.opener == b'{' else 'item'} {self.count + 1:,}"
        if self.opener == b"{" and (head := _HEAD.match(self.buf, self.pos)):
            place += f" {head[1][:200].decode(errors='replace')}"
        where = f"{self.where}, {place}, byte offset {self.base + offset:,}"
        return InputError(what, where=where, expected=expected, fix="delete it and fetch it again")

    def next_byte(self) -> bytes:
        """The next byte that is not blank, left unread; none at the end."""
        while True:
            rest = self.buf[self.pos :].lstrip(_BLANKS)
            self.pos = len(self.buf) - len(rest)
            if rest or not self.more():
                return rest[:1]

    def seek(self, key: str) -> None:
        """Move to the first item of the list that is the value of ``key``."""
        more = self.next_byte() != b"}"
        while more:
            while not (head := _HEAD.match(self.buf, self.pos)):
                self.need_more()
            self.check(head.end(1))
            if loads(head[1]) == key:
                if head[2] != b"[":
                    raise self.error(f"the value of {key!r} is no list", head.start(2))
                self.opener, self.pos, self.count = b"[", head.end(), 0
                return
            self.pos = head.start(2)
            more = self.skip()
            self.count += 1
        raise self.error(f"the object has no key {key!r}", self.pos)

    def skip(self) -> bool:
        """Move behind the value at hand and its comma; false, if it was the object's last."""
        self.depth = self.quoted = 0
        while True:
            stops, end, stop = self.scan_block(self.pos)
            if stops:
                self.pos = stops[0] + (stops[0] != end)
                return stops[0] != end
            if stop > self.pos:
                self.pos = stop
            elif not self.more():
                raise self.error("the document is cut short here", len(self.buf))

    def parts(self) -> Iterator[Any]:
        """The members from ``pos`` on, up to and with the closing bracket."""
        end, pause, penalty = -1, 0, 0
        while end < 0:
            if len(self.buf) - self.pos < _CHUNK:
                self.more()
            if pause:
                pause -= 1
            elif self.opener == b"{" and (yield from self.guess_members()):
                penalty = 0
                continue
            else:
                pause = penalty = min(2 * penalty + 1, _PATIENCE)
            self.depth = self.quoted = 0
            stops, begin, stop = list[int](), -1, self.pos
            while not stops and stop != begin:
                begin = stop
                stops, end, stop = self.scan_block(begin)
            if not stops:
                self.need_more()
            elif end != stops[0] or self.count or self.buf[self.pos : end].strip(_BLANKS):
                yield from self.decode_members(stops)
        self.pos = end + 1
        if self.buf[end : end + 1] != _CLOSERS[self.opener]:
            raise self.error("this is not the bracket that was opened", end)

    def guess_members(self) -> Generator[tuple[str, Any], None, bool]:
        """Members that are objects, up to the first '}, "' each; true, if some, and none other."""
        buf, view, first = self.buf, memoryview(self.buf), self.pos
        stop = buf.find(b"}", first) + 1
        while stop:
            if after := _NEXT_MEMBER.match(buf, stop):
                head = _HEAD.match(buf, self.pos, stop)
                if not head or head[2] != b"{" or stop - self.pos > self.limit:
                    return False
                try:
                    member = orjson.loads(head[1]), orjson.loads(view[head.start(2) : stop])
                except orjson.JSONDecodeError:
                    return False
                self.pos, self.count = after.end() - 1, self.count + 1
                yield member
            stop = buf.find(b"}", stop) + 1
        return self.pos > first

    def decoded(self, stop: int, mend: Callable[[bytes], bytes] = bytes) -> Any:
        """What is before ``stop``, in its brackets; nothing if it is no JSON."""
        try:
            return orjson.loads(mend(self.wrapped(stop)))
        except orjson.JSONDecodeError:
            return ()

    def decode_members(self, stops: list[int]) -> Iterator[Any]:
        """The members that end at ``stops``: all at once, if they are small, right and distinct."""
        small = stops[-1] - self.pos <= min(_SPAN, self.limit)
        parsed: Any = self.decoded(stops[-1]) if small else ()
        if len(parsed) == len(stops):
            self.pos, self.count = stops[-1] + 1, self.count + len(stops)
            yield from parsed.items() if self.opener == b"{" else parsed
            return
        for stop in stops:
            parsed = self.decoded(stop, mended_json) if stop - self.pos <= self.limit else ()
            if not parsed:
                self.check(stop)
                raise self.error("something is missing before this comma or bracket", stop)
            self.pos, self.count = stop + 1, self.count + 1
            yield from parsed.items() if self.opener == b"{" else parsed

    def scan_block(self, start: int) -> tuple[list[int], int, int]:
        """Where members end in a block; the last if it closes all, or -1; where the next begins."""
        block = self.buf[start : start + _CHUNK + 1]
        if (len(block) - len(block.rstrip(b"\\"))) % 2:  # an escape is not to be torn
            block = block[:-1]
        codes = np.frombuffer(block.replace(b"\\\\", b"  ").replace(b'\\"', b"  "), np.uint8)
        low = codes | 0x20  # '[' as '{', ']' as '}'; 34 is the quote, 44 the comma
        places = np.flatnonzero((codes == 34) | (codes == 44) | (low == 0x7B) | (low == 0x7D))
        quotes = codes[places] == 34
        quoted = (np.cumsum(quotes) + self.quoted) % 2
        self.quoted = int(quoted[-1]) if len(places) else self.quoted
        places = places[~quotes & (quoted == 0)]
        depths = np.cumsum(_STEPS[codes[places]]) + self.depth
        self.depth = int(depths[-1]) if len(places) else self.depth
        closed = np.flatnonzero(depths < 0)[:1]
        n = int(closed[0]) if len(closed) else len(places)
        commas = places[:n][(codes[places[:n]] == 44) & (depths[:n] == 0)]
        stops = (np.append(commas, places[closed]) + start).tolist()
        return stops, stops[-1] if len(closed) else -1, start + len(block)
