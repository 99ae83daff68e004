"""How files begin: nothing that decodes is refused by its first bytes, and error pages are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile_images import FAULTY, SOUND, picture

from m2kr.data.images.decode import (
    ENOUGH,
    FORMATS,
    UndecodableImage,
    looks_like,
    may_be_image,
    open_rgb,
)


@pytest.mark.parametrize("name", SOUND)
def test_what_decodes_may_be_an_image(name):
    assert may_be_image(SOUND[name][0][:ENOUGH])


@pytest.mark.parametrize("format_", FORMATS)
def test_all_formats_that_are_read_may_be_images(format_):
    assert may_be_image(picture(format_)[:ENOUGH])


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (FAULTY["page"][0], "a web page"),
        (b"\xef\xbb\xbf\r\n <HTML lang=en>", "a web page"),
        (FAULTY["drawing"][0], "drawing"),
        (b"<svg xmlns='x'/>", "drawing"),
        (b'{"error": 404}', "JSON"),
        (b"%PDF-1.4", "PDF"),
        (FAULTY["postscript"][0], "none of the image formats"),
        (b"\x1aE\xdf\xa3 webm", "none of the image formats"),
        (b"", "none of the image formats"),
    ],
)
def test_what_is_no_image_is_told(start, words):
    assert not may_be_image(start[:ENOUGH])
    assert words in looks_like(start)


@given(st.binary(max_size=64))
def test_what_is_refused_does_not_decode(data):
    if not may_be_image(data[:ENOUGH]):
        with pytest.raises(UndecodableImage):
            open_rgb(data)
