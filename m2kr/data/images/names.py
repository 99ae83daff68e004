"""Other names that an image may have where it lies: another ending, another folder or none.

Upstream and the authors' release name some images differently: OVEN's ``01/oven_01963180.jpg`` is
``01/oven_01963180.JPEG`` in one archive and ``oven_01963180.jpg`` in another. A source declares the
patterns; the name that the tables have is always tried first.
"""

import re
import string
from collections.abc import Iterator, Sequence

from m2kr.errors import UsageError

_FIELDS = frozenset({"path", "stem", "inner", "name", "id", "two"})


def alternatives(path: str, patterns: Sequence[str] = ()) -> Iterator[str]:
    """The path itself, then what the patterns make of it; each once.

    Args:
        path: An ``img_path`` in normal form.
        patterns: With the fields ``{path}``; ``{stem}``, the path without its ending; ``{inner}``,
            the path without its first folder; ``{name}``, its last part; ``{id}``, that without its
            ending; ``{two}``, the first two digits of the id.
    """
    yield path
    if not patterns:
        return
    name = path.rpartition("/")[2]
    digits = re.search(r"\d\d", name)
    fields = {
        "path": path,
        "stem": path.removesuffix(_ending(name)),
        "inner": path.partition("/")[2] or path,
        "name": name,
        "id": name.removesuffix(_ending(name)),
        "two": digits[0] if digits else "",
    }
    seen = {path}
    for pattern in patterns:
        other = pattern.format_map(fields)
        if other not in seen:
            seen.add(other)
            yield other


def _ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return dot + ending if stem else ""


def checked(patterns: Sequence[str]) -> tuple[str, ...]:
    """The patterns, if they are such.

    Raises:
        UsageError: one has other fields.
    """
    for pattern in patterns:
        try:
            fields = {
                (name, spec, how)
                for _, name, spec, how in string.Formatter().parse(pattern)
                if name
            }
        except ValueError:
            fields = {(pattern, "", None)}
        if not fields or any(name not in _FIELDS or spec or how for name, spec, how in fields):
            raise UsageError(
                f"{pattern!r} is no pattern of image names",
                expected="text with the fields " + " ".join(f"{{{f}}}" for f in sorted(_FIELDS)),
            )
    return tuple(patterns)
