"""Where the images of a source lie: the store that ``m2kr images`` fills, and roots used in place.

    <data root>/images/<store>/           tar shards with their indexes, several sources may share one
    <data root>/images/<store>/roots.json  paths of the user's own folders and archives

Every edition of a source reads both.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2kr import atomic
from m2kr.data.images.shards import holds_shards
from m2kr.errors import InputError, MissingError

_ROOTS = "roots.json"


def store_folder(root: Path, store: str) -> Path:
    """The folder of a store below a data root."""
    return root / "images" / store


@dataclass(frozen=True)
class SourceRoots:
    """The image roots of a built source, looked up when they are needed.

    Attributes:
        given: The user's own for this use; they come first, and stand in for others that have moved.
        recorded: Those that the manifest names.
        data_root: The data root.
        store: Name of the source's store below it.
    """

    given: tuple[Path, ...]
    recorded: tuple[Path, ...]
    data_root: Path
    store: str

    @property
    def none(self) -> bool:
        """Whether there is no root at all, here or elsewhere."""
        listed = self.given or self.recorded
        return not listed and not store_folder(self.data_root, self.store).exists()

    def paths(self) -> list[Path]:
        """The roots, in the order in which they are searched.

        Raises:
            MissingError: one has moved, and the user gave none that may stand in for it.
            InputError: the list of the user's roots is damaged.
        """
        folder = store_folder(self.data_root, self.store)
        stores = [folder] if holds_shards(folder) else []
        own = list(dict.fromkeys([*self.recorded, *_own_roots(folder), *stores]))
        there = [root for root in own if _is_there(root)]
        if len(there) < len(own) and not self.given and set(there) <= set(self.recorded):
            raise MissingError(
                "this image root is not there any more",
                where=str(next(root for root in own if root not in there)),
                expected="the folder or archive that held the images when the source was built",
                fix="--images PATH to say where it is now; m2kr images SOURCE --images PATH for good",
            )
        return [*self.given, *there]


def _own_roots(folder: Path) -> list[Path]:
    """The user's own roots."""
    path = folder / _ROOTS
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    try:
        listed = json.loads(text)["roots"]
        return [Path(each) for each in listed if Path(each).is_absolute()]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            "the list of image roots is damaged",
            where=str(path),
            expected='{"roots": ["/absolute/path", …]}',
            fix="delete it, and give the roots again: m2kr images SOURCE --images PATH",
        ) from error


def _is_there(root: Path) -> bool:
    """Whether a root exists: a folder, a file, or a folder inside a file."""
    try:
        return root.exists() or any(parent.is_file() for parent in root.parents)
    except OSError:  # it can't be looked at: opening it will say why
        return True


def add_roots(folder: Path, given: Sequence[Path]) -> None:
    """Notes roots, the newest first."""
    new = [path.expanduser().absolute() for path in given]
    kept = [path for path in _own_roots(folder) if path not in new]
    folder.mkdir(parents=True, exist_ok=True)
    listed = [str(path) for path in dict.fromkeys([*new, *kept])]
    atomic.write_text(folder / _ROOTS, json.dumps({"roots": listed}, indent=1) + "\n")
