"""The image store: several roots, missing images, paths, and what becomes of hostile files."""

import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.image_roots import FILES, NAMES, make_folder, make_zip, picture

from m2kr.data.images.store import ImageStore, black_image, clean_path
from m2kr.errors import InputError, MissingError, UsageError


def test_the_first_root_that_has_an_image_wins(tmp_path):
    archive = make_zip(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo 0.png").write_bytes(picture(99))
    store = ImageStore([tmp_path / "mine", archive])
    assert store.read("photo 0.png") == picture(99)
    assert store.read("a/photo 1.png") == FILES["a/photo 1.png"]
    assert ImageStore([archive, tmp_path / "mine"]).read("photo 0.png") == FILES["photo 0.png"]


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
