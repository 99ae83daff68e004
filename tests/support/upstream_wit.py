"""WIT's upstream files in miniature, under their true names; those without rows have the header alone."""

import csv
import gzip
import io
from collections.abc import Callable, Mapping
from typing import Literal

from m2kr_builders import _wit

Cells = dict[str, str]
BASE = "https://upload.wikimedia.org/wikipedia/commons/"
PARTS = {"train": 10, "val": 5, "test": 5}
# The files that have rows.
FILLED = (
    "train-00000",
    "train-00004",
    "train-00009",
    "val-00000",
    "val-00003",
    "test-00001",
    "test-00004",
)


def name_of(file: str) -> str:
    """Where a file, such as ``val-00003``, is below the downloads folder."""
    part, number = file.split("-")
    return f"wit/wit_v1.{part}.all-{number}-of-{PARTS[part]:05d}.tsv.gz"


def packed(content: bytes) -> bytes:
    """The same bytes each time."""
    return gzip.compress(content, mtime=0)


def files(text: Callable[[str], bytes]) -> dict[str, bytes]:
    """Every file by its name.

    Args:
        text: Gives a fixture by its name.
    """
    header = text(f"wit/{FILLED[0]}.tsv").partition(b"\n")[0] + b"\n"
    every = [f"{part}-{number:05d}" for part, n in PARTS.items() for number in range(n)]
    return {
        name_of(file): packed(text(f"wit/{file}.tsv") if file in FILLED else header)
        for file in every
    }


def cells(number: int, image: int, **changes: str) -> Cells:
    """A row as upstream has it, every field a text."""
    return (
        dict.fromkeys(_wit.HEADER, "")
        | {
            "language": "en",
            "page_url": f"https://en.wikipedia.org/wiki/Page_{number}",
            "image_url": f"{BASE}{image}.jpg",
            "page_title": f"Page {number}",
            "hierarchical_section_title": f"Page {number}",
            "mime_type": "image/jpeg",
            "original_height": "400",
            "original_width": "300",
            "is_main_image": "true",
            "context_page_description": f"Page {number} is a page.",
        }
        | changes
    )


def tsv(rows: list[Cells], quoting: Literal[0, 1] = csv.QUOTE_MINIMAL) -> bytes:
    """The content of a file."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n", quoting=quoting)
    writer.writerow(_wit.HEADER)
    writer.writerows(row.values() for row in rows)
    return buffer.getvalue().encode()


def upstream(filled: Mapping[str, list[Cells]]) -> dict[str, bytes]:
    """All twenty files, of which some have rows."""
    names = [f"{part}-{n:05d}" for part, count in PARTS.items() for n in range(count)]
    return {name_of(name): packed(tsv(filled.get(name, []))) for name in names}
