"""Every kind of image root: read in place, shared, indexed once, damaged."""

import gzip
import hashlib
import io
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.image_roots import (
    FILES,
    NAMES,
    every_root,
    make_arrow_file,
    make_deflated,
    make_parquet,
    make_tar,
    make_zip,
    make_zip64,
    picture,
)

from m2kr.data.images import roots
from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError, M2KRError, MissingError


@every_root
def test_a_root_gives_the_bytes_and_the_picture(tmp_path, make):
    store = ImageStore([make(tmp_path)])
    for name, data in FILES.items():
        assert store.exists(name)
        assert store.read(name) == data
        assert store.read("./" + name.replace("/", "//")) == data
        assert store.sha256(name) == hashlib.sha256(data).hexdigest()
        image = store.open(name)
        assert image is not None
        assert image.mode == "RGB"
        assert image.tobytes() == Image.open(io.BytesIO(data)).tobytes()
    assert not store.exists("a")
    assert not store.exists("no/such.png")
    assert store.sha256("no/such.png") is None
    coverage = store.coverage([*NAMES, *NAMES, None, "x1", "x2", "x3", "x4"])
    assert (coverage.total, coverage.found, coverage.missing) == (9, 5, ("x1", "x2", "x3"))


@every_root
def test_a_store_travels_to_threads_and_processes(tmp_path, make):
    store = ImageStore([make(tmp_path)])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store.read, NAMES * 20)) == list(FILES.values()) * 20
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read(NAMES[1]) == FILES[NAMES[1]]
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(store.read, NAMES * 4)) == list(FILES.values()) * 4


def test_a_worker_forked_while_a_thread_indexes_does_not_hang(tmp_path):
    """The child must not wait for a lock that a thread of its parent holds."""
    from m2kr.data.images.index import locked

    store = ImageStore([make_tar(tmp_path)])
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked():
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        context = multiprocessing.get_context("fork")
        child = context.Process(target=store.read, args=(NAMES[0],))
        child.start()
        child.join(10)
        assert child.exitcode == 0
    finally:
        done.set()
        thread.join()


def test_a_folder_inside_an_archive_is_a_root(tmp_path):
    for archive in (make_zip(tmp_path), make_tar(tmp_path)):
        store = ImageStore([archive / "a"])
        assert store.read("b/photo 2.png") == FILES["a/b/photo 2.png"]
        assert not store.exists("photo 0.png")


def test_of_two_members_with_one_name_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for data in (picture(1), picture(2)):
            info = tarfile.TarInfo("x.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert ImageStore([tmp_path / "t.tar"]).read("x.png") == picture(2)


def test_identity_changes_with_content_and_names_the_folder_inside(tmp_path):
    path = make_tar(tmp_path)
    before = ImageStore([path]).identity()
    assert before == ((str(path), path.stat().st_size, path.stat().st_mtime_ns),)
    assert ImageStore([path / "a"]).identity()[0][0] == str(path / "a")
    os.utime(path, ns=(1, 1))
    assert ImageStore([path]).identity() != before


def test_archive_members_that_climb_out_or_are_links_cannot_be_asked_for(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name in ("../up.png", "/abs.png", "ok.png"):
            info = tarfile.TarInfo(name)
            info.size = len(FILES[NAMES[0]])
            archive.addfile(info, io.BytesIO(FILES[NAMES[0]]))
        for name, kind in (("soft.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
    store = ImageStore([tmp_path / "t.tar"])
    names = ("ok.png", "up.png", "abs.png", "soft.png", "hard.png")
    assert [n for n in names if store.exists(n)] == ["ok.png"]

    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("../up.png", b"x")
        link = zipfile.ZipInfo("soft.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("ok.png", b"x")
    store = ImageStore([tmp_path / "z.zip"])
    assert [n for n in names if store.exists(n)] == ["ok.png"]


def test_zip_bombs_encryption_and_damage_are_refused(tmp_path):
    path = make_deflated(tmp_path)
    clean = path.read_bytes()
    at = clean.find(b"PK\1\2")

    def changed(offset: int, value: bytes) -> ImageStore:
        path.write_bytes(clean[: at + offset] + value + clean[at + offset + len(value) :])
        return ImageStore([path])

    with zipfile.ZipFile(path) as archive:
        first = next(i for i in archive.infolist() if not i.is_dir())
    skipped = clean.find(b"PK\1\2", at + 1)  # the first entry is a folder
    at = skipped
    cases = {
        "encrypted": (8, b"\1\0"),
        "packed by method 14": (10, struct.pack("<H", 14)),
        "size or checksum": (16, b"\0\0\0\0"),
        "bytes": (24, struct.pack("<L", 1 << 30)),
        "local header": (42, struct.pack("<L", 3)),
    }
    for message, (offset, value) in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            changed(offset, value).read(first.filename)
        assert first.filename in str(caught.value)


def test_a_deflate_bomb_stops_at_the_size_it_declares(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", b"\0" * 50_000_000)
    raw = bytearray((tmp_path / "b.zip").read_bytes())
    struct.pack_into("<L", raw, raw.find(b"PK\1\2") + 24, 1000)
    (tmp_path / "b.zip").write_bytes(raw)
    with pytest.raises(InputError, match="size or checksum"):
        ImageStore([tmp_path / "b.zip"]).read("x.png")


@pytest.mark.parametrize("make", [make_zip, make_zip64, make_tar, make_parquet, make_arrow_file])
def test_damaged_files_never_raise_anything_but_our_errors(tmp_path, make):
    path = make(tmp_path)
    whole = path.read_bytes()
    flips = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)
    refused = []

    @settings(max_examples=80, deadline=None)
    @given(st.integers(0, len(whole)) | st.just(len(whole)), flips)
    def check(cut: int, changes: list[tuple[int, int]]) -> None:
        raw = bytearray(whole)
        for at, value in changes:
            raw[at] = value
        path.write_bytes(raw[:cut])
        for name in NAMES:
            try:
                ImageStore([path]).read(name)
            except M2KRError as error:
                assert str(path) in str(error)
                refused.append(name)

    check()
    assert refused


def test_a_tar_cut_short_is_refused_before_use(tmp_path):
    path = make_tar(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2 - 700])
    with pytest.raises(InputError, match="tar file is damaged") as caught:
        ImageStore([path]).exists(NAMES[0])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"x" * 2000, mtime=0), "gunzip -k"),
        (b"7z\xbc\xaf" + bytes(600), "7z x"),
        (b"Rar!" + bytes(600), "unrar x"),
        (b'{"img_path": "cat.jpg"}', "no image root"),
        (b"", "no image root"),
    ],
)
def test_files_without_random_access_say_what_to_do(tmp_path, content, message):
    (tmp_path / "photos.tar.gz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        ImageStore([tmp_path / "photos.tar.gz"])


def test_roots_that_are_not_there_or_have_no_images(tmp_path):
    with pytest.raises(MissingError, match="does not exist"):
        ImageStore([tmp_path / "nowhere"])
    pq.write_table(pa.table({"img_path": ["a"], "label": [1]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="'img_path' and a binary column"):
        ImageStore([tmp_path / "t.parquet"]).exists("a")
    path = make_zip(tmp_path)
    store = ImageStore([path])
    path.unlink()
    with pytest.raises(MissingError, match=r"photos\.zip"):
        store.exists(NAMES[0])


def test_the_index_is_kept_and_read_back(tmp_path, monkeypatch):
    path, cache = make_tar(tmp_path), tmp_path / "cache"
    assert ImageStore([path], cache=cache).read(NAMES[2]) == FILES[NAMES[2]]
    (kept,) = cache.iterdir()

    def again(path):
        pytest.fail("scanned again")
        yield

    monkeypatch.setattr(roots, "scan_tar", again)
    assert ImageStore([path], cache=cache).read(NAMES[2]) == FILES[NAMES[2]]
    assert ImageStore([path / "a"], cache=cache).read("photo 1.png") == FILES[NAMES[1]]
    monkeypatch.undo()
    kept.write_bytes(b"rubbish")
    assert ImageStore([path], cache=cache).read(NAMES[3]) == FILES[NAMES[3]]
    os.utime(path, ns=(5, 5))
    assert ImageStore([path], cache=cache).exists(NAMES[0])
    assert len(list(cache.iterdir())) == 2


def test_an_unwritable_cache_costs_nothing_but_time(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    store = ImageStore([make_zip(tmp_path)], cache=tmp_path / "cache")
    assert store.read(NAMES[0]) == FILES[NAMES[0]]


def test_large_archives_are_indexed_in_bounded_memory(tmp_path):
    """20,000 members; the index may take some 46 bytes each, not a Python object."""
    path = tmp_path / "many.tar"
    data = b"x" * 100
    with path.open("wb") as file:
        for i in range(20_000):
            info = tarfile.TarInfo(f"images/{i:08d}.jpg")
            info.size = len(data)
            file.write(info.tobuf() + data + bytes(412))
        file.write(bytes(1024))
    code = f"""
from m2kr.data.images.store import ImageStore
from m2kr.evaluation.result import peak_memory
store = ImageStore([{str(path)!r}])
before = peak_memory()
assert store.read("images/00019999.jpg") == b"x" * 100
assert not store.exists("images/00020000.jpg")
print(peak_memory() - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 9_000_000  # tarfile's own list would take 20 MB
