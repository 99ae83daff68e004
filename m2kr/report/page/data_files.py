"""The data of a page as ``.js`` files beside it: a page that is opened from disk cannot fetch others."""

import os
from pathlib import Path
from typing import Any

import orjson

from m2kr import atomic
from m2kr.display import fit_for_html as fit

_CALL = "m2kr"  # the page's function that takes a file's name and what it holds


class DataFiles:
    """Writes values as scripts that hand them to the page.

    Args:
        folder: Where they go; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, value: Any) -> None:
        """``<name>.js``; texts must be `fit`. NumPy arrays are written as lists."""
        data = b"".join(
            (_CALL.encode(), b"(", as_script(name), b",", as_script(value), b")\n"),
        )
        path = self._folder / f"{name}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, data)


def write_synced(path: Path, data: bytes) -> None:
    """A new file whose bytes are on the disk."""
    with atomic.create(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def as_script(value: Any) -> bytes:
    """A value as JSON that is JavaScript, too, and that no HTML parser takes for markup."""
    data = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    for char, escape in (("<", b"\\u003c"), ("\u2028", b"\\u2028"), ("\u2029", b"\\u2029")):
        data = data.replace(char.encode(), escape)
    return data


def fitted(value: Any) -> Any:
    """JSON values with all texts in them, keys too, `fit`."""
    if isinstance(value, str):
        return fit(value)
    if isinstance(value, dict):
        return {fit(str(key)): fitted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fitted(item) for item in value]
    return value
