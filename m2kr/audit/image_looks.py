"""What an image looks like, in a few numbers: exact and near duplicates are found by them."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from m2kr.data.images.decode import UndecodableImage, open_rgb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Of two images that look alike: bits of the hash that differ, and the mean difference of their 8 x 8
# thumbnails (0 to 255). The hash alone holds all flags of three stripes for one.
MOST_BITS = 4
MOST_DIFFERENCE = 6
_ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)


@dataclass(frozen=True, slots=True)
class ImageLook:
    """An image's bytes and looks.

    Attributes:
        sha256: Of its file.
        gradient: 64 bits: whether each of 8 x 8 cells is darker than the one to its right.
        thumbnail: 8 x 8 x 3 bytes.
        fault: Why it can't be decoded; the looks are 0 then.
    """

    sha256: str
    gradient: int = 0
    thumbnail: bytes = b""
    fault: str = ""

    @property
    def blank(self) -> bool:
        """Whether all of the image has nearly one colour."""
        cells = np.frombuffer(self.thumbnail, np.uint8).reshape(-1, 3)
        return bool(len(cells)) and int((cells.max(0) - cells.min(0)).max()) <= 2


def look_of(data: bytes) -> ImageLook:
    """The looks of an image file."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = open_rgb(data)[0]
    except UndecodableImage as fault:
        return ImageLook(digest, fault=fault.detail)
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(grey[:, :-1] < grey[:, 1:])
    thumbnail = image.resize((8, 8), Image.Resampling.BOX).tobytes()
    return ImageLook(digest, int.from_bytes(bits.tobytes(), "big"), thumbnail)


def alike(looks: "Sequence[ImageLook]") -> "NDArray[np.int64]":
    """Pairs (n, 2) of places whose images look alike and are not equal to the byte."""
    usable = [i for i, look in enumerate(looks) if not look.fault]
    if len(usable) < 2:
        return np.empty((0, 2), np.int64)
    bits = np.array([looks[i].gradient for i in usable], np.uint64)[:, None].view(np.uint8)
    small = np.frombuffer(b"".join(looks[i].thumbnail for i in usable), np.uint8)
    small = small.reshape(len(usable), -1).astype(np.int16)
    digests = np.array([looks[i].sha256 for i in usable])
    pairs = []
    for i in range(len(usable) - 1):
        differing = _ONES[bits[i + 1 :] ^ bits[i]].sum(1)
        near = i + 1 + np.flatnonzero(differing <= MOST_BITS)
        near = near[np.abs(small[near] - small[i]).mean(1) <= MOST_DIFFERENCE]
        near = near[digests[near] != digests[i]]
        pairs += [(usable[i], usable[int(j)]) for j in near]
    return np.array(pairs, np.int64).reshape(-1, 2)
