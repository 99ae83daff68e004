"""Where the images of a source lie: the store that ``m2kr images`` fills, and roots used in place.

    <data root>/images/<store>/           tar shards with their indexes, several sources may share one
    <data root>/images/<store>/roots.json  paths of the user's own folders and archives

Every edition of a source reads both.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from m2kr import atomic
from m2kr.data.image_shards import holds_shards
from m2kr.errors import InputError

_ROOTS = "roots.json"


def store_folder(root: Path, store: str) -> Path:
    """The folder of a store below a data root."""
    return root / "images" / store


def places(root: Path, store: str) -> list[Path]:
    """All image roots that a store stands for: the user's own, then the store; none if there is none.

    Raises:
        InputError: the list of roots is damaged.
    """
    folder = store_folder(root, store)
    found = roots(folder)
    return [*found, folder] if holds_shards(folder) else found


def roots(folder: Path) -> list[Path]:
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


def add_roots(folder: Path, given: Sequence[Path]) -> None:
    """Notes roots, the newest first."""
    new = [path.expanduser().absolute() for path in given]
    kept = [path for path in roots(folder) if path not in new]
    folder.mkdir(parents=True, exist_ok=True)
    listed = [str(path) for path in dict.fromkeys([*new, *kept])]
    atomic.write_text(folder / _ROOTS, json.dumps({"roots": listed}, indent=1) + "\n")
