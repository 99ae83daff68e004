"""Image files that are odd, broken or meant to harm, and what they must be taken for."""

import io
import struct
import zlib

from PIL import Image

from m2kr.building.images.check import TOO_MANY_BYTES
from m2kr.data.images import decode as rules


def picture(
    format_: str = "PNG", size: tuple[int, int] = (64, 48), mode: str = "RGB", **how
) -> bytes:
    """A picture whose content depends on its size alone."""
    image = Image.radial_gradient("L").resize(size)
    if mode in {"RGB", "RGBA", "CMYK"}:
        image = Image.merge(mode, [image, image.transpose(0), image.rotate(90), image][: len(mode)])
    out = io.BytesIO()
    image.convert(mode).save(out, format_, **how)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    crc = zlib.crc32(kind + data)
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", crc)


def png(width: int, height: int, pixels: bytes, color: int = 2, depth: int = 8) -> bytes:
    """A PNG file whose header may lie."""
    header = struct.pack(">2L5B", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    )


def animation(format_: str, frames: int, size: tuple[int, int] = (20, 10)) -> bytes:
    """The first frame is red, all others are blue."""
    first, rest = Image.new("RGB", size, "red"), Image.new("RGB", size, "blue")
    more = [rest.copy() for _ in range(frames - 1)]
    for number, frame in enumerate(more):
        frame.putpixel((number % size[0], 0), (0, 255, number % 256))
    out = io.BytesIO()
    first.save(out, format_, save_all=True, append_images=more)
    return out.getvalue()


def gif(frames: int) -> bytes:
    """Many tiny frames, written by hand: an encoder would take long."""
    head = b"GIF89a" + struct.pack("<2H3B", 2, 2, 0x80, 0, 0) + b"\xff\0\0\0\0\xff"
    frame = b"," + struct.pack("<4HB", 0, 0, 2, 2, 0) + b"\x02\x03\x04\x12\x05\0"
    return head + frame * frames + b";"


def turned() -> bytes:
    """To be shown upright by EXIF: 64 x 48 as stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("JPEG", exif=exif)


def broken_exif() -> bytes:
    """Offsets that point far outside."""
    segment = (
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\xf0\xf0\xf0\xf0" * 4
    )
    data = picture("JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


# name -> file, width, height
SOUND = {
    "jpeg": (picture("JPEG"), 64, 48),
    "progressive": (picture("JPEG", progressive=True), 64, 48),
    "cmyk": (picture("JPEG", mode="CMYK"), 64, 48),
    "grey": (picture("JPEG", mode="L"), 64, 48),
    "png": (picture(), 64, 48),
    "palette": (picture(mode="P"), 64, 48),
    "transparent palette": (picture(mode="P", transparency=0), 64, 48),
    "alpha": (picture(mode="RGBA"), 64, 48),
    "bilevel": (picture(mode="1"), 64, 48),
    "16 bit": (png(2, 1, b"\0\xff\xff\0\1", color=0, depth=16), 2, 1),
    "webp": (picture("WEBP"), 64, 48),
    "bmp": (picture("BMP"), 64, 48),
    "tiff": (picture("TIFF"), 64, 48),
    "avif": (picture("AVIF"), 64, 48),
    "one pixel": (picture(size=(1, 1)), 1, 1),
    "wide": (picture(size=(30_000, 3)), 30_000, 3),
    "turned": (turned(), 64, 48),
    "broken exif": (broken_exif(), 64, 48),
    "animated gif": (animation("GIF", 5), 20, 10),
    "animated webp": (animation("WEBP", 5), 20, 10),
    "animated png": (animation("PNG", 5), 20, 10),
    "10,000 frames": (gif(10_000), 2, 2),
}

# name -> file, rule
FAULTY = {
    "empty": (b"", rules.EMPTY),
    "page": (b"<!doctype html><html>404</html>", rules.NO_IMAGE),
    "drawing": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', rules.NO_IMAGE),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", rules.NO_IMAGE),
    "cut jpeg": (picture("JPEG", (200, 200))[:2000], rules.DAMAGED),
    "cut png": (picture(size=(200, 200))[:900], rules.DAMAGED),
    "bomb": (png(60_000, 60_000, bytes(1 << 20)), rules.TOO_MANY_PIXELS),
    "near bomb": (png(13_400, 13_400, bytes(1 << 20)), rules.TOO_MANY_PIXELS),
    "lying header": (png(9_000, 9_000, b"\0" * 1000), rules.DAMAGED),
    "text bomb": (
        picture()[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20))) + picture()[33:],
        rules.DAMAGED,
    ),
    "many bytes": (picture("BMP", (1200, 900)), TOO_MANY_BYTES),
}
