"""Hostile zips on a server: one bad member is one fault, and memory and traffic stay bounded."""

import io
import struct
import subprocess
import sys
import textwrap
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.faulty_server import FaultyServer

from m2kr.building.fetch.retry import Policy
from m2kr.building.formats.limits import Limits
from m2kr.building.images.outcome import UnavailableImage
from m2kr.building.images.remote_archive import RemoteZip
from m2kr.errors import InputError, M2KRError

QUICK = Policy(attempts=2, backoff=0.01, read_timeout=5)
FILES = {f"photos/{i}.jpg": bytes([i]) * (i * 40 + 1) for i in range(20)}


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, data, method)
    return bytearray(out.getvalue())


def central(raw: bytes, name: str) -> int:
    """Where the directory's entry of a member begins."""
    at = raw.index(b"PK\1\2")
    while raw[at + 46 : at + 46 + len(name.encode())] != name.encode():
        at = raw.index(b"PK\1\2", at + 4)
    return at


def fetched(
    raw: bytes, names: list[str], cache: Path, limits: Limits | None = None
) -> tuple[dict[str, bytes], dict[str, UnavailableImage], int]:
    """Contents and faults by name, and the bytes that the server sent."""
    got: dict[str, bytes] = {}
    faults: dict[str, UnavailableImage] = {}
    with FaultyServer({"/a.zip": bytes(raw)}) as server:
        archive = RemoteZip([server.url("/a.zip")], cache, policy=QUICK, limits=limits)
        archive.fetch(names, got.__setitem__, lambda fault: faults.setdefault(fault.name, fault))
        return got, faults, server.sent


def lies_about_size(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 24, 7)


def lies_about_stored_size(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 20, 1)


def stored_without_end(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 20, 200_000_000)


def claims_gigabytes(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 24, 0xFFFFFFF0)


def claims_a_bomb(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 24, 100 << 20)


def is_encrypted(raw: bytearray, at: int) -> None:
    raw[at + 8] |= 1


def is_packed_oddly(raw: bytearray, at: int) -> None:
    struct.pack_into("<H", raw, at + 10, 14)


def lies_elsewhere(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 42, len(raw) + 5)


def lies_in_a_neighbour(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 42, struct.unpack_from("<L", raw, at + 42)[0] - 20)


def is_another_member(raw: bytearray, at: int) -> None:
    raw[at + 42 : at + 46] = raw[central(raw, "photos/2.jpg") + 42 :][:4]


def has_rotten_bytes(raw: bytearray, at: int) -> None:
    (offset,) = struct.unpack_from("<L", raw, at + 42)
    raw[offset + 30 + 12 + 3] ^= 255


def has_no_header(raw: bytearray, at: int) -> None:
    (offset,) = struct.unpack_from("<L", raw, at + 42)
    raw[offset : offset + 4] = b"nope"


def has_an_endless_header(raw: bytearray, at: int) -> None:
    (offset,) = struct.unpack_from("<L", raw, at + 42)
    raw[offset + 26 : offset + 30] = b"\xff" * 4


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lies_about_size, "damaged"),
        (lies_about_stored_size, "damaged"),
        (stored_without_end, "overlaps another member"),
        (claims_gigabytes, "too large"),
        (claims_a_bomb, "a bomb"),
        (is_encrypted, "encrypted"),
        (is_packed_oddly, "unknown compression"),
        (lies_elsewhere, "damaged"),
        (lies_in_a_neighbour, "damaged"),
        (is_another_member, "overlaps another member"),
        (has_rotten_bytes, "damaged"),
        (has_no_header, "damaged"),
        (has_an_endless_header, "damaged"),
    ],
)
def test_a_bad_member_is_a_fault_and_the_others_come(
    tmp_path, spoil: Callable[..., None], rule: str
):
    raw = zipped(FILES)
    bad = "photos/9.jpg"
    spoil(raw, central(raw, bad))
    got, faults, sent = fetched(raw, list(FILES), tmp_path)
    assert faults[bad].rule == rule
    # Of two that share bytes nobody can tell which one lies.
    shared = {is_another_member: {"photos/2.jpg"}, lies_in_a_neighbour: {"photos/8.jpg"}}
    assert set(faults) == {bad} | shared.get(spoil, set())
    assert got == {name: data for name, data in FILES.items() if name not in faults}
    assert sent < 400_000


def test_names_that_are_no_paths_cannot_be_asked_for(tmp_path):
    evil = ["../up.jpg", "/etc/passwd", "a/../../b.jpg", "C:/x.jpg", "a\\b.jpg", "a\nb.jpg", ""]
    raw = zipped({name or "./": b"x" * 50 for name in evil} | {"./ok//fine.jpg": b"y" * 50})
    got, faults, _ = fetched(raw, [*evil, "ok/fine.jpg", "./ok//fine.jpg", "\ud800"], tmp_path)
    assert got == {"ok/fine.jpg": b"y" * 50}
    assert {fault.rule for fault in faults.values()} == {"unsafe name"}
    assert set(faults) == {*evil, "./ok//fine.jpg", "\ud800"}


def test_links_and_folders_are_no_members(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("link.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("folder")
        archive.writestr("a.jpg", b"z")
    got, faults, _ = fetched(out.getvalue(), ["link.jpg", "folder", "folder/", "a.jpg"], tmp_path)
    assert got == {"a.jpg": b"z"}
    rules = {name: fault.rule for name, fault in faults.items()}
    absent = "not in the archive"
    assert rules == {"link.jpg": absent, "folder": absent, "folder/": "unsafe name"}


def test_a_bomb_of_overlapping_members_unpacks_nothing(tmp_path):
    """A thousand names for one kernel that unpacks a thousandfold."""
    kernel = zipped({"0.jpg": b"\0" * 1_000_000})
    end = kernel.index(b"PK\1\2")
    entry = kernel[end : end + 46 + 5]
    directory = bytearray()
    for i in range(1000):
        named = entry[:46] + f"{i:05d}".encode()
        directory += named
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1000, 1000, len(directory), end, 0)
    names = [f"{i:05d}" for i in range(1000)]
    got, faults, sent = fetched(kernel[:end] + directory + tail, names, tmp_path)
    assert not got
    assert {fault.rule for fault in faults.values()} == {"overlaps another member"}
    assert sent < 200_000


def test_limits_can_be_lowered(tmp_path):
    got, faults, _ = fetched(zipped(FILES), list(FILES), tmp_path, Limits(member_bytes=400))
    assert {fault.rule for fault in faults.values()} == {"too large"}
    assert got == {name: data for name, data in FILES.items() if len(data) <= 400}


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (12, 0xFFFFFF00),  # bytes of the directory
        (16, 0xFFFFFF00),  # where it begins
        (16, 4),
        (4, 3),  # number of this disk
    ],
)
def test_end_records_that_lie_are_one_error(tmp_path, at, value):
    raw = zipped(FILES)
    struct.pack_into("<L" if at > 4 else "<H", raw, raw.rindex(b"PK\5\6") + at, value)
    with pytest.raises(InputError, match="the zip file is damaged"):
        fetched(raw, list(FILES), tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_whatever_is_broken_ends_in_faults_or_one_error(tmp_path):
    whole = zipped(FILES)
    path = "/a.zip"
    flips = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)
    outcomes = set()
    with FaultyServer() as server:

        @settings(max_examples=120, deadline=None)
        @given(st.integers(0, len(whole)) | st.just(len(whole)), flips)
        def check(cut: int, changes: list[tuple[int, int]]) -> None:
            raw = bytearray(whole)
            for at, value in changes:
                raw[at] = value
            server.files[path] = bytes(raw[:cut])
            got: dict[str, bytes] = {}
            faults: list[UnavailableImage] = []
            try:
                archive = RemoteZip([server.url(path)], tmp_path, policy=QUICK)
                archive.fetch(FILES, got.__setitem__, faults.append)
            except M2KRError as error:
                assert server.url(path) in str(error)
                outcomes.add("error")
            else:
                outcomes.update(["fault"] if faults else [])
                assert len(got) + len(faults) == len(FILES)
            assert all(FILES[name] == data for name, data in got.items())

        check()
    assert outcomes == {"error", "fault"}


@pytest.mark.parametrize(
    ("count", "most"), [(100_000, 60_000), pytest.param(1_000_000, 250_000, marks=pytest.mark.slow)]
)
def test_many_entries_take_the_index_and_little_more(tmp_path, count, most):
    code = textwrap.dedent(
        f"""
        import struct, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from pathlib import Path
        from servers.faulty_server import FaultyServer
        from m2kr.building.images.remote_archive import RemoteZip
        from m2kr.evaluation.result import peak_memory

        body = b"PK\\3\\4" + bytes(40)
        entry = struct.pack("<4s6H3L5H2L", b"PK\\1\\2", 45, 45, 0, 0, 0, 33, 0, 0, 0, 8, *[0] * 5, 0)
        directory = bytearray().join(entry + b"%08d" % i for i in range({count}))
        end = struct.pack("<4s4H2LH", b"PK\\5\\6", 0, 0, 9, 9, len(directory), len(body), 0)
        with FaultyServer({{"/a.zip": bytes(body + directory + end)}}) as server:
            del directory
            before = peak_memory()
            archive = RemoteZip([server.url("/a.zip")], Path({str(tmp_path)!r}))
            assert len(archive.open()) == {count}
            faults = []
            archive.fetch(["00000007", "7"], None, faults.append)
            assert [f.rule for f in faults] == ["overlaps another member", "not in the archive"]
            print((peak_memory() - before) // 1024)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < most, done.stdout  # kB


def test_crc_decides_even_where_sizes_are_right(tmp_path):
    raw = zipped(FILES, zipfile.ZIP_STORED)
    at = central(raw, "photos/5.jpg")
    (offset,) = struct.unpack_from("<L", raw, at + 42)
    raw[offset + 30 + 12] ^= 1
    assert zlib.crc32(FILES["photos/5.jpg"]) == struct.unpack_from("<L", raw, at + 16)[0]
    got, faults, _ = fetched(raw, list(FILES), tmp_path)
    assert [*faults] == ["photos/5.jpg"]
    assert len(got) == len(FILES) - 1
