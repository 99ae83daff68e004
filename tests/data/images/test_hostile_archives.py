"""Hostile archives on this machine, as image roots and as upstream files: one error, in bounded memory."""

import io
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from m2kr.building.formats.archives import members
from m2kr.building.formats.limits import Limits
from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError, MissingError

FILES = {f"p/{i}.jpg": bytes([65 + i]) * (i * 30 + 20) for i in range(8)}
EVIL = ("../up.jpg", "/etc/passwd", "p/../../up.jpg", "C:/x.jpg", "a\nb.jpg")


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, data, method)
    return bytearray(path.read_bytes())


def entry(raw: bytes, name: str) -> int:
    """Where a member's entry in the directory begins."""
    at = raw.index(b"PK\1\2")
    while raw[at + 46 : at + 46 + len(name)] != name.encode():
        at = raw.index(b"PK\1\2", at + 4)
    return at


def taken(raw: bytearray, at: int) -> None:
    raw[at + 42 : at + 46] = raw[entry(raw, "p/1.jpg") + 42 :][:4]


def running_over(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 20, struct.unpack_from("<L", raw, at + 20)[0] + 90)


def small(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 24, 3)


def large(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 24, 5000)


def huge(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 24, 0xFFFFFF00)


def outside(raw: bytearray, at: int) -> None:
    struct.pack_into("<L", raw, at + 42, 1 << 30)


LIES = {
    taken: "shares its bytes with another member",
    running_over: "shares its bytes with another member",
    small: "size or checksum",
    large: "size or checksum",
    huge: "4,294,967,040 bytes",
    outside: "local header is broken",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("cached", [False, True])
def test_a_zip_member_that_lies_is_an_error_of_its_own(tmp_path, lie: Callable[..., None], cached):
    path = tmp_path / "a.zip"
    raw = zipped(path, FILES)
    lie(raw, entry(raw, "p/5.jpg"))
    path.write_bytes(raw)
    cache = tmp_path / "cache" if cached else None
    ImageStore([path], cache=cache).exists("p/0.jpg")
    images = ImageStore([path], cache=cache)
    with pytest.raises(InputError, match=LIES[lie]) as caught:
        images.read("p/5.jpg")
    assert f"{path}/p/5.jpg" in str(caught.value)
    for name, data in FILES.items():
        if name != "p/5.jpg" and (lie, name) != (taken, "p/1.jpg"):
            assert images.read(name) == data


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_an_upstream_zip_with_such_a_member_is_refused(tmp_path, lie: Callable[..., None]):
    path = tmp_path / "a.zip"
    raw = zipped(path, FILES)
    lie(raw, entry(raw, "p/5.jpg"))
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        for member in members(path, Limits(member_bytes=1 << 30)):
            member.read()
    assert str(path) in str(caught.value)


def kernel_bomb(path: Path, names: int) -> None:
    """Many names for one member that unpacks a thousandfold."""
    raw = zipped(path, {"0.jpg": b"\0" * 1_000_000})
    at = raw.index(b"PK\1\2")
    head, local = bytes(raw[at : at + 46]), raw[:at]
    directory = b"".join(head + b"%05d" % i for i in range(names))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, names, names, len(directory), len(local), 0)
    path.write_bytes(local + directory + end)


def test_a_bomb_of_overlapping_members_does_not_go_off(tmp_path):
    path = tmp_path / "bomb.zip"
    kernel_bomb(path, 500)
    images = ImageStore([path])
    for name in ("00000", "00250", "00499"):
        with pytest.raises(InputError, match="shares its bytes"):
            images.read(name)
    # Half a gigabyte of nothing in 27 kB.
    with pytest.raises(InputError):
        for member in members(path):
            with member.open() as file:
                while file.read(1 << 16):
                    pass


def test_names_that_climb_out_and_links_cannot_be_asked_for(tmp_path):
    zipped(tmp_path / "a.zip", dict.fromkeys(EVIL, b"x") | FILES)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (dict.fromkeys(EVIL, b"x") | FILES).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"link{number}.jpg")
            info.type, info.linkname = kind, "../../etc/passwd"
            tar.addfile(info)
    for root in (tmp_path / "a.zip", tmp_path / "a.tar"):
        images = ImageStore([root])
        assert all(images.read(name) == data for name, data in FILES.items())
        assert not any(images.exists(f"link{number}.jpg") for number in range(4))
        for name in EVIL[:4]:
            with pytest.raises(InputError, match="the image path"):
                images.exists(name)
        assert not images.exists("up.jpg")
        assert not images.exists("etc/passwd")
        # The engine takes such an archive for hostile as a whole.
        with pytest.raises(InputError, match="unsafe name"):
            list(members(root))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "a.zip"]


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 1, 700])
def test_tar_members_that_lie_about_their_size_are_one_error(tmp_path, size):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    raw = bytearray(path.read_bytes())
    head = raw.index(b"p/5.jpg")
    raw[head + 124 : head + 136] = b"\x80" + size.to_bytes(11, "big")
    raw[head + 148 : head + 156] = b" " * 8
    raw[head + 148 : head + 156] = b"%06o\0 " % sum(raw[head : head + 512])
    path.write_bytes(raw)
    with pytest.raises(InputError, match="tar file is damaged"):
        ImageStore([path]).exists("p/0.jpg")
    with pytest.raises(InputError):
        for member in members(path):
            member.read()


ENTRIES = textwrap.dedent(
    """
    import io, struct, sys, tarfile
    from pathlib import Path
    from m2kr.data.images.store import ImageStore
    from m2kr.evaluation.result import peak_memory

    kind, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    with path.open("wb") as file:
        if kind == "zip":
            local = struct.pack("<4s5H3L2H", b"PK\\3\\4", 45, 0, 0, 0, 33, 0, 0, 0, 8, 0)
            head = struct.pack("<4s6H3L5H2L", b"PK\\1\\2", 45, 45, 0, 0, 0, 33, 0, 0, 0, 8, *[0] * 5, 0)
            for i in range(count):
                file.write(local + b"%08d" % i)
            start = file.tell()
            for i in range(count):
                file.write(head[:42] + struct.pack("<L", i * 38) + b"%08d" % i)
            end = (0, 0, 0xFFFF, 0xFFFF, file.tell() - start, start, 0)
            file.write(struct.pack("<4s4H2LH", b"PK\\5\\6", *end))
        else:
            block = bytearray(tarfile.TarInfo("00000000").tobuf(tarfile.USTAR_FORMAT))
            base = sum(block) - sum(block[:8]) - sum(block[148:156]) + 8 * 32
            for i in range(count):
                block[:8] = b"%08d" % i
                block[148:156] = b"%06o\\0 " % (base + sum(block[:8]))
                file.write(block)
            file.write(bytes(1024))
    before = peak_memory()
    images = ImageStore([path])
    assert images.read("%08d" % (count - 1)) == b""
    assert not images.exists("%08d" % count)
    print((peak_memory() - before) // 1024)
    """
)


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("count", "most"), [(50_000, 15_000), pytest.param(1_000_000, 300_000, marks=pytest.mark.slow)]
)
def test_many_entries_cost_the_index_and_little_more(tmp_path, kind, count, most):
    command = [sys.executable, "-c", ENTRIES, kind, str(tmp_path / "many"), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(f"{kind} {count:,}: {int(done.stdout):,} kB")
    assert int(done.stdout) < most


def test_too_many_entries_are_refused_by_the_engine(tmp_path):
    zipped(tmp_path / "a.zip", FILES)
    with pytest.raises(InputError, match="more than 5 members"):
        list(members(tmp_path / "a.zip", Limits(members=5)))


def test_a_directory_too_large_for_memory_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(200 << 20)
        file.seek(0, io.SEEK_END)
        size = (200 << 20) - 4
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, 4, 0))
    with pytest.raises(InputError, match=f"its directory has {size:,} bytes"):
        list(members(path))
    with pytest.raises(InputError, match="zip file is damaged"):
        ImageStore([path]).exists("a.jpg")


def test_a_missing_middle_part_is_one_error(tmp_path):
    raw = zipped(tmp_path / "a.zip", FILES, zipfile.ZIP_STORED)
    for number, start in enumerate(range(0, len(raw), 400), 1):
        (tmp_path / f"a.zip.{number:03d}").write_bytes(raw[start : start + 400])
    assert ImageStore([tmp_path / "a.zip.001"]).read("p/5.jpg") == FILES["p/5.jpg"]
    (tmp_path / "a.zip.002").unlink()
    with pytest.raises((InputError, MissingError), match=r"\.001, \.002"):
        ImageStore([tmp_path / "a.zip.001"]).exists("p/5.jpg")
