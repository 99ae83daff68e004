"""The image store, from outside: every kind of root, hostile files and paths, policies, sharing."""

import gzip
import hashlib
import io
import multiprocessing
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2kr.data.images import roots
from m2kr.data.images.store import ImageStore, black_image, clean_path
from m2kr.errors import InputError, M2KRError, MissingError, UsageError

NAMES = [f"{folder}photo {i}.png" for i, folder in enumerate(("", "a/", "a/b/", "ü/", "z/" * 40))]


def picture(seed: int, size: tuple[int, int] = (7, 5), format_: str = "PNG") -> bytes:
    pixels = random.Random(seed).randbytes(size[0] * size[1] * 3)
    out = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(out, format_)
    return out.getvalue()


FILES = {name: picture(i) for i, name in enumerate(NAMES)}


def make_folder(at: Path) -> Path:
    for name, data in FILES.items():
        (at / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (at / "folder" / name).write_bytes(data)
    return at / "folder"


def make_zip(at: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(at / "photos.zip", "w", method) as archive:
        archive.writestr("a/", b"")
        for name, data in FILES.items():
            archive.writestr(name, data)
    return at / "photos.zip"


def make_deflated(at: Path) -> Path:
    return make_zip(at, zipfile.ZIP_DEFLATED)


def make_zip64(at: Path) -> Path:
    """What a zip above 4 GB looks like: sizes and offsets in 64-bit fields."""
    body, directory, wide = b"", b"", 0xFFFFFFFF
    for name, data in FILES.items():
        raw, crc = name.encode(), zlib.crc32(data)
        extra = struct.pack("<2H3Q", 1, 24, len(data), len(data), len(body))
        versions = (45, 0x0800, 0, 0, 0x21, crc)
        sizes = (len(data), len(data), len(raw), 0)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *versions, *sizes) + raw + data
        tail = (wide, wide, len(raw), len(extra), 0, 0, 0, 0, wide)
        head = struct.pack("<4s7H", b"PK\1\2", 45, *versions[:5], 0)[:16]
        directory += head + struct.pack("<3L5H2L", crc, *tail) + raw + extra
    n, size, start = len(FILES), len(directory), len(body)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, n, n, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, wide, wide, 0)
    (at / "photos.zip").write_bytes(body + directory + end64 + locator + end)
    with zipfile.ZipFile(at / "photos.zip") as archive:  # the standard library agrees
        assert {i.filename: archive.read(i) for i in archive.infolist()} == FILES
    return at / "photos.zip"


def make_zip_parts(at: Path) -> Path:
    raw = make_deflated(at).read_bytes()
    for number, start in enumerate(range(0, len(raw), 300), 1):
        (at / f"photos.zip.{number:03d}").write_bytes(raw[start : start + 300])
    (at / "photos.zip").unlink()
    return at / "photos.zip.001"


def make_tar(at: Path, format_: int = tarfile.PAX_FORMAT, dot: str = "./") -> Path:
    with tarfile.open(at / "photos.tar", "w", format=format_) as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(dot + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return at / "photos.tar"


def make_gnu_tar(at: Path) -> Path:
    return make_tar(at, tarfile.GNU_FORMAT, "")


def table() -> pa.Table:
    return pa.table({"img_path": list(FILES), "bytes": pa.array(FILES.values(), pa.binary())})


def make_parquet(at: Path) -> Path:
    pq.write_table(table(), at / "photos.parquet", row_group_size=2)
    return at / "photos.parquet"


def make_dataset_parquet(at: Path) -> Path:
    rows = [{"bytes": data, "path": name} for name, data in FILES.items()]
    pq.write_table(pa.table({"image": rows, "label": range(len(rows))}), at / "photos.parquet")
    return at / "photos.parquet"


def make_arrow_file(at: Path) -> Path:
    with pa.ipc.new_file(at / "photos.arrow", table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return at / "photos.arrow"


def make_arrow_stream(at: Path) -> Path:
    with pa.ipc.new_stream(at / "photos.arrow", table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return at / "photos.arrow"


MAKERS = [
    make_folder,
    make_zip,
    make_deflated,
    make_zip64,
    make_zip_parts,
    make_tar,
    make_gnu_tar,
    make_parquet,
    make_dataset_parquet,
    make_arrow_file,
    make_arrow_stream,
]
every_root = pytest.mark.parametrize("make", MAKERS, ids=lambda m: m.__name__[5:])


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


def test_the_first_root_that_has_an_image_wins(tmp_path):
    archive = make_zip(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo 0.png").write_bytes(picture(99))
    store = ImageStore([tmp_path / "mine", archive])
    assert store.read("photo 0.png") == picture(99)
    assert store.read("a/photo 1.png") == FILES["a/photo 1.png"]
    assert ImageStore([archive, tmp_path / "mine"]).read("photo 0.png") == FILES["photo 0.png"]


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


# Policies


def test_missing_error_names_roots_coverage_and_examples(tmp_path):
    root = make_folder(tmp_path)
    store = ImageStore([root])
    with pytest.raises(MissingError) as caught:
        store.require([*NAMES, "gone/1.png", "gone/2.png", "gone/3.png", "gone/4.png"])
    text = str(caught.value)
    assert str(root) in text
    assert "5 of 9 images found (55.6%)" in text
    assert "'gone/1.png', 'gone/2.png', 'gone/3.png'" in text
    assert "gone/4.png" not in text
    with pytest.raises(MissingError, match=r"gone/1\.png"):
        store.open("gone/1.png")
    assert store.missing_count == 0


def test_black_and_skip_are_counted(tmp_path):
    black = ImageStore([make_folder(tmp_path)], missing="black")
    image = black.open("gone.png")
    assert image is not None
    assert (image.size, image.mode, image.getcolors()) == (
        (336, 336),
        "RGB",
        [(336 * 336, (0, 0, 0))],
    )
    assert image.tobytes() == black_image().tobytes()
    black.open("gone.png")
    assert black.missing_count == 2
    assert black.require(["gone.png", NAMES[0]]).found == 1
    with pytest.raises(MissingError):
        black.read("gone.png")

    skip = ImageStore([tmp_path / "folder"], missing="skip")
    assert skip.open("gone.png") is None
    assert skip.open(NAMES[0]) is not None
    assert skip.missing_count == 1
    with pytest.raises(UsageError, match="one of error, black, skip"):
        ImageStore([tmp_path], missing="grey")  # type: ignore[arg-type]


def test_no_roots_say_so():
    assert ImageStore([]).coverage([None]).total == 0
    with pytest.raises(MissingError, match="none was given"):
        ImageStore([]).open("cat.jpg")


# Hostile paths and files


@pytest.mark.parametrize(
    "path",
    (
        *("../x.png", "a/../../x", "/etc/passwd", "", ".", "./", "C:/x.png", "a\\b.png", "a\0b"),
        *("http://host/x.png", "\ud800.png", ".."),
    ),
)
def test_unsafe_paths_are_refused(tmp_path, path):
    (tmp_path / "x.png").write_bytes(picture(1))
    store = ImageStore([make_folder(tmp_path)], missing="black")
    for use in (store.open, store.read, store.exists, store.sha256):
        with pytest.raises(InputError, match="image path"):
            use(path)


@given(st.text())
def test_clean_path_never_climbs_out(path):
    try:
        clean = clean_path(path)
    except InputError:
        return
    assert not Path(clean).is_absolute()
    assert ".." not in Path(clean).parts
    assert clean_path(clean) == clean


def test_very_long_and_odd_names_are_simply_absent(tmp_path):
    store = ImageStore([make_folder(tmp_path)])
    assert not store.exists("x" * 5000)
    assert not store.exists("photo 0.png/inside")
    os.mkfifo(tmp_path / "folder/pipe.png")
    assert not store.exists("pipe.png")


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


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_truncated_and_garbage_images_name_root_and_path(tmp_path, format_):
    data = picture(3, (120, 90), format_)
    (tmp_path / "cut.img").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.img").write_bytes(b"<html>404 Not Found</html>")
    (tmp_path / "empty.img").write_bytes(b"")
    store = ImageStore([tmp_path], missing="black")
    for name in ("cut.img", "text.img", "empty.img"):
        with pytest.raises(InputError, match="can't be decoded") as caught:
            store.open(name)
        assert f"{tmp_path}/{name}" in str(caught.value)
    assert store.missing_count == 0


def test_size_is_checked_before_decoding(tmp_path):
    header = struct.pack(">2L5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">L", 13) + chunk + struct.pack(">L", zlib.crc32(chunk))
    )
    (tmp_path / "bomb.png").write_bytes(png)
    (tmp_path / "big.png").write_bytes(picture(1, (40, 30)))
    with pytest.raises(InputError):
        ImageStore([tmp_path]).open("bomb.png")
    with pytest.raises(InputError, match="1,200 pixels") as caught:
        ImageStore([tmp_path], max_pixels=1199).open("big.png")
    assert "big.png" in str(caught.value)
    assert ImageStore([tmp_path], max_pixels=1200).open("big.png") is not None


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(InputError, match="no image format known"):
        ImageStore([tmp_path]).open("x.jpg")


def test_exif_orientation_is_left_as_stored(tmp_path):
    image = Image.new("RGB", (30, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    opened = ImageStore([tmp_path]).open("turned.jpg")
    assert opened is not None
    assert opened.size == (30, 20)


def test_other_modes_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "1", "LA", "I;16"):
        name = f"{mode.replace(';', '')}.png"
        Image.new(mode, (3, 2)).save(tmp_path / name)
        opened = ImageStore([tmp_path]).open(name)
        assert opened is not None
        assert opened.mode == "RGB"


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


# Indexes


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
