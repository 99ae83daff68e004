"""What the files of token stores and of indexes have in common: JSON records and checksums."""

import hashlib
import json
from pathlib import Path
from typing import Any

from m2kr.errors import InputError

_MOST_JSON = 1 << 20
_PIECE = 1 << 20


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read piece by piece."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file.

    Raises:
        InputError: it can't be read as one.
    """
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError("too big")
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"it can't be read as JSON ({error})", where=str(path)) from error
    if not isinstance(found, dict):
        raise InputError("it is no JSON object", where=str(path))
    return found
