"""The one way in which the bytes of an image file become an RGB image, for readers and for checks.

The first frame of an animation is the image. EXIF orientation is left as stored, colour profiles are
not applied, transparency is dropped, and grey of more than 8 bits is cut off at 255, as Pillow's
``convert`` does and the official code with it.
"""

import io
import re

from PIL import Image, UnidentifiedImageError

# Pillow's own hard limit, so that nothing the official pipeline opens is refused.
MAX_PIXELS = 178_956_970
# Raster formats only: Pillow would also start Ghostscript for an EPS file.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
# The same, by how their files begin.
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
ENOUGH = 16  # bytes that decide

EMPTY = "an empty file"
NO_IMAGE = "no image"
DAMAGED = "a damaged image"
TOO_MANY_PIXELS = "too many pixels"
OUT_OF_MEMORY = "out of memory"


class UndecodableImage(Exception):
    """Bytes that do not become an image.

    Args:
        rule: What kind of fault, one of a few texts for ledgers.
        detail: More about this one.
    """

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(rule, detail)
        self.rule = rule
        self.detail = detail


def open_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, str]:
    """The RGB image in some bytes, wholly decoded, and the name of their format.

    Args:
        data: A whole image file.
        max_pixels: Width times height, read from the header before anything is decoded.

    Raises:
        UndecodableImage: they are too large, cut short, hostile or no image.
    """
    if not data:
        raise UndecodableImage(EMPTY, "no bytes")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            pixels = image.width * image.height
            if pixels <= max_pixels:
                return image.convert("RGB"), image.format or ""
    except UnidentifiedImageError as error:
        raise UndecodableImage(NO_IMAGE, "no image format known") from error
    except Image.DecompressionBombError as error:
        raise UndecodableImage(TOO_MANY_PIXELS, str(error)) from error
    except MemoryError as error:
        raise UndecodableImage(OUT_OF_MEMORY, "it needs more memory than it may have") from error
    except Exception as error:  # decoders fail on bad bytes in any way they like
        raise UndecodableImage(DAMAGED, f"{str(error) or type(error).__name__:.200}") from error
    raise UndecodableImage(TOO_MANY_PIXELS, f"{pixels:,} pixels, more than {max_pixels:,}")


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
