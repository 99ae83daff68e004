"""What the first bytes of a file say: whether it may be an image that readers take."""

import re

ENOUGH = 16  # bytes that decide

# The formats of `m2kr.data.images.decode.FORMATS`, by how their files begin.
_MAGIC = re.compile(
    rb"\xff\xd8\xff"  # JPEG, MPO
    rb"|\x89PNG\r\n\x1a\n"
    rb"|GIF8[79]a"
    rb"|RIFF....WEBP"
    rb"|BM"
    rb"|II[*+]\0|MM\0[*+]"  # TIFF, BigTIFF
    rb"|....ftyp(?:avif|avis|mif1|msf1)"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51"  # JPEG 2000
    rb"|P[1-7]\s",
    re.DOTALL,
)


def may_be_image(start: bytes | bytearray) -> bool:
    """Whether a file that begins so may be an image; only decoding tells whether it is one.

    Args:
        start: Its first `ENOUGH` bytes, or all of a shorter file.
    """
    return _MAGIC.match(start) is not None


def looks_like(start: bytes) -> str:
    """What a file that is no image seems to be, in a few words for people."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page"
    if text.startswith((b"<?xml", b"<svg")):
        return "XML, maybe a drawing (SVG)"
    if text.startswith(b"%pdf"):
        return "a PDF file"
    if text.startswith((b"{", b"[")):
        return "JSON"
    return "none of the image formats that are read"
