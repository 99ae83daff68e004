"""What a file's first megabyte holds, by the builders' own readers: is it the file that they expect?

The bytes end anywhere: what is cut off is no fault, and a build leaves single faulty rows out.
"""

import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.formats.archives import members
from m2kr.building.formats.csv_blocks import BOM, record_end
from m2kr.building.formats.delimited import BadRecord, read_csv, read_tsv
from m2kr.building.formats.json_stream import array_items, object_members, read_json_lines
from m2kr.building.formats.limits import is_litter, normal_name
from m2kr.errors import CheckError, InputError

HEAD_BYTES = 1 << 20
UNPACKED = 16 << 20
_PLENTY = 64 << 10  # from so much text on a line could be expected to end in it
_FILE = "the file"
_PACKED = {b"\x1f\x8b": "a gzip file", b"PK": "a zip archive"}
_ENDINGS = dict.fromkeys((".gz", ".tgz", ".zip"), True) | dict.fromkeys(
    (".json", ".jsonl", ".csv", ".tsv", ".txt"), False
)
_DAMAGE = (tarfile.TarError, zlib.error, struct.error, OSError, ValueError, ArithmeticError)


def check_content(asset: Asset, path: Path) -> None:
    """Refuses a file without one right row, a table without the columns, or other published content.

    Args:
        asset: The file.
        path: Where it is; its name may be another one.

    Raises:
        InputError: The header lacks a column, or none of the first rows is as the builder expects.
        CheckError: The content isn't the published one.
    """
    if path.is_dir():
        return
    fix = "delete it, if it is still there, and run the same command again; if upstream changed, report it"
    if asset.git_blob:
        seen = {git_blob(m.read()): m.name for m in members(path) if m.name.endswith(".json")}
        if asset.git_blob not in seen:
            listed = ", ".join(f"{name} with {blob}" for blob, name in seen.items())
            raise CheckError(
                f"the content of {asset.name} is not the published one: it holds "
                f"{listed or 'no JSON file'}",
                where=str(path),
                expected=f"a JSON file with the git blob id {asset.git_blob}",
                fix=fix,
            )
    if asset.shape is None or asset.shape.kind == "json":  # the builders read these whole at once
        return
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES + 1)
    try:
        rows_in(head[:HEAD_BYTES], asset.name, asset.shape, whole=len(head) <= HEAD_BYTES)
    except InputError as error:
        raise InputError(
            f"this is another file than {asset.name} is: {error.what}",
            where=str(path),
            expected=error.expected,
            fix=fix,
        ) from error


def git_blob(content: bytes) -> str:
    """The id that git gives a file of this content."""
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def rows_in(head: bytes, name: str, shape: Shape | None, *, whole: bool) -> int | None:
    """The rows in the first bytes of a file; None if they can't be looked at.

    Args:
        head: The bytes.
        name: Of the file; its ending tells whether it is packed.
        shape: What its rows are.
        whole: There are no more bytes.

    Raises:
        InputError: All rows are faulty, or it is another kind of file.
    """
    kind = _PACKED.get(head[:2])
    if _ENDINGS.get(PurePosixPath(name).suffix.lower(), bool(kind)) != bool(kind):
        raise InputError(f"it is {kind or 'not packed'}", expected=f"as the name says: {name}")
    if shape is None:
        return None
    try:
        text, whole = _text(head, shape, whole=whole)
    except _DAMAGE as error:
        raise InputError(f"it is damaged: {error}", expected=str(shape)) from error
    text = text.removeprefix(BOM)
    plenty = len(text) >= _PLENTY
    if shape.kind != "json" and not whole:
        end, _ = record_end(text, shape.delimiter.encode() if shape.kind == "csv" else None)
        text = text[:end]
    if not text and not whole:
        return 0 if plenty else None
    faults: list[str] = []
    rows = 0
    try:
        for count in _rows(text, shape, faults):
            rows += count
    except InputError as error:
        # A JSON document that is cut ends where the bytes do.
        if whole or shape.kind != "json" or text.lstrip()[:1] not in (b"{", b"["):
            place = (error.where or "").removeprefix(_FILE).removeprefix(", ")
            problem = f"{place}: {error.what}" if place else error.what
            raise InputError(problem, expected=error.expected or str(shape)) from error
    if faults and not rows:
        raise InputError(faults[0], expected=str(shape))
    return rows


def _rows(text: bytes, shape: Shape, faults: list[str]) -> Iterator[int]:
    """Counts of the rows that are as they should be; what is wrong with others is added to the faults."""

    def on_fault(fault: BadRecord) -> None:
        faults.append(f"row {fault.row:,}: {fault.problem}; seen {fault.text!r}")

    file = io.BytesIO(text)
    names, path, delimiter = shape.names, shape.path or None, shape.delimiter
    if shape.kind == "tsv":
        blocks = read_tsv(file, names, where=_FILE, on_fault=on_fault)
        yield sum(block.records for block in blocks) - len(faults)
    elif shape.kind == "csv":
        blocks = read_csv(file, names, where=_FILE, on_fault=on_fault, delimiter=delimiter)
        yield sum(block.records for block in blocks) - len(faults)
    else:
        records: Iterable[Any]
        if shape.kind == "jsonl":
            records = (record for _, record in read_json_lines(file, on_fault=on_fault))
        elif path or text.lstrip()[:1] == b"[":
            records = array_items(file, where=_FILE, key=path)
        else:
            records = (record for _, record in object_members(file, where=_FILE))
        for record in records:
            lacking = [n for n in names if not isinstance(record, dict) or n not in record]
            if lacking:
                faults.append(f"a record without {', '.join(lacking)}; seen {str(record)[:200]!r}")
            yield not lacking


def _text(head: bytes, shape: Shape, *, whole: bool) -> tuple[bytes, bool]:
    """The text with the rows, as far as it begins in these bytes, and whether it is whole."""
    if head[:2] == b"PK":
        return _zip_member(head, shape)
    if head[:2] == b"\x1f\x8b":
        packed, head = head, b""
        while packed and len(head) < UNPACKED:
            inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
            head += inflate.decompress(packed, UNPACKED - len(head))
            packed = inflate.unused_data.lstrip(b"\0")
            whole = whole and inflate.eof
        whole = whole and not packed
    if head[257:262] != b"ustar":
        return head, whole
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as tar:
            for info in tar:
                if info.isreg() and _has_rows(info.name, shape):
                    data = head[info.offset_data : info.offset_data + info.size]
                    return data, len(data) == info.size
    except _DAMAGE:
        if whole:
            raise
    return b"", False


def _zip_member(head: bytes, shape: Shape) -> tuple[bytes, bool]:
    """The member with the rows; by the headers before members, as the directory is at the end."""
    offset = 0
    while head[offset : offset + 4] == b"PK\x03\x04" and len(head) >= offset + 30:
        flags, method, size, name, extra = struct.unpack_from("<2xHH8xI4xHH", head, offset + 4)
        start = offset + 30 + name + extra
        unsized = flags & 8 or size == 0xFFFFFFFF
        if _has_rows(head[offset + 30 : offset + 30 + name].decode("utf-8", "replace"), shape):
            data = head[start:] if unsized else head[start : start + size]
            if method == 0:
                return data, not unsized and len(data) == size
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return inflate.decompress(data, UNPACKED), inflate.eof
        if unsized:  # nobody knows where the next one begins
            break
        offset = start + size
    return b"", False


def _has_rows(name: str, shape: Shape) -> bool:
    """As the builders choose a member: by name, else the JSON file, else the first one."""
    name = normal_name(name)
    if shape.member or is_litter(name) or name.endswith("/"):
        return name == shape.member
    return shape.kind != "json" or name.endswith(".json")
