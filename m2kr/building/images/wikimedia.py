"""Where Wikimedia has an image: the address of a file, and of its thumbnails.

Sources: mediawiki.org, "Common thumbnail sizes" (since 2025 their servers refuse other widths, now
with HTTP 400); MediaWiki's rules for the names of thumbnails, which for file names of more than 160
bytes leave the name out. Thumbnails may also come from ``thumb.wikimedia.org``, by a redirect.
"""

import re
from urllib.parse import unquote_to_bytes, urlsplit

from m2kr.errors import UsageError

DOMAIN = "wikimedia.org"
WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)
# For what has no pixels of its own, if no width is asked for.
DRAWING_WIDTH = 500

_LONG_NAME = 160  # bytes
_FILE = re.compile(
    r"(?P<site>/[a-z]+/[a-z-]+)(?P<thumb>/thumb)?"
    r"(?P<place>/[0-9a-f]/[0-9a-f]{2}/)(?P<name>[^/]+)(?(thumb)/(?P<form>[^/]+))"
)
# Ending of a file -> what its thumbnails' names have before the width, and at the end.
_FORMS = {
    "jpg": ("", ""),
    "jpeg": ("", ""),
    "png": ("", ""),
    "gif": ("", ""),
    "webp": ("", ".png"),
    "bmp": ("", ".png"),
    "svg": ("", ".png"),
    "xcf": ("", ".png"),
    "tif": ("lossy-page1-", ".jpg"),
    "tiff": ("lossy-page1-", ".jpg"),
    "pdf": ("page1-", ".jpg"),
    "djvu": ("page1-", ".jpg"),
}
# No reader of images opens these themselves.
_DRAWINGS = {"svg", "xcf", "pdf", "djvu"}


def standard_width(width: int) -> int:
    """The smallest width that thumbnails have and that is no less than asked for.

    Raises:
        UsageError: there is none.
    """
    for standard in WIDTHS:
        if 0 < width <= standard:
            return standard
    raise UsageError(
        f"Wikimedia has no thumbnails {width} pixels wide",
        expected=f"1 to {WIDTHS[-1]}; the next of {', '.join(map(str, WIDTHS))} is taken",
    )


def thumbnail(url: str, width: int) -> str | None:
    """The address of a file's thumbnail.

    Args:
        url: Of a file, or of another thumbnail of it: ``…/wikipedia/commons/a/ab/NAME``.
        width: One of `WIDTHS`. A file less wide has no such thumbnail, unless it is a drawing.

    Returns:
        None if the address is none of a file, or of one without thumbnails, such as a sound.
    """
    parts = urlsplit(url)
    found = _FILE.fullmatch(parts.path)
    form = found and _FORMS.get(_ending(found["name"]))
    if not found or not form:
        return None
    name = found["name"]
    short = name
    if len(unquote_to_bytes(name)) > _LONG_NAME:
        short = f"thumbnail.{_ending(name)}"
    file = f"{found['site']}/thumb{found['place']}{name}"
    return f"{parts.scheme}://{parts.netloc}{file}/{form[0]}{width}px-{short}{form[1]}"


def addresses(url: str, width: int | None) -> tuple[str, ...]:
    """Where to look for an image, in order.

    Args:
        url: Its address in the data, of a file or a thumbnail.
        width: Wanted, in pixels; None for what the data has. Drawings (SVG, PDF …) are taken as
            thumbnails in any case, of 500 pixels if nothing else is asked for.

    Returns:
        The thumbnail's, if one is to be had, and the file's, if readers of images open such files.
    """
    host = (urlsplit(url).hostname or "").lower()
    if url.startswith("http:") and (host == DOMAIN or host.endswith(f".{DOMAIN}")):
        url = f"https:{url.removeprefix('http:')}"  # to which they redirect every time
    parts = urlsplit(url)
    found = _FILE.fullmatch(parts.path)
    if found is None:
        return (url,)
    file = f"{parts.scheme}://{parts.netloc}{found['site']}{found['place']}{found['name']}"
    drawing = _ending(found["name"]) in _DRAWINGS
    if width is None and found["thumb"]:
        # Old data has thumbnails of widths that are no longer served.
        own = re.search(r"(?:^|-)(\d{1,4})px-", found["form"])
        width = int(own[1]) if own and 0 < int(own[1]) <= WIDTHS[-1] else None
    if width is None and not drawing:
        return (file,)
    small = thumbnail(url, standard_width(width or DRAWING_WIDTH))
    if small is None:
        return (file,)
    return (small,) if drawing else (small, file)


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()
