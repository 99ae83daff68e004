"""Small copies of images for a page, in chunks that it loads when they come into view."""

import base64
import hashlib
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from m2kr.errors import M2KRError
from m2kr.progress import Progress, task

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.data.images.store import ImageStore
    from m2kr.report.page.data_files import DataFiles

NONE, MISSING, LEFT_OUT = -1, -2, -3
CHUNK = 32  # thumbnails a file
MOST = 10_000  # a source
_FEW = 1_500
_SIDES = (320, 160)  # pixels: of few, and of many
_QUALITY = 74
_THREADS = 4


class Thumbnails:
    """The thumbnails of one source, numbered; the same picture has one number whatever its path.

    Args:
        store: Where the images are; None where the source has none.
        files: Where the chunks go.
        folder: Their folder below it.
        expected: How many there may be: few are larger.
        progress: Told of images read.

    Attributes:
        missing: Images that no root has or that can't be decoded.
        left_out: Images beyond `MOST`.
    """

    def __init__(
        self,
        store: "ImageStore | None",
        files: "DataFiles",
        folder: str,
        expected: int,
        progress: Progress,
    ) -> None:
        self._store, self._files, self._folder = store, files, folder
        self._side = _SIDES[expected > _FEW]
        self._progress = progress
        self._of_path: dict[str, int] = {}
        self._of_content: dict[bytes, int] = {}
        self._chunk: list[str] = []
        self._count = self._chunks = self._read = 0
        self.missing = self.left_out = 0

    def numbers(self, paths: Iterable[str | None]) -> list[int]:
        """The number of each path's thumbnail; `NONE`, `MISSING` or `LEFT_OUT` where there is none."""
        wanted = list(paths)
        new = [p for p in dict.fromkeys(wanted) if p is not None and p not in self._of_path]
        room = max(0, MOST - self._read)
        for path in new[room:]:
            self._of_path[path] = LEFT_OUT
        self.left_out += len(new[room:])
        new = new[:room]
        self._read += len(new)
        if new:
            with (
                task(self._progress, "images", len(new), unit="images"),
                ThreadPoolExecutor(_THREADS) as threads,
            ):
                for path, data in zip(new, threads.map(self._small, new), strict=True):
                    self._of_path[path] = self._add(data)
                    self._progress.advance("images", 1)
        return [NONE if path is None else self._of_path[path] for path in wanted]

    def close(self) -> None:
        """Writes what is left."""
        if self._chunk:
            self._flush()

    def _small(self, path: str) -> bytes | None:
        try:
            if self._store is None or not self._store.exists(path):
                return None
            image = self._store.open(path)
        except (M2KRError, OSError):
            return None
        return None if image is None else _jpeg(image, self._side)

    def _add(self, data: bytes | None) -> int:
        if data is None:
            self.missing += 1
            return MISSING
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest not in self._of_content:
            self._of_content[digest] = self._count
            self._count += 1
            self._chunk.append(base64.b64encode(data).decode())
            if len(self._chunk) == CHUNK:
                self._flush()
        return self._of_content[digest]

    def _flush(self) -> None:
        self._files.write(f"{self._folder}/images-{self._chunks}", self._chunk)
        self._chunks += 1
        self._chunk = []


def _jpeg(image: "Image", side: int) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()
