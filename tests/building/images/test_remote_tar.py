"""A tar on a server by an offset index that one user made: fetched members, and indexes of other archives."""

import gzip
import hashlib
import io
import random
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.faulty_server import FOREVER, Fault, FaultyServer

from m2kr.building.fetch.retry import Policy
from m2kr.building.images.from_archives import fetch_members
from m2kr.building.images.remote_archive import RemoteTar
from m2kr.building.images.remote_file import RemoteFile, WholeOnlyError
from m2kr.building.images.shard_writer import ShardWriter
from m2kr.building.images.tar_index import index_remote_tar, index_tar
from m2kr.data.images.store import ImageStore
from m2kr.data.images.tar_offsets import TarOffsets
from m2kr.errors import CheckError, InputError, M2KRError, MissingError

QUICK = Policy(attempts=3, backoff=0.01, read_timeout=5)
LONG = "long/" * 40 + "日本.jpg"
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def pictures(count: int = 200) -> dict[str, bytes]:
    draw = random.Random(7)
    return {f"01/oven_{i:08d}.jpg": draw.randbytes(draw.randrange(1, 20_000)) for i in range(count)}


FILES = pictures()


def packed(files: dict[str, bytes], format_: int = tarfile.GNU_FORMAT, dot: str = "./") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(dot + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


BODY = packed(FILES)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({"/shard01.tar": BODY}) as server:
        yield server


def local(folder: Path, body: bytes = BODY) -> Path:
    path = folder / "shard01.tar"
    path.write_bytes(body)
    return path


def made(folder: Path, body: bytes = BODY) -> Path:
    """An index of these bytes."""
    index = folder / "shard01.tar.index.parquet"
    index_tar(local(folder, body), index)
    return index


def fetched(archive: RemoteTar, names: list[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    got: dict[str, bytes] = {}
    faults: dict[str, str] = {}
    archive.fetch(names, got.__setitem__, lambda f: faults.setdefault(f.name, f.rule))
    return got, faults


def test_wanted_members_cost_little_more_than_themselves(server, tmp_path):
    index = made(tmp_path)
    assert index.stat().st_size < 20_000
    wanted = list(FILES)[::7]
    archive = RemoteTar(index, [server.url("/shard01.tar")], policy=QUICK)
    size = sum(len(FILES[name]) for name in wanted)
    got, faults = fetched(
        archive, [*wanted, "01/none.jpg", "../up.jpg", "./" + wanted[0], "\ud800"]
    )
    assert got == {name: FILES[name] for name in wanted}
    unsafe = dict.fromkeys(["../up.jpg", "./" + wanted[0], "\ud800"], "unsafe name")
    assert faults == {"01/none.jpg": "not in the archive"} | unsafe
    assert server.sent <= size + 1023 * len(wanted) + 512
    # All of it comes in a few requests.
    before = len(server.requests)
    everything, _ = fetched(archive, list(FILES))
    assert everything == FILES
    assert len(server.requests) - before < 8


def test_the_index_that_one_made_locally_and_another_made_of_the_server_are_equal(server, tmp_path):
    ours, theirs = made(tmp_path), tmp_path / "remote.parquet"
    parts = RemoteFile([server.url("/shard01.tar")], policy=QUICK)
    assert index_remote_tar(parts, theirs) == len(FILES)
    assert pq.read_table(ours).equals(pq.read_table(theirs))
    facts = TarOffsets(theirs).facts
    assert (facts.name, facts.size) == ("shard01.tar", len(BODY))
    assert facts.sha256 == hashlib.sha256(BODY).hexdigest()
    assert facts.url == server.url("/shard01.tar")
    assert server.sent == len(BODY) + 512
    digest, name = (tmp_path / "remote.parquet.sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256(theirs.read_bytes()).hexdigest(), "remote.parquet")
    again = tmp_path / "again.parquet"
    index_tar(tmp_path / "shard01.tar", again)
    assert again.read_bytes() == ours.read_bytes()


@pytest.mark.parametrize("format_", FORMATS, ids=["ustar", "gnu", "pax"])
def test_every_format_of_tar(tmp_path, format_):
    files = {"a.jpg": b"a" * 700, "empty.jpg": b"", "b/ü.jpg": b"b" * 512}
    files |= {} if format_ == tarfile.USTAR_FORMAT else {LONG: b"c" * 5}
    body = packed(files, format_)
    index = made(tmp_path, body)
    with FaultyServer({"/t.tar": body}) as server:
        got, faults = fetched(RemoteTar(index, [server.url("/t.tar")]), list(files))
        assert (got, faults) == (files, {})
        index_remote_tar(RemoteFile([server.url("/t.tar")]), tmp_path / "r.parquet")
    assert pq.read_table(index).equals(pq.read_table(tmp_path / "r.parquet"))


def test_links_folders_and_names_that_climb_out_are_not_entered(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name in ("../up.jpg", "/abs.jpg", "x\ny.jpg", "caf\udce9.jpg", "ok.jpg", "ok.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"old" if name != "ok.jpg" else b"new"))
    index = made(tmp_path, out.getvalue())
    assert pq.read_table(index)["name"].to_pylist() == ["ok.jpg"] * 2
    with FaultyServer({"/t.tar": out.getvalue()}) as server:
        assert fetched(RemoteTar(index, [server.url("/t.tar")]), ["ok.jpg"]) == (
            {"ok.jpg": b"new"},
            {},
        )


def test_into_the_store_and_on_after_a_failure(server, tmp_path):
    wanted = {name.removeprefix("01/"): name for name in FILES}
    index = made(tmp_path)
    faults: list[object] = []
    url = server.url("/shard01.tar")
    server.fail("/shard01.tar", Fault(), Fault(truncate=500_000), Fault(status=500))
    with ShardWriter(tmp_path / "store") as store:
        done = fetch_members(RemoteTar(index, [url], policy=QUICK), wanted, store, faults.append)
        assert (done.added, done.faults) == (len(FILES), 0)
        size = sum(map(len, FILES.values()))
        assert server.sent <= size + 1023 * len(FILES) + 512
        again = fetch_members(RemoteTar(index, [url], policy=QUICK), wanted, store, faults.append)
        assert (again.there, again.added, again.received) == (len(FILES), 0, 0)
    images = ImageStore([tmp_path / "store"])
    assert all(images.read(name) == FILES[member] for name, member in wanted.items())


def test_an_index_of_another_archive_is_refused(server, tmp_path):
    index = made(tmp_path)
    swapped = bytearray(BODY)
    at = BODY.index(b"oven_00000100")
    swapped[at + 12 : at + 13] = b"9"
    server.files |= {"/longer.tar": BODY + bytes(512), "/swapped.tar": bytes(swapped)}
    none = "does not belong to this archive"
    with pytest.raises(CheckError, match=f"{none}: it has {len(BODY) + 512:,} bytes"):
        RemoteTar(index, [server.url("/longer.tar")]).open()
    with pytest.raises(
        CheckError, match=f"{none}: the header at byte .* not that of '01/oven_00000100"
    ):
        fetched(RemoteTar(index, [server.url("/swapped.tar")]), list(FILES))
    index_remote_tar(RemoteFile([server.url("/shard01.tar")]), tmp_path / "r.parquet")
    server.files["/shard01.tar"] = bytes(swapped)
    with pytest.raises(CheckError, match=f"{none}: its ETag is"):
        RemoteTar(tmp_path / "r.parquet", [server.url("/shard01.tar")]).open()


def test_a_packed_tar_and_a_server_without_ranges_say_what_a_download_costs(server, tmp_path):
    server.files["/t.tar.gz"] = gzip.compress(BODY, 0)
    size = len(server.files["/t.tar.gz"])
    index = made(tmp_path)
    for refused in (
        lambda: RemoteTar(index, [server.url("/t.tar.gz")]).open(),
        lambda: index_remote_tar(RemoteFile([server.url("/t.tar.gz")]), tmp_path / "x.parquet"),
    ):
        with pytest.raises(
            WholeOnlyError, match=f"a full download is {size:,} bytes in 1 file"
        ) as caught:
            refused()
        assert "gunzip -k 't.tar.gz'" in str(caught.value)
    server.fail("/shard01.tar", Fault(ranges=False), times=FOREVER)
    with pytest.raises(WholeOnlyError, match=f"{len(BODY):,} bytes"):
        RemoteTar(index, [server.url("/shard01.tar")]).open()
    assert not (tmp_path / "x.parquet").exists()


def test_a_tar_that_is_cut_short_is_not_indexed(server, tmp_path):
    server.files |= {"/cut.tar": BODY[:100_000], "/text.tar": b"hello " * 500}
    for path in ("/cut.tar", "/text.tar"):
        with pytest.raises(InputError, match="tar file is damaged"):
            index_remote_tar(RemoteFile([server.url(path)]), tmp_path / "x.parquet")
        with pytest.raises(InputError, match="tar file is damaged"):
            index_tar(local(tmp_path, server.files[path]), tmp_path / "x.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard01.tar"]


def no_checksum(index: Path) -> None:
    index.with_name(index.name + ".sha256").unlink()


def other_checksum(index: Path) -> None:
    index.with_name(index.name + ".sha256").write_text("0" * 64 + "  x")


def cut_short(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-20])


def gone(index: Path) -> None:
    index.unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (no_checksum, MissingError, "the checksum of an index is not there"),
        (other_checksum, InputError, "the index of the tar is damaged"),
        (cut_short, InputError, "the index of the tar is damaged"),
        (gone, MissingError, "the index of the tar is not there"),
    ],
)
def test_an_index_travels_with_its_checksum(
    server, tmp_path, spoil: Callable[[Path], None], error: type[M2KRError], match: str
):
    index = made(tmp_path)
    spoil(index)
    with pytest.raises(error, match=match):
        RemoteTar(index, [server.url("/shard01.tar")]).open()
    assert not server.requests


def test_indexes_that_lie_are_one_error(server, tmp_path):
    index = made(tmp_path)
    table = pq.read_table(index)
    footer = pq.read_metadata(index).metadata

    def told(column: str, row: int, value: object) -> None:
        values = table[column].to_pylist()
        values[row] = value
        number = table.schema.get_field_index(column)
        field = table.schema.field(number)
        changed = table.set_column(number, field, [pa.array(values, field.type)])
        pq.write_table(changed.replace_schema_metadata(footer), index)
        digest = hashlib.sha256(index.read_bytes()).hexdigest()
        index.with_name(index.name + ".sha256").write_text(digest)

    def use() -> None:
        fetched(RemoteTar(index, [server.url("/shard01.tar")]), list(FILES))

    told("name", 0, table["name"][0].as_py())
    use()
    for column, value in (
        ("offset", -5),
        ("size", 1 << 62),
        ("size", -1),
        ("offset", 1 << 62),
        ("size", 9**7),
    ):
        told(column, 3, value)
        with pytest.raises(InputError, match="members overlap, or end behind the archive"):
            use()
    told("header", 3, 5)
    with pytest.raises(CheckError, match="does not belong"):
        use()
    told("size", 3, 0)
    use()
    names = pa.array([b"\x80"] * len(table), pa.binary()).view(pa.string())
    no_text = table.set_column(0, table.schema.field(0), names)
    pq.write_table(no_text.replace_schema_metadata(footer), index)
    with pytest.raises(InputError, match="the index is damaged"):
        list(TarOffsets(index, checksum=False).batches())
    pq.write_table(table.drop_columns(["size"]), index)
    with pytest.raises(InputError, match="no index of a tar"):
        TarOffsets(index, checksum=False)


def test_damaged_indexes_never_raise_anything_but_our_errors(tmp_path):
    index = made(tmp_path, packed(dict(list(FILES.items())[:5])))
    whole = index.read_bytes()
    flips = st.lists(
        st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=5
    )
    outcomes = set()

    @settings(max_examples=150, deadline=None)
    @given(flips, st.integers(0, len(whole)) | st.just(len(whole)))
    def check(changes: list[tuple[int, int]], cut: int) -> None:
        raw = bytearray(whole)
        for at, value in changes:
            raw[at] = value
        index.write_bytes(raw[:cut])
        try:
            for batch in TarOffsets(index, checksum=False).batches():
                batch.to_pylist()
            outcomes.add("read")
        except M2KRError as error:
            assert str(index) in str(error)
            outcomes.add("refused")

    check()
    assert "refused" in outcomes


def test_a_member_larger_than_an_image_is_a_fault(server, tmp_path):
    archive = RemoteTar(made(tmp_path), [server.url("/shard01.tar")], most=10_000)
    got, faults = fetched(archive, list(FILES))
    assert set(faults.values()) == {"too large"}
    assert got == {name: data for name, data in FILES.items() if len(data) <= 10_000}


def test_a_tar_in_parts(server, tmp_path):
    index = made(tmp_path)
    cuts = [0, 100_001, 900_000, len(BODY)]
    urls = []
    for number, (start, end) in enumerate(pairwise(cuts), 1):
        server.files[f"/shard01.tar.{number:03d}"] = BODY[start:end]
        urls.append(server.url(f"/shard01.tar.{number:03d}"))
    assert fetched(RemoteTar(index, urls), list(FILES)) == (FILES, {})


def test_a_sparse_or_huge_header_is_no_member(tmp_path):
    out = packed({"a.jpg": b"x"})
    raw = bytearray(out)
    raw[124:136] = b"\x80" + struct.pack(">3xQ", 1 << 50)
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    with pytest.raises(InputError, match="tar file is damaged"):
        index_tar(local(tmp_path, bytes(raw)), tmp_path / "x.parquet")
    shutil.rmtree(tmp_path)
