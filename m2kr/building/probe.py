"""A look at a file's first megabyte with the builders' own readers: is it the file that they expect?

The bytes end anywhere: what is cut off is no fault, and a build leaves single faulty rows out.
"""

import hashlib
import io
import struct
import tarfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from m2kr.building.fetch import http
from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.fetch.http import is_http
from m2kr.building.fetch.retry import Failure, Policy
from m2kr.building.formats.archives import members
from m2kr.building.formats.csv_blocks import BOM, record_end
from m2kr.building.formats.delimited import BadRecord, read_csv, read_tsv
from m2kr.building.formats.json_stream import array_items, object_members, read_json_lines
from m2kr.building.formats.limits import is_litter, normal_name
from m2kr.errors import CheckError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD_BYTES = 1 << 20
PATIENCE = Policy(connect_timeout=10.0, read_timeout=20.0)
SECONDS = 40.0  # a slow server's first bytes are parsed as far as they came by then
UNPACKED = 16 << 20
_PLENTY = 64 << 10  # from so much text on a line could be expected to end in it
_FILE = "the file"
_PACKED = {b"\x1f\x8b": "a gzip file", b"PK": "a zip archive"}
_ENDINGS = {".gz": True, ".tgz": True, ".zip": True}
_ENDINGS |= dict.fromkeys((".json", ".jsonl", ".csv", ".tsv", ".txt"), False)
_DAMAGE = (tarfile.TarError, zlib.error, struct.error, OSError, ValueError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Probed:
    """What a file is like upstream.

    Attributes:
        name: Of the asset.
        status: ``ok``; ``drift`` (not what the builders expect); ``gated`` (a login or an accepted
            licence is needed); ``unreachable``; ``local`` (in a package, or placed by hand).
        size: Bytes of the whole file, if the server says so.
        rows: Whole ones in its first megabyte; None where none can be looked at.
        problem: What is wrong, with what was expected.
    """

    name: str
    status: str
    size: int | None = None
    rows: int | None = None
    problem: str = ""


def probe(asset: Asset, policy: Policy = PATIENCE) -> Probed:
    """Asks for a file's first megabyte and parses it, from the first address that is right."""
    failed: list[Probed] = []
    for url in filter(is_http, asset.urls):
        try:
            start = http.start_of(url, asset.name, HEAD_BYTES, policy, seconds=SECONDS)
            found = _judged(asset, start)
        except Failure as failure:
            found = Probed(asset.name, "unreachable", problem=failure.reason)
        if found.status == "ok":
            return found
        failed.append(replace(found, problem=f"{url}: {found.problem}"))
    if not failed:
        return Probed(asset.name, "local", asset.size)
    worst = min(failed, key=lambda each: ("drift", "gated", "unreachable").index(each.status))
    return replace(worst, problem="; ".join(each.problem for each in failed))


def _judged(asset: Asset, start: http.Start) -> Probed:
    if start.status in {401, 403}:
        gate = asset.gate or "needs a login or an accepted licence (HF_TOKEN, for the hub)"
        return Probed(asset.name, "gated", problem=f"HTTP {start.status}: {gate}")
    if start.status != 200 or not start.data:
        problem = f"gone (HTTP {start.status})" if start.status != 200 else "an empty file"
        return Probed(asset.name, "drift", problem=problem)
    size = len(start.data) if start.whole else start.total
    if asset.size is not None and size not in (None, asset.size):
        problem = f"{size:,} bytes instead of {asset.size:,}"
        return Probed(asset.name, "drift", size, problem=problem)
    try:
        rows = rows_in(start.data, asset.name, asset.shape, whole=start.whole)
        if rows == 0 and asset.shape and (start.whole or asset.shape.kind != "json"):
            raise InputError("no rows", expected=expected_rows(asset.shape))
    except InputError as error:
        problem = f"{error.what}; expected {error.expected}"
        return Probed(asset.name, "drift", size, problem=problem)
    return Probed(asset.name, "ok", size, rows)


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
        raise InputError(f"it is damaged: {error}", expected=expected_rows(shape)) from error
    text = text.removeprefix(BOM)
    plenty = len(text) >= _PLENTY
    if shape.kind != "json" and not whole:
        end, _ = record_end(text, shape.delimiter.encode() if shape.kind == "csv" else None)
        text = text[:end]
    if not text and not whole:
        return 0 if plenty else None
    faults: list[str] = []
    try:
        rows = _right_rows(text, shape, faults, whole=whole)
    except InputError as error:
        place = (error.where or "").removeprefix(_FILE).removeprefix(", ")
        what = f"{place}: {error.what}" if place else error.what
        raise InputError(what, expected=error.expected or expected_rows(shape)) from error
    if faults and not rows:
        raise InputError(faults[0], expected=expected_rows(shape))
    return rows


def _right_rows(text: bytes, shape: Shape, faults: list[str], *, whole: bool) -> int:
    """How many rows are as they should be; tells of the others."""

    def tell(fault: BadRecord) -> None:
        faults.append(f"row {fault.row:,}: {fault.problem}; seen {fault.text!r}")

    stream = io.BytesIO(text)
    if shape.kind == "tsv":
        blocks = read_tsv(stream, shape.names, where=_FILE, on_fault=tell)
        return sum(block.records for block in blocks) - len(faults)
    if shape.kind == "csv":
        blocks = read_csv(
            stream, shape.names, where=_FILE, on_fault=tell, delimiter=shape.delimiter
        )
        return sum(block.records for block in blocks) - len(faults)
    first, right = text.lstrip()[:1], 0
    records: Iterable[Any]
    if shape.kind == "jsonl":
        records = (record for _, record in read_json_lines(stream, on_fault=tell))
    elif shape.path or first == b"[":
        records = array_items(stream, where=_FILE, key=shape.path or None)
    else:
        records = (record for _, record in object_members(stream, where=_FILE))
    try:
        for record in records:
            lacking = [n for n in shape.names if not isinstance(record, dict) or n not in record]
            if lacking:
                faults.append(f"a record without {', '.join(lacking)}; seen {str(record)[:200]!r}")
            right += not lacking
    except InputError:
        if whole or shape.kind == "jsonl" or first not in (b"{", b"["):
            raise  # else the document ends where the bytes do
    return right


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


def _text(head: bytes, shape: Shape, *, whole: bool) -> tuple[bytes, bool]:
    """The text with the rows, as far as it begins in these bytes, and whether it is whole."""
    if head[:2] == b"PK":
        return _zip_member(head, shape)
    if head[:2] == b"\x1f\x8b":
        packed, out = head, b""
        while packed and len(out) < UNPACKED:
            inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
            out += inflate.decompress(packed, UNPACKED - len(out))
            packed = inflate.unused_data.lstrip(b"\0")
            whole = whole and inflate.eof
        head, whole = out, whole and not packed
    if head[257:262] != b"ustar":
        return head, whole
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as tar:
            for info in tar:
                if info.isreg() and _wanted(info.name, shape):
                    data = head[info.offset_data : info.offset_data + info.size]
                    return data, len(data) == info.size
    except _DAMAGE:
        if whole:
            raise
    return b"", False


def _zip_member(head: bytes, shape: Shape) -> tuple[bytes, bool]:
    at = 0
    while head[at : at + 4] == b"PK\x03\x04" and len(head) >= at + 30:
        flags, method, size, name, extra = struct.unpack_from("<2xHH8xI4xHH", head, at + 4)
        start = at + 30 + name + extra
        unsized = flags & 8 or size == 0xFFFFFFFF
        if _wanted(head[at + 30 : at + 30 + name].decode("utf-8", "replace"), shape):
            data = head[start:] if unsized else head[start : start + size]
            if method == 0:
                return data, not unsized and len(data) == size
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return inflate.decompress(data, UNPACKED), inflate.eof
        if unsized:  # nobody knows where the next one begins
            break
        at = start + size
    return b"", False


def _wanted(name: str, shape: Shape) -> bool:
    """As the builders choose: by name, else the JSON file, else the first one."""
    name = normal_name(name)
    if shape.member or is_litter(name) or name.endswith("/"):
        return name == shape.member
    return shape.kind != "json" or name.endswith(".json")
