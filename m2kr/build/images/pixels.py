"""WIT's images out of Wikimedia's ``image_pixels`` files: rows of an address and 300 pixel wide image.

A file is gzip of tab-separated rows: ``image_url``, the image file in base64, ``metadata_url``. There
is no header (one is skipped, should there be). Kaggle's ``wikipedia-image-caption`` has them in
``image_data_train.tar``, and Wikimedia openly at `PARTS`, 275 GB in all. Nothing is unpacked.
"""

import binascii
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from m2kr.build.download.job import Policy
from m2kr.build.images.members import Fetched
from m2kr.build.images.names import NameSet
from m2kr.build.images.pixel_files import files
from m2kr.build.images.runs import JOBS, Fault, OnFault
from m2kr.build.images.sniff import ENOUGH, looks_like, may_be_image
from m2kr.build.images.store import Store
from m2kr.build.images.web import md5_name
from m2kr.data.image_decode import EMPTY, NO_IMAGE
from m2kr.errors import InputError
from m2kr.progress import Progress, Silent

log = logging.getLogger("m2kr.build.images")

PARTS = tuple(
    "https://analytics.wikimedia.org/published/datasets/one-off/caption_competition/training/"
    f"image_pixels/part-{number:05d}-04b253b8-db8c-4d14-a23f-3433a86841b4-c000.csv.gz"
    for number in range(200)
)
LINE = 32 << 20  # bytes of a row
NO_ROW = "a row without an image"
TOO_LONG = "a row that is too long"
NO_BASE64 = "no base64"
DAMAGED = "a damaged file"
_URL, _IMAGE = b"image_url", b"b64_bytes"
_SKIP = 1 << 20


def take_pixels(
    sources: Iterable[Path | str],
    wanted: Collection[str],
    store: Store,
    on_fault: OnFault,
    *,
    jobs: int = JOBS,
    policy: Policy | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Puts the wanted images that the store hasn't got into it, as they are in the files.

    Reading ends where all are there. After a kill, the same call reads from the beginning again and
    adds what is lacking. A damaged file costs what is behind the damage and up to 256 KiB before; the
    others are read.

    Args:
        sources: ``image_pixels`` files, folders of them, Kaggle's tar, or addresses of such files
            (`PARTS`), which are read from the server and not kept.
        wanted: Names of images: `m2kr.build.images.web.md5_name` of their addresses.
        store: Open for writing.
        on_fault: Told of rows of wanted images that have none, under the image's name, and of rows
            that are none, as ``row N``; ``archive`` is the file.
        jobs: Connections.
        policy: Timeouts and retries.
        progress: Told of the bytes of each file.

    Returns:
        ``faults`` counts what was told, not the images that are lacking; ``received`` what servers sent.

    Raises:
        MissingError: a file or folder is not there.
        InputError: a folder or tar has no such files, or an address can't be used.
        UpstreamError: an address can't be read.
        M2KRError: the store can't be written.
    """
    lacking = NameSet(name for name in wanted if not store.has(name))
    left = len(lacking)
    there, faults, received = len(wanted) - left, 0, 0

    def fault(told: Fault) -> None:
        nonlocal faults
        faults += 1
        on_fault(told)

    def asked(name: str) -> bool:
        return name in lacking and not store.has(name)

    with closing(files(sources, jobs, policy or Policy(), progress or Silent())) as every:
        for file in every if left else ():
            try:
                with file.open() as content:
                    for name, data in pixels(content, file.name, asked, fault):
                        left -= store.add(name, data)
                        if not left:
                            break
            except InputError as error:
                log.warning("%s: %s", file.name, error)
                fault(Fault(file.name, file.name, DAMAGED, error.what[:200]))
            finally:
                received += file.close()
            if not left:
                break
    store.commit()
    return Fetched(there, len(wanted) - there - left, faults, received)


def pixels(
    content: BinaryIO, where: str, asked: Callable[[str], bool], on_fault: OnFault
) -> Iterator[tuple[str, bytes]]:
    """The images of some rows that are asked for: name and file. Others are not decoded.

    One row is in memory; of one that is longer than `LINE`, its beginning. The address comes first
    and the image second, unless a header says otherwise.

    Args:
        content: Rows, inflated.
        where: The file, for faults.
        asked: Whether an image of such a name is asked for.
        on_fault: Told of rows that are none, and of images asked for that are none.

    Raises:
        InputError: the file is damaged.
    """
    url_place, image_place = 0, 1
    for number, line in _rows(content):
        if line is None:
            on_fault(Fault(where, f"row {number:,}", TOO_LONG, f"more than {LINE:,} bytes"))
            continue
        cells = line.split(b"\t")
        header = [cell.strip(b'"') for cell in cells] if number == 1 else []
        if _URL in header:
            url_place = header.index(_URL)
            image_place = header.index(_IMAGE) if _IMAGE in header else 1
            continue
        whole = len(cells) > max(url_place, image_place)
        name = _name(cells[url_place].strip(b'"')) if whole else None
        if name is None:
            found = line[:80].decode("utf-8", "backslashreplace")
            on_fault(Fault(where, f"row {number:,}", NO_ROW, f"begins with {found!r}"))
        elif asked(name):
            data = _decoded(cells[image_place])
            wrong = _wrong(data)
            if data is None or wrong is not None:
                on_fault(Fault(where, name, *(wrong or (NO_BASE64, f"row {number:,}"))))
            else:
                yield name, data


def _rows(content: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Rows by number, from 1; None for one that is too long. Empty ones are left out."""
    number = 0
    while line := content.readline(LINE + 1):
        number += 1
        whole = line.endswith(b"\n") or len(line) <= LINE
        while not whole and (more := content.readline(_SKIP)):
            whole = more.endswith(b"\n")
            line = b""
        if not line or len(line) > LINE:
            yield number, None
        elif line := line.rstrip(b"\r\n"):
            yield number, line


def _name(url: bytes) -> str | None:
    """The name of the image of an address; None if it is none."""
    if not url.startswith((b"http://", b"https://")):
        return None
    try:
        return md5_name(url.decode())
    except UnicodeDecodeError:
        return None


def _decoded(cell: bytes) -> bytes | None:
    """The file in a cell; None if there is none."""
    try:
        return binascii.a2b_base64(cell.strip(b' "'), strict_mode=True)
    except binascii.Error:
        return None


def _wrong(data: bytes | None) -> tuple[str, str] | None:
    """Rule and detail of what speaks against an image."""
    if data is None:
        return None
    if not data:
        return EMPTY, "the cell is empty"
    if not may_be_image(data[:ENOUGH]):
        return NO_IMAGE, looks_like(data[:64])
    return None
