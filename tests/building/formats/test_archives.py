"""Archives: what goes in comes out; hostile, damaged and bomb-like ones are one error."""

import gzip
import io
import random
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.building.formats.archives import members
from m2kr.building.formats.limits import Limits, is_litter
from m2kr.errors import InputError, M2KRError, MissingError, UsageError

KINDS = ["tar", "tar.gz", "zip"]
FILES = {"a.txt": b"alpha", "sub/b.bin": random.Random(1).randbytes(70_000), "sub/empty": b""}
Content = Iterable[tuple[str, bytes]]


def tar_bytes(files: Content) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_bytes(files: Content) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def pack(kind: str, files: Content) -> bytes:
    if kind == "zip":
        return zip_bytes(files)
    data = tar_bytes(files)
    return gzip.compress(data, mtime=0) if kind == "tar.gz" else data


def save(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(data)
    return path


def contents(path: Path, limits: Limits | None = None) -> list[tuple[str, bytes]]:
    """Everything there is to read in an archive."""
    found = []
    for member in members(path, limits):
        data = member.read()
        assert len(data) == member.size
        found.append((member.name, data))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_members_come_in_order_whatever_the_file_is_called(kind, tmp_path):
    path = save(tmp_path, pack(kind, FILES.items()))
    assert contents(path) == list(FILES.items())
    assert [m.name for m in members(path)] == list(FILES)  # and unread ones are skipped


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_is_a_stream(kind, tmp_path):
    text = "".join(f"line {n}\n" for n in range(50_000)).encode()
    path = save(tmp_path, pack(kind, [("t.tsv", text)]))
    for member in members(path):
        assert member.size == len(text)
        with member.open() as file:
            assert sum(1 for _ in file) == 50_000
        if kind == "tar.gz":
            with pytest.raises(UsageError, match="a second time"):
                member.open()
        else:
            assert member.read() == text


@pytest.mark.parametrize("kind", KINDS)
def test_odd_but_harmless_names_are_normalised(kind, tmp_path):
    names = ["./a", "b//c", "d/./e", "f\\g.jpg", "ünïcode/日本.jpg", "x" * 300 + "/y"]
    path = save(tmp_path, pack(kind, [(name, b"1") for name in names]))
    expected = ["a", "b/c", "d/e", "f/g.jpg", "ünïcode/日本.jpg", "x" * 300 + "/y"]
    assert [name for name, _ in contents(path)] == expected


def test_names_that_are_no_utf8_can_still_be_stored(tmp_path):
    info = tarfile.TarInfo("caf\udce9.jpg")
    path = save(
        tmp_path, info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape") + bytes(1024)
    )
    assert [m.name.encode() for m in members(path)] == [rb"caf\xe9.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_names_come_in_their_order(kind, tmp_path):
    path = save(tmp_path, pack(kind, [("a", b"old"), ("b", b""), ("./a", b"new")]))
    assert contents(path) == [("a", b"old"), ("b", b""), ("a", b"new")]


@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_passed_over(kind, tmp_path):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            archive.mkdir("d")
            archive.writestr("d/a", b"1")
    else:
        with tarfile.open(fileobj=out, mode="w:gz" if kind == "tar.gz" else "w") as tar:
            for name in (".", "d", "d/a"):
                info = tarfile.TarInfo(name)
                info.type = tarfile.REGTYPE if name == "d/a" else tarfile.DIRTYPE
                tar.addfile(info)
    assert [m.name for m in members(save(tmp_path, out.getvalue()))] == ["d/a"]


def test_a_tar_member_is_read_in_its_turn(tmp_path):
    for kind in ("tar", "tar.gz"):
        first, second = list(members(save(tmp_path, pack(kind, [("a", b"1"), ("b", b"2")]))))
        for member in (first, second):
            with pytest.raises(UsageError, match="after the next member"):
                member.open()
    (member,) = members(save(tmp_path, pack("zip", [("a", b"1")])))
    with pytest.raises(UsageError, match="after its archive was closed"):
        member.open()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/passwd", "C:/x", "c:x", "..\\x", "\\\\host\\x", "a\nb", "a/.."],
)
def test_names_that_leave_the_archive_are_refused(name, kind, tmp_path):
    path = save(tmp_path, pack(kind, [("fine", b"1"), (name, b"2")]))
    with pytest.raises(InputError, match="unsafe name") as caught:
        contents(path)
    assert str(path) in str(caught.value)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "type_",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
     tarfile.GNUTYPE_SPARSE],
)  # fmt: skip
def test_tar_links_and_devices_are_refused(type_, packed, tmp_path):
    info = tarfile.TarInfo("evil")
    info.type, info.linkname = type_, "/etc/passwd"
    data = tar_bytes([("fine", b"1")])[:1024] + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    with pytest.raises(InputError, match=r"member 'evil': a member is a link, a device"):
        contents(save(tmp_path, gzip.compress(data) if packed else data))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_zip_links_and_devices_are_refused(kind, tmp_path):
    info = zipfile.ZipInfo("evil")
    info.external_attr = (kind | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match=r"member 'evil': a member is a link or a device"):
        contents(save(tmp_path, out.getvalue()))


def test_encrypted_and_oddly_packed_zip_members_are_refused(tmp_path):
    data = bytearray(zip_bytes([("a", b"1")]))
    at = data.index(b"PK\x01\x02") + 8
    data[at] |= 1
    with pytest.raises(InputError, match="encrypted"):
        contents(save(tmp_path, bytes(data)))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", "1")
    with pytest.raises(InputError, match="compression method 14"):
        contents(save(tmp_path, out.getvalue()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_a_name_is_refused(kind, tmp_path):
    with pytest.raises(InputError, match="without a name"):
        contents(save(tmp_path, pack(kind, [("." if kind == "zip" else "./.", b"1")])))


def test_a_zip_member_shorter_than_it_says_is_refused(tmp_path):
    data = bytearray(zip_bytes([("a", b"123")]))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 5)
    with pytest.raises(InputError, match="2 bytes are missing"):
        contents(save(tmp_path, bytes(data)))


@pytest.mark.parametrize("kind", KINDS)
def test_limits_hold(kind, tmp_path):
    path = save(tmp_path, pack(kind, [("a", b"x" * 100), ("b", b"y" * 100)]))
    assert len(contents(path, Limits(members=2, member_bytes=100, total_bytes=200))) == 2
    for limits, text in (
        (Limits(members=1), "more than 1 members"),
        (Limits(member_bytes=99), "100 bytes, more than 99 in a member"),
        (Limits(total_bytes=199), "more than 199 bytes in all"),
    ):
        with pytest.raises(InputError, match=text):
            contents(path, limits)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_bombs_are_refused_read_or_not(kind, tmp_path):
    path = save(tmp_path, pack(kind, [("bomb", bytes(70 << 20))]))
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match="over 300 times"):
        contents(path)
    with pytest.raises(InputError, match="over 300 times"):
        list(members(path))
    assert len(contents(path, Limits(ratio=2000))) == 1


def test_zip_members_that_share_their_bytes_are_refused(tmp_path):
    """The quine-like bomb: a directory of many entries that all point at one stream."""
    data = zip_bytes([("a", bytes(10 << 20))])
    head, entry = data.split(b"PK\x01\x02")
    entry, end = entry.split(b"PK\x05\x06")
    count = 200
    end = end[:4] + struct.pack("<HHI", count, count, count * (len(entry) + 4)) + end[12:]
    path = save(tmp_path, head + (b"PK\x01\x02" + entry) * count + b"PK\x05\x06" + end)
    with pytest.raises(InputError, match="shares its bytes with another"):
        list(members(path))


@pytest.mark.parametrize("type_", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_header_that_fills_the_memory_is_refused(type_, tmp_path):
    info = tarfile.TarInfo("long")
    info.type, info.size = type_, 1 << 34
    with pytest.raises(InputError, match=r"a header of 17,179,869,184 bytes"):
        contents(save(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_member_of_negative_size_ends_no_loop(packed, tmp_path):
    inner = tarfile.TarInfo("a")
    inner.pax_headers = {"size": "-1024"}
    data = inner.tobuf(tarfile.PAX_FORMAT) + bytes(2048)
    with pytest.raises(InputError, match="damaged"):
        contents(save(tmp_path, gzip.compress(data) if packed else data))


@pytest.mark.parametrize(
    "data", [b"", b"<html>not found</html>", b"PK", b"PK\x03\x04rubbish", b"\x1f\x8b", bytes(100),
     b"x" * 4096,             gzip.compress(b"one,two\n" * 900, mtime=0)],
)  # fmt: skip
def test_what_is_no_archive_is_said_to_be_none(data, tmp_path):
    path = save(tmp_path, data)
    with pytest.raises(InputError, match="damaged or cut short") as caught:
        contents(path)
    assert str(path) in str(caught.value)
    assert caught.value.fix


def test_an_archive_that_is_not_there(tmp_path):
    with pytest.raises(MissingError, match="no such archive"):
        contents(tmp_path / "gone.zip")
    with pytest.raises(InputError, match="cannot be read"):
        contents(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_cut_archive_never_looks_whole(kind, data, tmp_path_factory):
    whole = pack(kind, FILES.items())
    # Of the zeros that end a tar file one block says that it is whole.
    last = len(whole) if kind != "tar" else len(whole.rstrip(b"\0")) // 512 * 512 + 512
    cut = data.draw(st.integers(0, last - 1))
    path = save(tmp_path_factory.mktemp("cut"), whole[:cut])
    with pytest.raises(InputError):
        contents(path)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_one_error_or_harmless_and_never_a_traceback(kind, data, tmp_path_factory):
    files = [("a", b"alpha" * 50), ("long" * 40, b"beta"), ("sub/c", bytes(600))]
    damaged = bytearray(pack(kind, files))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = save(tmp_path_factory.mktemp("damage"), bytes(damaged))
    try:
        found = contents(path)
    except M2KRError as error:
        assert str(path) in str(error)
    else:
        assert len(found) <= 4


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_flipped_bit_in_packed_data_is_found(kind, tmp_path):
    data = bytearray(pack(kind, [("a", random.Random(5).randbytes(50_000))]))
    data[25_000] ^= 1
    with pytest.raises(InputError, match="damaged"):
        contents(save(tmp_path, bytes(data)))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    files=st.lists(
        st.tuples(
            st.from_regex(r"[a-zé日 ._-]{1,150}(/[a-z]{1,9}){0,2}", fullmatch=True), st.binary()
        )
    )
)
def test_any_files_come_out_as_they_went_in(kind, files, tmp_path_factory):
    files = [(f"x{name}".rstrip(), data) for name, data in files]
    expected = [(name, data) for name, data in files if "/../" not in name]
    expected = list(dict(expected).items())
    path = save(tmp_path_factory.mktemp("any"), pack(kind, expected))
    assert contents(path) == expected


def test_a_long_tar_is_streamed_in_constant_memory(tmp_path):
    path = tmp_path / "many.tar.gz"
    header = tarfile.TarInfo("images/0123456789abcdef.jpg").tobuf(tarfile.USTAR_FORMAT)
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        for _ in range(20):
            file.write(squeeze.compress(header * 1000))
        file.write(squeeze.compress(bytes(1024)) + squeeze.flush())
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from m2kr.building.formats.archives import members
        from m2kr.evaluation.result import peak_memory
        before = peak_memory()
        print(sum(1 for _ in members(Path(sys.argv[1]))))
        print((peak_memory() - before) // 1024)
        """
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, kilobytes = map(int, done.stdout.split())
    assert count == 20_000
    assert kilobytes < 20_000


LITTER = st.sampled_from(
    [
        "__MACOSX/._a.json",
        "__MACOSX/deep/er/data.json",
        "._data.json",
        "x/._data.json",
        ".DS_Store",
        "x/.DS_Store",
        "Thumbs.db",
        "x/desktop.ini",
        "__macosx/a.csv",
        "./._a",
        ".AppleDouble/a.json",
    ]
)
# Names that only look like it.
DATA = st.sampled_from(
    [
        "data.json",
        "x/data.json",
        "_.json",
        ".data.json",
        "a._b.json",
        "MACOSX/a.json",
        "x__MACOSX/a",
        "__MACOSX",
        "x/.DS_Store.json",
        "thumbs.db.json",
        "..._a.json",
        "._/a.json",
    ]
)


@given(
    st.sampled_from(KINDS),
    st.lists(LITTER | DATA, unique=True, max_size=6),
)
@settings(max_examples=60)
def test_what_a_file_manager_leaves_is_no_data(
    tmp_path_factory: pytest.TempPathFactory, kind: str, names: list[str]
) -> None:
    files = [(name, name.encode()) for name in names]
    path = save(tmp_path_factory.mktemp("litter"), pack(kind, files))
    got = [(m.name, m.read()) for m in members(path)]
    litter = {name for name in names if is_litter(name.removeprefix("./"))}
    assert got == [(name, content) for name, content in files if name not in litter]


@given(LITTER, DATA)
def test_litter_is_known_by_its_name_alone(litter: str, data: str) -> None:
    assert is_litter(litter)
    assert not is_litter(data)
