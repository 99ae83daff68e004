"""What an encoder is, for cache keys: ours by its explicit version, everyone else's by its source.

A shipped encoder says ``version``, which is raised whenever it encodes to something else; golden
vectors in the tests hold it to that. So neither a comment nor a release of m2kr throws encoded rows
away. People edit their own files without counting, so those are known by their bytes: the file of
the class and of its bases, and every neighbour that these import, wherever the import stands.
"""

import ast
import hashlib
import inspect
import sysconfig
from collections.abc import Iterator
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any

_OURS = "m2kr"
# What classes may be made of that changes with Python alone.
_PYTHON = ("builtins", "abc", "typing")
_INSTALLED = ("site-packages", "dist-packages")


def identity_of(kind: type) -> list[list[Any]] | None:
    """Per class that an encoder is made of its name and its version or source; None if not known.

    It is of what was loaded if it is asked for while the class is made: later a file may be edited.
    """
    identity: list[list[Any]] = []
    for each in kind.__mro__:
        if each.__module__ in _PYTHON:
            continue
        if each.__module__.partition(".")[0] == _OURS:
            # Methods without an encoder's version are the frame around all encoders: the cache's format.
            if "version" in vars(each):
                identity.append([each.__qualname__, each.version])  # type: ignore[attr-defined]
            continue
        source = _source_sha256(each)
        if source is None:
            return None
        identity.append([each.__qualname__, source])
    return identity or None


def _source_sha256(kind: type) -> str | None:
    """Hash of the file that a class is written in, and of the neighbours that it imports."""
    try:
        file = inspect.getsourcefile(kind)
        files = _with_neighbours(Path(file).resolve()) if file else {}
    except (TypeError, OSError):
        return None
    lines = [f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def _with_neighbours(file: Path) -> dict[str, bytes]:
    """The bytes of a source file and of all that it imports from beside it, by relative path."""
    home = file.parent
    while (home / "__init__.py").is_file() and home != home.parent:
        home = home.parent
    package = file.relative_to(home).parts[0]
    # Beside an installed package lie others, which their versions tell apart.
    alone = any(part in _INSTALLED for part in home.parts) or home == Path(
        sysconfig.get_path("stdlib")
    )
    read: dict[str, bytes] = {}
    left = [file]
    while left:
        path = left.pop()
        name = path.relative_to(home).as_posix()
        if name in read or (alone and path.relative_to(home).parts[0] != package):
            continue
        read[name] = path.read_bytes()
        if path.suffix == ".py":
            left += _imported(read[name], path, home)
    return read


def _imported(source: bytes, file: Path, home: Path) -> Iterator[Path]:
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _found(alias.name.split("."), {home, file.parent})
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            above = [file, *file.parents]
            bases = {home, file.parent} if not node.level else set(above[node.level :][:1])
            for alias in node.names:
                yield from _found([*parts, alias.name], bases)


def _found(parts: list[str], bases: set[Path]) -> Iterator[Path]:
    """The files that an import of dotted parts runs, below each of some folders."""
    if parts[0] == _OURS:
        return
    for base in bases:
        for end in range(1, len(parts) + 1):
            place = base.joinpath(*parts[:end])
            for suffix in all_suffixes():
                for path in (place.with_name(place.name + suffix), place / f"__init__{suffix}"):
                    if path.is_file():
                        yield path
