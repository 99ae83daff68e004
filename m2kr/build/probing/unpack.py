"""The text in the first bytes of a gzip file or an archive, as far as it goes."""

import io
import struct
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath

from m2kr.build.archive.guard import is_litter, normal_name
from m2kr.build.spec import Shape

# Upstream's text packs to a tenth at best: more than this out of 1 MB is a bomb, or worth no look.
INFLATED = 64 << 20
_PIECE = 1 << 14
_MEMBERS = 1000  # passed over at most
_GZIP, _ZIP = b"\x1f\x8b", b"PK"
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_STORED, _DEFLATED = 0, 8
_TEXT = {".json", ".jsonl", ".csv", ".tsv", ".txt"}
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_DAMAGE = (
    tarfile.TarError,
    struct.error,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
)


class Drift(Exception):
    """A file isn't what the builders expect; the message says where, what and what instead."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The beginning of some content.

    Attributes:
        data: Its first bytes.
        whole: These are all.
    """

    data: bytes
    whole: bool


def content(head: Piece, name: str, shape: Shape | None) -> Piece | None:
    """The text with the rows; None if it does not begin in these bytes.

    Args:
        head: The first bytes of a file.
        name: Of the file: how builders open it goes by its ending. One without an ending they know
            is judged by its content.
        shape: Says which member of an archive has the rows. Without it nothing is unpacked, and only
            the kind of file is checked.

    Raises:
        Drift: It is another kind of file, damaged, or lacks the member.
    """
    lower, magic = name.lower(), head.data[:2]
    archive, gzip = lower.endswith(_ARCHIVES), lower.endswith(".gz")
    text = PurePosixPath(lower).suffix in _TEXT
    kind = {_GZIP: "a gzip file", _ZIP: "a zip archive"}.get(magic)
    if text and kind:
        raise Drift(f"{kind}; expected plain text")
    if gzip and not archive and magic != _GZIP:
        raise Drift(f"no gzip file: it begins with {begins(head.data)}")
    if archive and not kind and not _is_tar(head.data):
        raise Drift(f"no archive: it begins with {begins(head.data)}")
    if shape is None or text:
        return head
    if magic == _ZIP:
        return _zip_member(head, shape)
    if magic == _GZIP:
        head = _inflated(head)
        if archive and not _is_tar(head.data):
            raise Drift(f"no tar archive in this gzip file: it begins with {begins(head.data)}")
    if archive or (not gzip and _is_tar(head.data)):
        return _tar_member(head, shape)
    return head


def begins(data: bytes) -> str:
    """The first bytes of something, for a message."""
    text = data[:40].decode("utf-8", "backslashreplace")[:40]
    return repr(text) if text else "nothing"


def _inflated(head: Piece) -> Piece:
    """What the gzip members inflate to; igzip's files lose what they have where the end is missing."""
    out, inflate = bytearray(), zlib.decompressobj(16 + zlib.MAX_WBITS)
    for at in range(0, len(head.data), _PIECE):
        block = head.data[at : at + _PIECE]
        while block:
            if inflate.eof:
                block = block.lstrip(b"\0")  # padding
                if not block:
                    break
                inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
            try:
                out += inflate.decompress(block, INFLATED - len(out))
            except zlib.error as error:
                what = f"the gzip data are damaged after {len(out):,} bytes: {error}"
                raise Drift(what) from error
            if len(out) >= INFLATED:
                return Piece(bytes(out), False)
            block = inflate.unused_data
    if head.whole and not inflate.eof:
        raise Drift(f"the gzip data end too early, after {len(out):,} bytes")
    return Piece(bytes(out), head.whole)


def _is_tar(data: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(data[:512], "utf-8", "surrogateescape")
    except _DAMAGE:
        return False
    return True


def _tar_member(head: Piece, shape: Shape) -> Piece | None:
    names: list[str] = []
    try:
        tar = tarfile.open(fileobj=io.BytesIO(head.data), mode="r:")  # noqa: SIM115 - no file
        while (info := tar.next()) is not None:
            name = _safe(info.name)
            if info.isreg() and _wanted(name, shape):
                data = head.data[info.offset_data : info.offset_data + info.size]
                if head.whole and len(data) < info.size:
                    raise Drift(f"the archive ends within its member {name!r}")
                return Piece(data, len(data) == info.size)
            names.append(name)
    except _DAMAGE as error:
        if head.whole:
            raise Drift(f"the tar archive is damaged: {error}") from error
    if head.whole:
        raise _absent(names, shape)
    return None


def _zip_member(head: Piece, shape: Shape) -> Piece | None:
    data, at, names = head.data, 0, list[str]()
    while data[at : at + 4] == _LOCAL and len(data) >= at + 30:
        if len(names) >= _MEMBERS:
            return None
        flags, method, packed, n, m = struct.unpack_from("<2xHH8xI4xHH", data, at + 4)
        start = at + 30 + n + m
        if len(data) < start:
            break
        raw = data[at + 30 : at + 30 + n]
        name = _safe(raw.decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace"))
        if packed == 0xFFFFFFFF:
            packed = _zip64_size(data[start - m : start])
        unsized = bool(flags & 8) and not packed
        names.append(name)
        if not raw.endswith((b"/", b"\\")) and _wanted(name, shape):
            return _unzipped(head, name, start, flags, method, None if unsized else packed)
        at = _after(data, start, method) if unsized else start + packed
    signature = data[at : at + 4]
    if signature in {_CENTRAL, _END} or (head.whole and signature in {b"", _LOCAL}):
        raise _absent(names, shape)
    if len(signature) == 4 and signature != _LOCAL:
        raise Drift(f"the zip archive is damaged at byte {at:,}")
    return None


def _unzipped(
    head: Piece, name: str, start: int, flags: int, method: int, packed: int | None
) -> Piece | None:
    if flags & 1:
        raise Drift(f"the member {name!r} is encrypted")
    if method not in {_STORED, _DEFLATED}:
        raise Drift(f"the member {name!r} is packed by method {method}, which is not read")
    data = head.data[start:] if packed is None else head.data[start : start + packed]
    here = head.whole or len(data) == packed
    if method == _STORED:
        # Without a size nobody knows where it ends.
        return None if packed is None else Piece(data, here)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = inflate.decompress(data, INFLATED)
    except zlib.error as error:
        raise Drift(f"the member {name!r} is damaged: {error}") from error
    if here and not inflate.eof and len(out) < INFLATED:
        raise Drift(f"the member {name!r} is cut short")
    return Piece(out, inflate.eof)


def _zip64_size(extra: bytes) -> int:
    """The packed size out of a zip64 field; as much as can't be here, if there is none."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == 1 and size >= 16 and len(extra) >= 20:
            packed: int = struct.unpack_from("<Q", extra, 12)[0]
            return packed
        extra = extra[4 + size :]
    return 0xFFFFFFFF


def _after(data: bytes, start: int, method: int) -> int:
    """Where the next member of a zip begins, behind one whose size stands behind it."""
    if method != _DEFLATED:
        return len(data)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflate.decompress(data[start:], INFLATED)
    except zlib.error as error:
        raise Drift(f"the zip archive is damaged at byte {start:,}: {error}") from error
    if not inflate.eof:
        return len(data)
    end = len(data) - len(inflate.unused_data)
    places = [data.find(s, end + 12, end + 28) for s in (_LOCAL, _CENTRAL)]
    return min((place for place in places if place >= 0), default=len(data))


def _wanted(name: str, shape: Shape) -> bool:
    """As the builders choose: by name, else the JSON file, else the first one."""
    if shape.member or is_litter(name):
        return name == shape.member
    return shape.kind != "json" or name.endswith(".json")


def _safe(name: str) -> str:
    try:
        return normal_name(name)
    except ValueError as error:
        raise Drift(f"a member has an unsafe name: {error}") from error


def _absent(names: list[str], shape: Shape) -> Drift:
    wanted = repr(shape.member) if shape.member else "file with the rows"
    listed = ", ".join(map(repr, names[:10])) or "none"
    return Drift(f"no {wanted} in this archive; seen the members {listed}")
