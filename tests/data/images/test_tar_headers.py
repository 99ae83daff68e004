"""Members of tars: those that tarfile gives, and damage of any kind is one error."""

import io
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.data.images.archives import scan_tar
from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError

Found = list[tuple[str, int, int]]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
KINDS = [
    *[tarfile.REGTYPE] * 6,
    *(tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE),
    *(tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE),
]


def walked(path: Path) -> Found:
    # A slash at the end means nothing; tarfile takes some away and leaves others.
    return [(name.rstrip("/"), offset, size) for name, offset, size, *_ in scan_tar(path)]


def by_tarfile(path: Path) -> Found:
    with tarfile.open(path, "r:") as tar:
        regular = [m for m in tar.getmembers() if m.isreg() and not m.issparse()]
    return [(m.name.rstrip("/"), m.offset_data, m.size) for m in regular]


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data) if kind in tarfile.REGULAR_TYPES else 0
    info.linkname = "target" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info


letters = st.sampled_from("aé/. -名0")
names = st.one_of(
    st.text(letters, min_size=1, max_size=12),
    st.builds("{}/{}.jpg".format, st.text("ab/", max_size=160), st.text("xyü", max_size=99)),
    st.builds(lambda n: "x" * n, st.integers(95, 105)),
    st.builds(lambda n, m: f"{'d' * n}/{'f' * m}", st.integers(150, 156), st.integers(90, 101)),
)
entries = st.tuples(names, st.sampled_from(KINDS), st.integers(0, 1600))


@settings(max_examples=150, deadline=None)
@given(
    made=st.lists(entries, max_size=12),
    format_=st.sampled_from(FORMATS),
    mtime=st.sampled_from([0, 0.5, -3, 1 << 40]),
    common=st.sampled_from([{}, {"comment": "made by hand"}]),
    cut=st.none() | st.integers(0, 3),
)
def test_every_tar_that_tarfile_writes_gives_the_same_members(
    tmp_path_factory, made, format_, mtime, common, cut
):
    path = tmp_path_factory.mktemp("tar") / "t.tar"
    pax = {"pax_headers": common} if format_ == tarfile.PAX_FORMAT else {}
    written = 0
    with tarfile.open(path, "w", format=format_, **pax) as tar:
        for number, (name, kind, size) in enumerate(made):
            if kind == tarfile.AREGTYPE and name.endswith("/"):
                size = 0  # such a folder has no content; with one, tarfile stops without a word
            info = member(name, bytes(size), kind)
            info.mtime, info.uid = mtime, number * 700_000
            try:
                tar.addfile(info, io.BytesIO(b"\xab" * size))
                written += 1
            except ValueError:  # a name or number too long for this format
                continue
    raw = path.read_bytes()
    if cut is not None:  # without some of the zero blocks at the end
        path.write_bytes(raw[: len(raw.rstrip(b"\0")) // 512 * 512 + 512 * (cut + 1)])
    if pax.get("pax_headers") and not written:
        with pytest.raises(InputError, match="damaged"):  # a global header alone
            walked(path)
        return
    assert walked(path) == by_tarfile(path)


def many(path: Path, count: int, format_: int = tarfile.USTAR_FORMAT, prefix: str = "") -> Path:
    with path.open("wb") as file:
        for i in range(count):
            info = member(f"{prefix}images/{i:06d}.jpg", b"x" * (i % 1500))
            info.mtime = 0.5 if format_ == tarfile.PAX_FORMAT else 0
            file.write(info.tobuf(format_) + b"x" * info.size + bytes(-info.size % 512))
        file.write(bytes(1024))
    return path


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("prefix", ["", "./", "d" * 120 + "/"])
def test_members_of_all_formats_in_folders_of_long_names(tmp_path, format_, prefix):
    path = many(tmp_path / "t.tar", 60, format_, prefix)
    assert walked(path) == by_tarfile(path)
    store = ImageStore([path])
    plain = prefix.removeprefix("./")
    for i in range(60):
        assert store.read(f"{plain}images/{i:06d}.jpg") == b"x" * i
    assert not store.exists(f"{plain}images/000060.jpg")


def test_thousands_of_members(tmp_path):
    path = many(tmp_path / "t.tar", 8_200)
    assert walked(path) == by_tarfile(path)
    store = ImageStore([path])
    for i in (0, 4_095, 4_096, 4_097, 8_191, 8_192, 8_199):
        assert store.read(f"images/{i:06d}.jpg") == b"x" * (i % 1500)
    assert not store.exists("images/008200.jpg")


def test_names_that_no_path_asks_for_do_not_hide_their_neighbours(tmp_path):
    path = tmp_path / "t.tar"
    odd = [
        "/abs.jpg",
        "../up.jpg",
        "a/../b.jpg",
        "a//b.jpg",
        "./c.jpg",
        "a/./d.jpg",
        ".hid.jpg",
        ".//g.jpg",
    ]
    with path.open("wb") as file:
        for name in [*odd, "plain.jpg", "a/.e.jpg", "f.jpg/", "\udcff.jpg"]:
            data = name.encode("utf-8", "surrogateescape")
            file.write(member(name, data).tobuf(tarfile.GNU_FORMAT, errors="surrogateescape"))
            file.write(data + bytes(-len(data) % 512))
        file.write(bytes(1024))
    store = ImageStore([path])
    for name in (
        "a/b.jpg",
        "c.jpg",
        "a/d.jpg",
        ".hid.jpg",
        "plain.jpg",
        "a/.e.jpg",
        "f.jpg",
        "g.jpg",
    ):
        assert store.exists(name), name
    assert store.read("a/b.jpg") == b"a//b.jpg"
    assert not any(store.exists(name) for name in ("abs.jpg", "up.jpg", "b.jpg"))


def header(name: str = "a.jpg", size: bytes = b"00000000005\0", kind: bytes = b"0") -> bytes:
    raw = bytearray(member(name, b"", kind).tobuf(tarfile.USTAR_FORMAT))
    raw[124:136] = size
    return resum(raw)


def resum(raw: bytearray) -> bytes:
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


BODY = b"12345".ljust(512, b"\0")
WIDE = b"\x80" + (5).to_bytes(11, "big")


@pytest.mark.parametrize("size", [WIDE, b"5\0".ljust(12, b"x"), b" 5".ljust(12), b"000000000005"])
@pytest.mark.parametrize("kind", [b"0", b"\0", b"7"])
def test_sizes_as_other_programs_write_them(tmp_path, size, kind):
    path = tmp_path / "t.tar"
    path.write_bytes(header(size=size, kind=kind) + BODY + header("b") + BODY + bytes(1024))
    assert walked(path) == by_tarfile(path) == [("a.jpg", 512, 5), ("b", 1536, 5)]


def test_checksums_as_other_programs_write_them(tmp_path):
    path = tmp_path / "t.tar"
    raw = bytearray(header("ü"))
    unsigned = int(raw[148:154], 8)
    signed = unsigned - 2 * 256
    for field in (b"%07o\0" % unsigned, b" %5o\0 " % unsigned, b"%06o\0 " % signed):
        raw[148:156] = field
        path.write_bytes(bytes(raw) + BODY + bytes(1024))
        assert walked(path) == by_tarfile(path) == [("ü", 512, 5)]


def test_the_times_of_incremental_gnu_archives_are_no_name(tmp_path):
    raw = bytearray(member("a.jpg", b"12345").tobuf(tarfile.GNU_FORMAT))
    raw[345:357] = b"14723456712\0"
    path = tmp_path / "t.tar"
    path.write_bytes(resum(raw) + BODY + bytes(1024))
    assert walked(path) == [("a.jpg", 512, 5)]


def test_sparse_files_are_passed_over(tmp_path):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        for at in range(0, 60 << 16, 2 << 16):  # more pieces than one header holds
            file.seek(at)
            file.write(b"data")
    (tmp_path / "plain.jpg").write_bytes(b"12345")
    path = tmp_path / "t.tar"
    for format_ in ("oldgnu", "gnu", "pax"):
        command = ["tar", "--sparse", f"--format={format_}", "-cf", path, "sparse.jpg", "plain.jpg"]
        subprocess.run(command, cwd=tmp_path, check=True)
        assert [(name, size) for name, _, size in walked(path)] == [("plain.jpg", 5)]
        assert walked(path) == by_tarfile(path)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    text = b""
    for key, value in records:
        size = len(key) + len(value) + 3
        while size != len(b"%d" % size) + len(key) + len(value) + 3:
            size += 1
        text += b"%d %s=%s\n" % (size, key, value)
    head = header("PaxHeader", b"%011o\0" % len(text), kind)
    return head + text + bytes(-len(text) % 512)


def test_pax_headers_override_path_and_size(tmp_path):
    path = tmp_path / "t.tar"
    long = b"n" * 300 + "名\n=x.jpg".encode()
    path.write_bytes(
        pax((b"path", b"all"), kind=b"g")
        + pax((b"size", b"5"), (b"path", long))
        + header("short", b"00000000000\0")
        + BODY
        + header("b")
        + BODY
        + bytes(1024)
    )
    assert walked(path) == [(long.decode(), 2560, 5), ("all", 3584, 5)]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (header(size=b"-0000000005\0") + BODY, "negative size"),
        (header(size=b"\xff" * 12) + BODY, "negative size"),
        (header(size=b"77777777777\0") + BODY, "ends after the file"),
        (header(size=b"\x80" + b"\xff" * 11) + BODY, "ends after the file"),
        (header(size=b"00000000z05\0") + BODY, "invalid header"),
        (header() + BODY + header()[:300], "truncated header at offset 1024"),
        (header() + BODY + b"\0" * 256 + b"x" * 256, "bad checksum at offset 1024"),
        (bytes(header()[:300]) + b"?" + header()[301:] + BODY, "bad checksum at offset 0"),
        (header(size=b"%011o\0" % (2 << 20), kind=b"L") + bytes(3 << 20), "a header of 2,097,152"),
        (pax((b"size", b"5")), "offset 0"),
        (pax((b"size", b"-5")) + header() + BODY, "offset 0"),
        (header(size=b"00000000011\0", kind=b"x") + b"99 path=x\n".ljust(512, b"\0"), "offset 0"),
        (header(size=b"00000000011\0", kind=b"x") + b"0 path=xx".ljust(512, b"\0"), "offset 0"),
    ],
)
def test_damage_is_one_clear_error(tmp_path, raw, message):
    path = tmp_path / "t.tar"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=f"the tar file is damaged: .*{message}") as caught:
        walked(path)
    assert str(path) in str(caught.value)


def test_damage_far_inside_names_its_place(tmp_path):
    path = many(tmp_path / "t.tar", 2_000)
    raw = bytearray(path.read_bytes())
    at = raw.find(b"images/001500.jpg")
    raw[at] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=f"bad checksum at offset {at}"):
        walked(path)
    path.write_bytes(raw[: at - 700])
    with pytest.raises(InputError, match=r"images/00149\d\.jpg' ends after the file"):
        walked(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_give_members_or_the_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tar") / "t.tar"
    body = pax((b"path", b"p" * 120), (b"mtime", b"1.5")) + header() + BODY
    body += header("long", b"00000000005\0", b"L") + b"name\0".ljust(512, b"\0") + header() + BODY
    raw = bytearray(header() + BODY + body + bytes(512))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
        block = at // 512 * 512
        raw[at] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()) and raw[block + 257 : block + 262] == b"ustar":
            raw[block : block + 512] = resum(raw[block : block + 512])
    path.write_bytes(raw[: data.draw(st.just(len(raw)) | st.integers(0, len(raw)))])
    try:
        found = walked(path)
    except InputError as error:
        assert "damaged" in str(error)
        return
    for _, offset, size in found:
        assert 0 <= size <= path.stat().st_size - offset


def test_a_member_of_more_than_eight_gigabytes_is_walked_over(tmp_path):
    path, large = tmp_path / "t.tar", 9 << 30
    with path.open("wb") as file:
        file.write(header("large", b"\x80" + struct.pack(">3xQ", large)))
        file.seek(large, 1)
        file.write(header("b") + BODY + bytes(1024))
    assert walked(path) == [("large", 512, large), ("b", large + 1024, 5)]
