"""Where the members of an uncompressed tar lie, from its headers alone: ustar, GNU and pax.

Headers are read one by one, since each says where the next one is, and checked and taken apart a
thousand at a time. What is not a plain ustar header of a regular file takes the slower way.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 512
_BATCH = 1024
_LONGEST = 1 << 20  # bytes of a header that extends another
# Of the checksum's field: its bytes' sum, and its number less 256 (8 blanks stand for it in the sum).
_DIGITS = 8 ** np.arange(5, -1, -1)
_CHECKSUM = np.array([[1] * 8, [*_DIGITS, 0, 0]]).T
_BIAS = int(ord("0") * _DIGITS.sum()) + 8 * ord(" ")
_GNU = b"ustar  \0"
# Members whose size is not the size of a content, as tarfile has it.
_EMPTY = (b"1", b"2", b"3", b"4", b"5", b"6")


class Damaged(Exception):
    """The archive is not whole; the message says where."""


@dataclass(frozen=True, slots=True)
class Regular:
    """Regular files that follow each other in a tar.

    Attributes:
        names: As stored, usually UTF-8.
        offsets: Of their contents.
        sizes: Bytes of their contents.
    """

    names: list[bytes]
    offsets: "np.ndarray[Any, np.dtype[np.int64]]"
    sizes: "np.ndarray[Any, np.dtype[np.int64]]"


def regular_members(fd: int, end: int) -> Iterator[Regular]:
    """The regular files of a tar, in order; folders, links, devices and sparse files are passed over.

    Args:
        fd: The open file; its position is left alone.
        end: Bytes of the file.

    Raises:
        Damaged: A header is broken, or a member ends after the file.
        OSError: The file can't be read.
    """
    walk = _Walk(fd, end)
    at = 0
    while True:
        heads, sizes = ([], []) if walk.common else _plain_headers(fd, at)
        if heads:
            members = _taken_apart(heads, sizes, at, end)
            at = int(members.offsets[-1]) + _blocks(sizes[-1])
            yield members
        if len(heads) < _BATCH:
            found = walk.member(at)
            if found is None:
                return
            at, member = found
            if member is not None:
                yield member


def _plain_headers(fd: int, at: int) -> tuple[list[bytes], list[int]]:
    """Headers of regular files and their sizes, up to one that needs more than one look; unchecked."""
    pread = os.pread
    heads: list[bytes] = []
    sizes: list[int] = []
    try:
        for _ in range(_BATCH):
            head = pread(fd, 512, at)
            # The last byte of the field is a blank or NUL, unless the number needs all twelve.
            size = int(head[124:135], 8)
            if head[156] != 48 or head[135] > 32 or size < 0:
                break
            heads.append(head)
            sizes.append(size)
            at += size + 1023 & -512  # the header, and the content in whole blocks
    except (ValueError, IndexError):
        pass  # no octal number, or the end of the file
    if heads and len(heads[-1]) < BLOCK:
        heads.pop()
        sizes.pop()
    return heads, sizes


def _taken_apart(heads: list[bytes], sizes: list[int], at: int, end: int) -> Regular:
    """The members of plain headers, the first of them at an offset, checked."""
    content = np.array(sizes, np.int64)
    steps = BLOCK + (content + BLOCK - 1) // BLOCK * BLOCK
    offsets = at + BLOCK + np.cumsum(steps) - steps
    raw = np.frombuffer(b"".join(heads), np.uint8).reshape(-1, BLOCK)
    field = raw[:, 148:156]
    bytes_, stored = (field.astype(np.int64) @ _CHECKSUM).T
    # Six digits, NUL, blank, as almost all write it.
    usual = ((field[:, :6] >> 3) == 6).all() and not field[:, 6].any()
    sure = (
        stored - _BIAS == raw.sum(axis=1, dtype=np.uint32) - bytes_
        if usual
        else np.zeros(len(raw), bool)
    )
    for row in np.flatnonzero(~sure):
        if not _checked(heads[row]):
            raise Damaged(f"no header at offset {offsets[row] - BLOCK}")
    names = _texts(raw[:, :100])
    for row in np.flatnonzero(raw[:, 345]):
        names[row] = _name(heads[row])
    beyond = np.flatnonzero(offsets + content > end)
    if len(beyond):
        raise _beyond(names[beyond[0]])
    return Regular(names, offsets, content)


def _texts(fields: "np.ndarray[Any, np.dtype[np.uint8]]") -> list[bytes]:
    """Texts that end at the first NUL."""
    width = fields.shape[1]
    texts: list[bytes] = np.ascontiguousarray(fields).view(f"S{width}").ravel().tolist()
    if b"\0" in b"".join(texts):
        texts = [text.partition(b"\0")[0] for text in texts]
    return texts


def _checked(head: bytes) -> bool:
    """Whether a block is a header, by its checksum; some old writers summed signed bytes."""
    try:
        stored = _number(head[148:156])
    except Damaged:
        return False
    unsigned = sum(head) - sum(head[148:156]) + 8 * 32
    negative = sum(byte > 127 for byte in head[:148] + head[156:])
    return stored in (unsigned, unsigned - 256 * negative)


def _name(head: bytes) -> bytes:
    name = head[:100].partition(b"\0")[0]
    # GNU keeps times where ustar has the beginning of a long name.
    prefix = b"" if head[257:265] == _GNU else head[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise Damaged(f"{field!r} is no number") from None


def _beyond(name: bytes) -> Damaged:
    return Damaged(f"'{name.decode('utf-8', 'backslashreplace')}' ends after the file")


class _Walk:
    """Reads the members that need more than one look.

    Attributes:
        common: What pax headers say of all members to come.
    """

    def __init__(self, fd: int, end: int) -> None:
        self._fd, self._end = fd, end
        self.common: dict[bytes, bytes] = {}

    def member(self, at: int) -> tuple[int, Regular | None] | None:
        """Where the next header is, and the member whose headers begin at ``at`` if it is regular.

        Returns:
            None at the end of the archive.
        """
        own: dict[bytes, bytes] = {}
        while True:
            head = os.pread(self._fd, BLOCK, at)
            if not head.strip(b"\0"):
                if own:
                    raise Damaged(f"no member follows the header before offset {at}")
                return None
            if len(head) < BLOCK or not _checked(head):
                raise Damaged(f"no header at offset {at}")
            kind, size = head[156:157], _number(head[124:136])
            if size < 0:
                raise Damaged(f"a member of negative size at offset {at}")
            if kind not in (b"x", b"X", b"g", b"L", b"K"):
                return self._regular(head, at, own)
            text = self._text(at + BLOCK, size)
            at += BLOCK + _blocks(size)
            # Of two headers for one member the first counts, as in tarfile.
            if kind == b"L":
                own.setdefault(b"path", text.partition(b"\0")[0])
            elif kind == b"g":
                self.common |= {k: v for k, v in _pax(text, at).items() if _matters(k)}
            elif kind != b"K":
                own = {k: v for k, v in _pax(text, at).items() if _matters(k)} | own

    def _text(self, at: int, size: int) -> bytes:
        if size > _LONGEST:
            raise Damaged(f"a header of {size:,} bytes")
        text = os.pread(self._fd, size, at)
        if len(text) < size:
            raise Damaged(f"the header at offset {at - BLOCK} is cut short")
        return text

    def _regular(self, head: bytes, at: int, own: dict[bytes, bytes]) -> tuple[int, Regular | None]:
        facts = self.common | own
        kind, name = head[156:157], facts.get(b"path", _name(head))
        if kind == b"\0" and head[:100].partition(b"\0")[0].endswith(b"/"):
            kind = b"5"  # how folders were told before they had a type
        size = _number(head[124:136])
        if b"size" in facts:
            if not facts[b"size"].isdigit():
                raise Damaged(f"{facts[b'size'][:20]!r} is no size")
            size = int(facts[b"size"][:20])
        start = at + BLOCK
        if kind == b"S":
            start += self._more_of_sparse(head, start)
        after = start + (0 if kind in _EMPTY else _blocks(size))
        if kind not in _EMPTY and start + size > self._end:
            raise _beyond(name)
        if kind not in (b"0", b"\0", b"7") or any(key.startswith(b"GNU.sparse") for key in facts):
            return after, None
        member = Regular([name], np.array([start], np.int64), np.array([size], np.int64))
        return after, member

    def _more_of_sparse(self, head: bytes, at: int) -> int:
        """Bytes of the blocks that go on with the map of an old GNU sparse file."""
        count, goes_on = 0, head[482]
        while goes_on:
            block = os.pread(self._fd, BLOCK, at + count)
            if len(block) < BLOCK:
                raise Damaged(f"the header at offset {at - BLOCK} is cut short")
            goes_on = block[504]
            count += BLOCK
        return count


def _blocks(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _matters(key: bytes) -> bool:
    return key in (b"path", b"size") or key.startswith(b"GNU.sparse")


def _pax(text: bytes, at: int) -> dict[bytes, bytes]:
    """The records of a pax header: each says its length, then key=value."""
    records: dict[bytes, bytes] = {}
    place = 0
    while place < len(text) and text[place]:
        blank = text.find(b" ", place, place + 8)
        digits = text[place:blank] if blank > 0 else b""
        end = place + int(digits) if digits.isdigit() else 0
        key, equals, value = text[blank + 1 : end - 1].partition(b"=")
        if end > len(text) or not equals or text[end - 1 : end] != b"\n":
            raise Damaged(f"a broken pax header before offset {at}")
        records[key] = value
        place = end
    return records
