"""Reading the small files of a checkpoint: bounded, decoded, never executed.

Links are followed, since a snapshot in the hub's cache consists of them; what they lead to must be a
regular file.
"""

import importlib.util
import os
import stat
from pathlib import Path
from typing import Any

import orjson

from m2kr.errors import InputError, MissingError, missing_dependency

_JSON_LIMIT = 16 << 20  # an index of a sharded checkpoint has some 100 bytes a tensor
_TEXT_LIMIT = 64 << 20


def read_text(path: Path, limit: int = _TEXT_LIMIT) -> str:
    """A UTF-8 file of at most ``limit`` bytes.

    Raises:
        InputError: It is larger, no UTF-8, or no regular file (to read a pipe could take for ever).
        MissingError: It is not there.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError("it is no regular file", where=str(path))
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError("the file is missing", where=str(path)) from None
    except OSError as error:
        raise InputError(f"the file can't be read: {error.strerror}", where=str(path)) from error
    if len(data) > limit:
        raise InputError(f"the file is larger than {limit:,} bytes", where=str(path))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"the file is no UTF-8: {error}", where=str(path)) from None


def present(path: Path) -> bool:
    """Whether there is something of that name, be it a link that leads nowhere.

    What is optional and absent has a default; what is there and can't be read is an error.
    """
    return os.path.lexists(path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: The file is too large, too deep or no JSON object.
        MissingError: It is not there.
    """
    text = read_text(path, _JSON_LIMIT)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"the file is no JSON: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise InputError("the file holds no JSON object", where=str(path))
    return value


def packaged(package: str, inside: str, needed_for: str) -> Path:
    """A file or folder inside an installed package, found without importing it.

    Args:
        package: Import name of a top-level package that the extra ``demo`` installs.
        inside: Path below its folder.
        needed_for: What the user was doing, for the error.

    Raises:
        MissingError: The package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    name = package.replace("_", "-")
    if spec is None or not spec.submodule_search_locations:
        raise missing_dependency(name, "demo", needed_for)
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.exists():
        raise MissingError(
            f"the package '{name}' does not hold {inside}",
            where=str(path),
            fix=f"pip install --force-reinstall {name}",
        )
    return path
