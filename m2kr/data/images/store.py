"""Images by relative path, read lazily from folders, archives and Arrow files where they lie."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from m2kr.data.images.decode import MAX_PIXELS, TOO_MANY_PIXELS, UndecodableImage, open_rgb
from m2kr.data.images.index import Identity, locked
from m2kr.data.images.names import alternatives, checked
from m2kr.data.images.roots import ImageRoot, open_root
from m2kr.data.images.source_roots import SourceRoots
from m2kr.errors import InputError, MissingError, UsageError

Missing = Literal["error", "black", "skip"]
BLACK_SIZE = (336, 336)


def black_image() -> Image.Image:
    """The black 336 x 336 RGB image that the official evaluation shows where a query has none."""
    return Image.new("RGB", BLACK_SIZE)


def clean_path(path: str) -> str:
    """An ``img_path`` without ``./`` and doubled slashes.

    Raises:
        InputError: it is empty, absolute, climbs out with ``..`` or is no posix path or text at all.
    """
    wrong = ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        wrong = "is empty"
    elif path.startswith("/") or (len(path) > 1 and path[1] == ":" and path[0].isalpha()):
        wrong = "is absolute"
    elif "://" in path:
        wrong = "is a URL"
    elif ".." in parts:
        wrong = "climbs out of the image root"
    elif "\\" in path or "\0" in path or any("\ud800" <= c <= "\udfff" for c in path):
        wrong = "holds a character that no such path has"
    if wrong:
        raise InputError(
            f"the image path {path[:200]!r} {wrong}",
            expected="a path below an image root, with '/' between folders: photos/cat.jpg",
        )
    return "/".join(parts)


def decode(data: bytes, where: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The RGB image in some bytes, as `m2kr.data.images.decode` says.

    Args:
        data: A whole image file.
        where: What it is, for errors.
        max_pixels: Width times height, read from the header before anything is decoded.

    Raises:
        InputError: it is too large, cut short, hostile or no image.
    """
    try:
        return open_rgb(data, max_pixels)[0]
    except UndecodableImage as fault:
        raise InputError(
            f"the image can't be decoded: {fault.detail}"
            if fault.rule != TOO_MANY_PIXELS
            else f"the image is too large: {fault.detail}",
            where=where,
            expected="a whole JPEG, PNG, WebP, GIF, BMP or TIFF file",
            fix="fetch this image again, or take it out of the data",
        ) from fault


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the distinct image paths that some rows name are there.

    Attributes:
        total: Distinct paths.
        found: Those that a root holds.
        missing: The first three that none holds, in the order met.
    """

    total: int
    found: int
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        share = f" ({self.found / self.total:.1%})" if self.total else ""
        return f"{self.found:,} of {self.total:,} images found{share}"


class ImageStore:
    """Finds images by relative path in several roots, the first that has one wins.

    Nothing is opened or indexed before it is needed. A store can be pickled, shared by threads and
    inherited by forked workers.

    Args:
        roots: Folders, zip or tar files (or folders inside them: ``a.tar/01``), Arrow or Parquet
            files; see `m2kr.data.images.roots.open_root`. Those of a built source are looked up when an
            image is first asked for.
        missing: What `open` does where no root has a path: raise, give a black image, or give None.
        max_pixels: Largest width times height that is decoded.
        cache: Folder in which the indexes of archives are kept between processes.
        names: Patterns of other names that an image may have, tried where no root has its own; see
            `m2kr.data.images.names`.

    Raises:
        MissingError: a root does not exist.
        InputError: a root is of a kind that can't be read in place, such as ``.tar.gz``.
    """

    def __init__(
        self,
        roots: Sequence[str | Path] | str | Path | SourceRoots,
        *,
        missing: Missing = "error",
        max_pixels: int = MAX_PIXELS,
        cache: str | Path | None = None,
        names: Sequence[str] = (),
    ) -> None:
        if missing not in get_args(Missing):
            raise UsageError(f"missing={missing!r}", expected="one of error, black, skip")
        self._cache = None if cache is None else Path(cache)
        self._later = roots if isinstance(roots, SourceRoots) else None
        if isinstance(roots, SourceRoots):
            given: Sequence[str | Path] = roots.given
        else:
            given = [roots] if isinstance(roots, str | os.PathLike) else roots
        # Opened even where the others are looked up later: a wrong --images is told at once.
        self._paths = tuple(map(Path, given))
        self._found = self._open(self._paths)
        self.missing = missing
        self.max_pixels = max_pixels
        self._names = checked(names)
        self.missing_count = 0

    def _open(self, roots: Sequence[Path]) -> tuple[ImageRoot, ...]:
        return tuple(open_root(root, self._cache) for root in roots)

    @property
    def _opened(self) -> tuple[ImageRoot, ...]:
        if self._later is not None:
            with locked():
                if self._later is not None:
                    self._paths = tuple(self._later.paths())
                    self._found = self._open(self._paths)
                    self._later = None
        return self._found

    @property
    def roots(self) -> tuple[Path, ...]:
        """The roots' paths, in the order in which they are searched."""
        return self._paths if self._opened else ()

    def read(self, path: str) -> bytes:
        """The bytes of an image file, as stored.

        Raises:
            MissingError: no root has it, whatever the policy.
            InputError: the path is unsafe or the file can't be read.
        """
        data = self._read(path)
        if data is None:
            raise self._not_found(path)
        return data[0]

    def _read(self, path: str) -> tuple[bytes, str] | None:
        for name in alternatives(clean_path(path), self._names):
            for root in self._opened:
                data = root.read(name)
                if data is not None:
                    return data, f"{root.path}/{name}"
        return None

    def _not_found(self, path: str) -> MissingError:
        return missing_error(Coverage(1, 0, (path,)), self.roots)

    def open(self, path: str) -> Image.Image | None:
        """The RGB image at a path; None only under the policy ``skip``.

        Raises:
            MissingError: no root has it and the policy is ``error``.
            InputError: the path is unsafe, or the image damaged or too large.
        """
        found = self._read(path)
        if found is not None:
            return decode(*found, self.max_pixels)
        if self.missing == "error":
            raise self._not_found(path)
        with locked():
            self.missing_count += 1
        return black_image() if self.missing == "black" else None

    def exists(self, path: str) -> bool:
        """Whether some root has an image of this path."""
        names = alternatives(clean_path(path), self._names)
        return any(root.has(name) for name in names for root in self._opened)

    def coverage(self, paths: Iterable[str | None]) -> Coverage:
        """How many of the distinct paths are there; nulls mean "no image" and are not counted."""
        seen: set[str] = set()
        missing: list[str] = []
        found = 0
        for path in paths:
            if path is None or path in seen:
                continue
            seen.add(path)
            if self.exists(path):
                found += 1
            elif len(missing) < 3:
                missing.append(path)
        return Coverage(len(seen), found, tuple(missing))

    def require(self, paths: Iterable[str | None]) -> Coverage:
        """The coverage of some rows, checked before any of them is encoded.

        Raises:
            MissingError: the policy is ``error`` and an image is not there; names the roots tried,
                the coverage and three examples.
        """
        coverage = self.coverage(paths)
        if self.missing == "error" and coverage.found < coverage.total:
            raise missing_error(coverage, self.roots)
        return coverage

    def sha256(self, path: str) -> str | None:
        """Hex digest of an image file as stored, or None if no root has it."""
        found = self._read(path)
        return None if found is None else hashlib.sha256(found[0]).hexdigest()

    def stamper(self) -> Callable[[str], str | None]:
        """What gives the stamp of each path's image, None if no root has it; no image is read.

        It is another one when the image's file, or the archive around it, was written since. So it
        tells a change in 300 GB of images by looking at their names.
        """
        stampers = [root.stamper() for root in self._opened]

        def stamp(path: str) -> str | None:
            for name in alternatives(clean_path(path), self._names):
                for of_root in stampers:
                    found = of_root(name)
                    if found is not None:
                        return found
            return None

        return stamp

    def identity(self) -> tuple[Identity, ...]:
        """Path, size and modification time (ns) of each root, for cache keys."""
        return tuple(root.identity() for root in self._opened)


def missing_error(coverage: Coverage, roots: Sequence[Path]) -> MissingError:
    """What to tell a user whose images are not all there."""
    tried = ", ".join(map(str, roots)) or "none was given"
    examples = ", ".join(repr(path) for path in coverage.missing)
    return MissingError(
        f"{coverage}; missing: {examples}",
        where=f"image roots: {tried}",
        expected="every img_path below one of the roots",
        fix="--images DIR to add a root, or m2kr eval --missing-images black|skip (scores then do not "
        "compare)",
    )
