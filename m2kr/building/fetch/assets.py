"""The upstream files that a builder declares."""

import re
from dataclasses import dataclass
from typing import Literal

from m2kr.building.fetch.hub import file_url

_HUB = "hub:"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the rows of a file look like, for a look at its first bytes (``--probe``).

    Attributes:
        kind: ``tsv`` (no quoting, no header), ``csv`` (quoted, with a header), ``jsonl``, ``json``
            (one object or list).
        names: Columns of a tsv or csv; keys that a JSON record must have.
        delimiter: Of a csv.
        member: Name of the member, in an archive; its first one if empty.
        path: Key of a JSON object under which the list of records is; empty if the document itself
            is the list, or the object whose values are the records.
    """

    kind: Literal["tsv", "csv", "jsonl", "json"]
    names: tuple[str, ...]
    delimiter: str = ","
    member: str = ""
    path: str = ""

    def __str__(self) -> str:
        names = ", ".join(self.names)
        where = f" in a list {self.path!r}" if self.path else ""
        return {
            "tsv": f"lines of {len(self.names)} cells ({names}), separated by tabs",
            "csv": f"a header with the columns {names}, and rows",
            "jsonl": f"lines of JSON objects with the keys {names}",
            "json": f"JSON objects with the keys {names}{where}",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Asset:
    """One upstream file.

    Attributes:
        name: Path under the downloads folder, such as ``mini/photos.zip``; assets of equal name are
            one file, fetched once.
        urls: Where to get it, mirrors after the first. ``http(s)://``, or ``package:module/path`` for
            a file that travels inside an installed package.
        size: Bytes, if published.
        about: Bytes, roughly, where the exact size isn't published; for people.
        sha256: Hex digest, if published.
        md5: Hex digest, if that is what upstream publishes.
        git_blob: Git's id of the JSON file in a zip, if that is known of its content.
        licence: Terms of the file.
        manual: How to place the file by hand, where no URL works without a login, or not always.
        images: The file or folder holds images and becomes an image root of the built source.
        gate: What must be accepted or signed before it can be had, if anything.
        shape: Its rows, where they can be looked at.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    about: int | None = None
    sha256: str | None = None
    md5: str | None = None
    git_blob: str | None = None
    licence: str = ""
    manual: str = ""
    images: bool = False
    gate: str = ""
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class ImageArchive:
    """An archive on a server that holds images of a source.

    Attributes:
        name: Below which its files and index are kept, such as ``coco/train2014.zip``.
        files: Addresses of each part, in order; several of one part are mirrors. ``http(s)://…``, or
            ``hub:OWNER/DATASET@REVISION/PATH`` for a file of the hub, or of ``HF_ENDPOINT``.
        kind: ``zip`` is read in part; so is ``tar``, with an index of it; ``tar.gz`` can't be.
        about: Bytes, roughly.
        holds: A regular expression that the ``img_path`` of its images matches wholly; all if empty.
        strip: What its names lack at the beginning of an ``img_path``.
        folder: What its names then have there.
        gate: What must be accepted before it can be had, if anything.
        ask: It is so large for what it gives that it is only used where it is named with ``--from``.
    """

    name: str
    files: tuple[tuple[str, ...], ...]
    kind: Literal["zip", "tar", "tar.gz"]
    about: int
    holds: str = ""
    strip: str = ""
    folder: str = ""
    gate: str = ""
    ask: bool = False

    def may_hold(self, path: str) -> bool:
        """Whether it is for the image of this path."""
        return not self.holds or re.fullmatch(self.holds, path) is not None

    def inside(self, path: str) -> str:
        """The name inside of what is called ``path`` outside."""
        return self.folder + path.removeprefix(self.strip)

    def addresses(self) -> list[list[str]]:
        """The addresses of each part, those on the hub resolved."""
        return [[_resolved(text) for text in mirrors] for mirrors in self.files]


def _resolved(text: str) -> str:
    """An http(s) address; one that names a file of the hub is resolved as the environment says."""
    if not text.startswith(_HUB):
        return text
    repo, _, rest = text.removeprefix(_HUB).partition("@")
    revision, _, path = rest.partition("/")
    return file_url(repo, revision, path)
