"""Folders with links and devices, and packed submissions that attack whoever unpacks them."""

import copy
import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from hostile_kit import NAME, RIGHT, Folder, add, refused

Members = list[tuple[zipfile.ZipInfo, bytes]]


def members(folder: Path) -> Members:
    """The files of a submission as they are packed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        (zipfile.ZipInfo(f"{NAME}/{path.relative_to(folder).as_posix()}"), path.read_bytes())
        for path in files
    ]


def zipped(parts: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of some members, whatever their names are."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for info, data in parts:
            info.compress_type = compression
            archive.writestr(info, data)
    return out.getvalue()


def _hand_in(folder: Folder, data: bytes, name: str = f"{NAME}.zip") -> None:
    folder.submitted = folder.path.parent / name
    folder.submitted.write_bytes(data)
    shutil.rmtree(folder.path)


def _zip_case(
    name: str, make: Callable[[Members], bytes | Members], *checks: str, says: tuple[str, ...] = ()
) -> None:
    def spoil(folder: Folder) -> None:
        made = make(members(folder.path))
        _hand_in(folder, made if isinstance(made, bytes) else zipped(made))

    add(name, checks or ("archive",), spoil, says)


def _more(name: str, data: bytes = b"x") -> Callable[[Members], Members]:
    """A member more, by this name."""

    def make(parts: Members) -> Members:
        info = zipfile.ZipInfo("x")
        info.filename = name  # as it is: ZipInfo would mend it
        return [*parts, (info, data)]

    return make


for _what, _name in {
    "climbs out": "../evil.txt",
    "climbs out from within": f"{NAME}/../../evil.txt",
    "climbs out at the end": f"{NAME}/runs/..",
    "is absolute": "/tmp/m2kr-evil.txt",
    "is absolute twice": "//tmp/m2kr-evil.txt",
    "has a drive": "C:/evil.txt",
    "has a drive and no slash": "C:evil.txt",
    "has backslashes": "..\\..\\evil.txt",
    "has a backslash within": f"{NAME}\\evil.txt",
    "has a division slash": f"{NAME}/runs\u2215..\u2215evil.txt",
    "has a full-width slash": f"{NAME}\uff0fevil.txt",
    "has full-width points": f"{NAME}/\uff0e\uff0e/evil.txt",
    "has a NUL": f"{NAME}/system.yaml\0.txt",
    "has a line feed": f"{NAME}/a\nb",
    "steers a terminal": f"{NAME}/\x1b[2Ja",
    "turns the reading direction": f"{NAME}/\u202etxt.exe",
    "has an empty part": f"{NAME}//system.yaml",
    "has a point as a part": f"{NAME}/./system.yaml",
    "is empty": "",
    "is a point": ".",
    "is 5,000 letters long": f"{NAME}/" + "a" * 5_000,
    "is deep": f"{NAME}/" + "a/" * 500 + "b",
    "is that of another folder": "other/system.yaml",
    "is outside of the folder": "system.yaml",
    "is a Windows stream": f"{NAME}/system.yaml:hidden",
    "is a Windows device": f"{NAME}/con",
    "ends with a point": f"{NAME}/system.yaml.",
    "ends with a blank": f"{NAME}/system.yaml ",
    "is in capitals": f"{NAME}/SYSTEM.YAML",
    "is a run in capitals": f"{NAME}/runs/ALPHA.TEST.PARQUET",
    "is there already": f"{NAME}/system.yaml",
    "is decomposed": f"{NAME}/re\u0301sume\u0301",
    "is a program": f"{NAME}/setup.py",
    "is hidden": f"{NAME}/.git/config",
    "is a further archive": f"{NAME}/runs/more.zip",
    "is no run's": f"{NAME}/runs/evil.sh",
    "is a run of no card's": f"{NAME}/runs/gamma.test.parquet",
}.items():
    _zip_case(f"a member whose name {_what}", _more(_name))


def _with_mode(
    mode: int, data: bytes, name: str = f"{NAME}/README.md"
) -> Callable[[Members], Members]:
    def make(parts: Members) -> Members:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = mode << 16
        return [*parts, (info, data)]

    return make


for _what, _mode, _data in (
    ("a link to a file", stat.S_IFLNK | 0o777, b"/etc/passwd"),
    ("a link upwards", stat.S_IFLNK | 0o777, b"../../.."),
    ("a link to a member", stat.S_IFLNK | 0o777, b"system.yaml"),
    ("a FIFO", stat.S_IFIFO | 0o644, b""),
    ("a device", stat.S_IFCHR | 0o644, b""),
    ("a block device", stat.S_IFBLK | 0o644, b""),
    ("a socket", stat.S_IFSOCK | 0o644, b""),
):
    _zip_case(f"a member that is {_what}", _with_mode(_mode, _data))
_zip_case(
    "a linked folder with a file in it",
    lambda parts: [
        *_with_mode(stat.S_IFLNK | 0o777, b"/tmp", f"{NAME}/runs")([]),
        *parts,
    ],
)


@refused("archive")
def members_that_claim_10_gigabytes(folder: Folder) -> None:
    data = bytearray(zipped(members(folder.path)))
    for place in _headers(data):
        struct.pack_into("<2L", data, place + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    _hand_in(folder, bytes(data))


def _headers(data: bytes) -> list[int]:
    """Where the entries of the directory begin."""
    end = data.rindex(b"PK\5\6")
    count, _, place = struct.unpack_from("<H2L", data, end + 10)
    places = []
    for _ in range(count):
        places.append(place)
        name, extra, comment = struct.unpack_from("<3H", data, place + 28)
        place += 46 + name + extra + comment
    return places


@refused("archive")
def ten_gigabytes_by_64_bits(folder: Folder) -> None:
    """A directory entry that claims 10 GB in its 64-bit field."""
    parts = members(folder.path)
    out = bytearray(zipped(parts))
    end = out.rindex(b"PK\5\6")
    [place, *_] = _headers(bytes(out))
    size, offset = struct.unpack_from("<2L", out, end + 12)
    extra = struct.pack("<2H2Q", 1, 16, 10 << 30, 10 << 30)
    name = struct.unpack_from("<H", out, place + 28)[0]
    struct.pack_into("<2L", out, place + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", out, place + 30, len(extra))
    out[place + 46 + name : place + 46 + name] = extra
    struct.pack_into("<2L", out, end + len(extra) + 12, size + len(extra), offset)
    _hand_in(folder, bytes(out))


@refused("archive")
def a_zip_bomb(folder: Folder) -> None:
    """A gigabyte of zeros, packed a thousandfold."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    deflated, size, crc = piece * 64 + b"\3\0", 64 << 24, 0
    zeros = bytes(1 << 24)
    for _ in range(64):
        crc = zlib.crc32(zeros, crc)
    _hand_in(folder, one_member(f"{NAME}/runs/alpha.test.parquet", deflated, size, crc, 8))


def one_member(name: str, packed: bytes, size: int, crc: int, method: int, flags: int = 0) -> bytes:
    """A zip of one member as it is written."""
    raw = name.encode()
    head = struct.pack("<5H3L2H", 20, flags, method, 0, 33, crc, len(packed), size, len(raw), 0)
    local = b"PK\3\4" + head + raw + packed
    facts = (20, 20, flags, method, 0, 33, crc, len(packed), size, len(raw), 0, 0, 0, 0, 0, 0)
    directory = b"PK\1\2" + struct.pack("<6H3L5H2L", *facts) + raw
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(local), 0)
    return local + directory + end


@refused("archive")
def a_zip_that_says_less_than_it_holds(folder: Folder) -> None:
    """A member that unpacks to more than its header says."""
    data = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = data.compress(b"x" * 1_000_000) + data.flush()
    _hand_in(folder, one_member(f"{NAME}/system.yaml", packed, 10, zlib.crc32(b"x" * 10), 8))


@refused("archive")
def members_that_overlap(folder: Folder) -> None:
    """Many names for the same bytes."""
    data = bytearray(zipped(members(folder.path)))
    first, *others = _headers(bytes(data))
    offset = struct.unpack_from("<L", data, first + 42)[0]
    for place in others:
        struct.pack_into("<L", data, place + 42, offset)
    _hand_in(folder, bytes(data))


@refused("archive")
def a_quine(folder: Folder) -> None:
    """An archive within an archive within an archive."""
    data = zipped(members(folder.path))
    for _ in range(5):
        data = zipped([(zipfile.ZipInfo(f"{NAME}.zip"), data)])
    _hand_in(folder, data)


_zip_case(
    "100,000 members",
    lambda parts: zipped(
        [*parts, *((zipfile.ZipInfo(f"{NAME}/runs/{i}.parquet"), b"") for i in range(20_000))]
    ),
)
_zip_case("no members", lambda parts: [])
_zip_case("folders alone", lambda parts: [(zipfile.ZipInfo(f"{NAME}/runs/"), b"")])
_zip_case(
    "no card",
    lambda parts: [p for p in parts if not p[0].filename.endswith(".yaml")],
    "archive",
    "card",
    "layout",
)
_zip_case(
    "no folder around it",
    lambda parts: [(zipfile.ZipInfo(i.filename.partition("/")[2]), d) for i, d in parts],
)
_zip_case("a run that lacks", lambda parts: parts[:-1], "archive", "layout", "card", "files")
_zip_case(
    "two folders",
    lambda parts: [*parts, *((zipfile.ZipInfo("b" + i.filename), d) for i, d in parts)],
)
_zip_case(
    "another folder than the card's name",
    lambda parts: [(zipfile.ZipInfo("b" + i.filename), d) for i, d in parts],
    "archive",
    "card",
)
_zip_case("half a zip", lambda parts: zipped(parts)[: len(zipped(parts)) // 2])
_zip_case("a zip without its directory", lambda parts: zipped(parts)[:-30])
_zip_case("a zip behind a program", lambda parts: b"#!/bin/sh\nexit\n" + zipped(parts))
_zip_case("a zip behind a picture", lambda parts: b"\x89PNG\r\n\x1a\n" + bytes(100) + zipped(parts))
_zip_case("a zip with junk behind it", lambda parts: zipped(parts) + b"junk")
_zip_case("two zips", lambda parts: zipped(parts) + zipped(parts[:1]))
_zip_case("a zip with a comment", lambda parts: _commented(zipped(parts)))
_zip_case("a zip of several disks", lambda parts: _on_disks(zipped(parts)))
_zip_case(
    "a damaged member",
    lambda parts: zipped(parts).replace(parts[-1][1][:20], parts[-1][1][:19] + b"\xff", 1),
)
_zip_case(
    "deflated members with a wrong size",
    lambda parts: _other(zipped(parts, zipfile.ZIP_DEFLATED), 24, 5),
)
_zip_case("a wrong checksum", lambda parts: _other(zipped(parts), 16, 0xDEADBEEF))
_zip_case("an encrypted member", lambda parts: _flagged(zipped(parts)))
_zip_case("members in bzip2", lambda parts: zipped(parts, zipfile.ZIP_BZIP2))
_zip_case("members in LZMA", lambda parts: zipped(parts, zipfile.ZIP_LZMA))
_zip_case(
    "another name in the member's own header",
    lambda parts: zipped(parts).replace(b"system.yaml", b"sYstem.yaml", 1),
)
_zip_case("an unknown method", lambda parts: _other(zipped(parts), 10, 99, "<H"))
_zip_case("an offset beyond the file", lambda parts: _other(zipped(parts), 42, 0x7FFFFFFF))
_zip_case(
    "names that differ in case alone",
    lambda parts: [*parts, *_again(parts, "README.md", "readme.md")],
)
_zip_case(
    "names that are written in two ways",
    lambda parts: [*parts, *_again(parts, "caf\u00e9", "cafe\u0301")],
)
_zip_case("an empty zip", lambda parts: b"")
_zip_case("a tar", lambda parts: _tar(parts, ""))
_zip_case("a tar.gz", lambda parts: _tar(parts, "gz"))
_zip_case("7z", lambda parts: b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100))
_zip_case("rar", lambda parts: b"Rar!\x1a\x07\x01\0" + bytes(100))
_zip_case("gzip", lambda parts: gzip.compress(zipped(parts)))
_zip_case("a page", lambda parts: b"<!doctype html>")
_zip_case("zeros", lambda parts: bytes(100_000))
_zip_case("ends of archives alone", lambda parts: (b"PK\5\6" + bytes(18)) * 5_000)


def _again(parts: Members, *names: str) -> Members:
    del parts
    return [(zipfile.ZipInfo(f"{NAME}/{name}"), b"x") for name in names]


def _commented(data: bytes) -> bytes:
    comment = b"\x1b[2J<script>"
    return data[:-2] + struct.pack("<H", len(comment)) + comment


def _on_disks(data: bytes) -> bytes:
    return data[:-18] + struct.pack("<2H", 1, 1) + data[-14:]


def _other(data: bytes, field: int, value: int, form: str = "<L") -> bytes:
    """Another value in a field of the directory's first entry."""
    changed = bytearray(data)
    struct.pack_into(form, changed, _headers(data)[0] + field, value)
    return bytes(changed)


def _flagged(data: bytes) -> bytes:
    """As if the first member were encrypted."""
    changed = bytearray(data)
    struct.pack_into("<H", changed, _headers(data)[0] + 8, 1)
    struct.pack_into("<H", changed, 6, 1)
    return bytes(changed)


def _tar(parts: Members, packed: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{packed}") as archive:
        for info, data in parts:
            member = tarfile.TarInfo(info.filename)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


# Folders.


def _folder_case(name: str, spoil: Callable[[Folder], None], *checks: str) -> None:
    add(name, checks or ("layout",), spoil)


def _instead(target: str, make: Callable[[Path], None]) -> Callable[[Folder], None]:
    """Something else in a file's place."""

    def spoil(folder: Folder) -> None:
        path = folder.path / target
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return spoil


def _moved(target: str) -> Callable[[Folder], None]:
    """A link to where the file was moved."""

    def spoil(folder: Folder) -> None:
        path, elsewhere = folder.path / target, folder.path.parent / "elsewhere"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)

    return spoil


def _hard_link(path: Path) -> None:
    other = path.parent.parent.parent / "other"
    other.write_text("secret")
    os.link(other, path)


RUN = "runs/alpha.test.parquet"
for _target in ("system.yaml", RUN, "runs", "README.md"):
    _folder_case(
        f"{_target} is a link to /etc/passwd",
        _instead(_target, lambda p: p.symlink_to("/etc/passwd")),
    )
    _folder_case(
        f"{_target} is a link to nothing", _instead(_target, lambda p: p.symlink_to("nothing"))
    )
    _folder_case(
        f"{_target} is a link to itself", _instead(_target, lambda p: p.symlink_to(p.name))
    )
    _folder_case(f"{_target} is a FIFO", _instead(_target, os.mkfifo))
for _target in ("system.yaml", RUN, "runs"):
    _folder_case(f"{_target} is a link to what was there", _moved(_target))
for _target in ("system.yaml", RUN):
    _folder_case(
        f"{_target} is a link to zeros without end",
        _instead(_target, lambda p: p.symlink_to("/dev/zero")),
    )
    _folder_case(f"{_target} is a folder", _instead(_target, Path.mkdir))
    _folder_case(f"{_target} lacks", _instead(_target, lambda p: None))
_folder_case("README.md is a hard link", _instead("README.md", _hard_link), RIGHT)
_folder_case("runs is a file", _instead("runs", lambda p: p.write_text("x")))
for _name in (
    "setup.py",
    ".env",
    "runs/x.sh",
    "runs/deep/alpha.test.parquet",
    "runs/gamma.test.parquet",
    "Runs/x",
    "runs/.hidden",
    "README.MD",
    "runs/alpha.test.trec.gz",
    "system.yml",
    "thumbs.db",
    "\x1b[2J",
    "a\nb",
):

    def _extra(folder: Folder, name: str = _name) -> None:
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("x")

    _folder_case(f"a further file {_name!r}", _extra)


@refused("layout")
def a_name_that_is_no_utf8(folder: Folder) -> None:
    (folder.path / os.fsdecode(b"\xff.txt")).write_text("x")


@refused("layout")
def a_further_folder(folder: Folder) -> None:
    (folder.path / "empty").mkdir()


@refused("layout")
def a_thousand_files(folder: Folder) -> None:
    for i in range(1_000):
        (folder.path / "runs" / f"x{i}.parquet").touch()


@refused("layout")
def a_deep_folder(folder: Folder) -> None:
    (folder.path / "/".join(["a"] * 300)).mkdir(parents=True)


@refused("layout", says="at most 2,147,483,648")
def runs_that_are_too_large_together(folder: Folder) -> None:
    card = folder.card
    (folder.path / card["runs"][0]["file"]).unlink()
    first = card["runs"].pop(0)
    for i in range(5):
        file = f"runs/alpha.test{i}.parquet"
        own = {"split": f"test{i}", "file": file, "scores": {}, "cost": {}}
        card["runs"].append(first | own)
        (folder.path / file).touch()
        os.truncate(folder.path / file, 450 << 20)
    folder.card = card


@refused("archive", says="at most 2,147,483,648")
def an_archive_that_is_too_large_for_any_runs(folder: Folder) -> None:
    data = zipped(members(folder.path))
    _hand_in(folder, data)
    os.truncate(folder.submitted, (2 << 30) + (2 << 20))


@refused("layout")
def a_sparse_run_of_10_gigabytes(folder: Folder) -> None:
    os.truncate(folder.run_file(), 10 << 30)


@refused("layout", "card")
def a_sparse_card_of_10_gigabytes(folder: Folder) -> None:
    os.truncate(folder.card_path, 10 << 30)


@refused("layout")
def a_readme_of_10_gigabytes(folder: Folder) -> None:
    (folder.path / "README.md").touch()
    os.truncate(folder.path / "README.md", 10 << 30)


@refused("card", "layout")
def a_run_by_a_path(folder: Folder) -> None:
    folder.set("runs/0/file", "../elsewhere.parquet")


@refused("card", "layout")
def a_run_by_an_absolute_path(folder: Folder) -> None:
    folder.set("runs/0/file", "/etc/passwd")


@refused("card", "layout")
def a_run_by_a_path_through_itself(folder: Folder) -> None:
    folder.set("runs/0/file", "runs/../runs/alpha.test.parquet")


@refused("card", "layout")
def a_run_of_another_ending(folder: Folder) -> None:
    folder.run_file().rename(folder.path / "runs/alpha.test.json")
    folder.set("runs/0/file", "runs/alpha.test.json")


@refused("card", "layout")
def one_file_for_two_runs(folder: Folder) -> None:
    folder.set("runs/1/file", folder.card["runs"][0]["file"])


@refused("archive")
def a_pipe_that_is_handed_in(folder: Folder) -> None:
    folder.submitted = folder.path.parent / f"{NAME}.zip"
    os.mkfifo(folder.submitted)


@refused("archive")
def zeros_without_end_that_are_handed_in(folder: Folder) -> None:
    folder.submitted = folder.path.parent / f"{NAME}.zip"
    folder.submitted.symlink_to("/dev/zero")


@refused("archive", "layout")
def a_link_to_the_folder_that_is_handed_in(folder: Folder) -> None:
    elsewhere = folder.path.rename(folder.path.parent / "elsewhere")
    folder.submitted.symlink_to(elsewhere)


@refused("card", "layout")
def a_run_twice(folder: Folder) -> None:
    facts = folder.card
    facts["runs"].append(copy.deepcopy(facts["runs"][0]))
    folder.card = facts
