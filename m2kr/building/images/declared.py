"""Where the images of a source can be had, as its builder file declares it in ``IMAGE_ARCHIVES``."""

import re
from dataclasses import dataclass
from typing import Literal

from m2kr.building.fetch.hub import file_url

HUB = "hub:"


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
        return [[address(each) for each in mirrors] for mirrors in self.files]


def address(text: str) -> str:
    """An http(s) address; one that names a file of the hub is resolved as the environment says."""
    if not text.startswith(HUB):
        return text
    repo, _, rest = text.removeprefix(HUB).partition("@")
    revision, _, path = rest.partition("/")
    return file_url(repo, revision, path)
