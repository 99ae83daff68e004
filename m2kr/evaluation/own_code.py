"""Code that users bring: what it may import, and whose error an exception in it is.

A retriever's file may import its neighbours. Their folder is at the end of ``sys.path`` while the file
is loaded and while its code runs, and what was imported from there leaves ``sys.modules`` afterwards:
files of one name in two folders don't meet, and nothing else is ever hidden by a file that lies there.
"""

import ast
import importlib
import importlib.util
import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import m2kr
from m2kr.errors import (
    InputError,
    M2KRError,
    MissingError,
    RetrieverError,
    UsageError,
    ends_process,
    last_frame,
    one_line,
)

logger = logging.getLogger("m2kr.evaluation")

FORMS = "a name, package.module:Class, file.py:Class or run:FILE"

# The folder that a loaded module's neighbours lie in, by the module's name.
_homes: dict[str, Path] = {}
# What was imported from a folder, while it isn't in use.
_resting: dict[Path, dict[str, ModuleType]] = {}
_in_use: list[Path] = []


@contextmanager
def own_code(owner: object, doing: str) -> Iterator[None]:
    """Runs code of a retriever: it can import its neighbours, and what it raises is told as its own.

    Args:
        owner: The retriever, or its class.
        doing: What it does, for the error: ``Mine.encode_query of the batch …``.

    Raises:
        RetrieverError: the user's code raised something that isn't an `M2KRError`.
    """
    kind = owner if isinstance(owner, type) or callable(owner) else type(owner)
    module = str(getattr(kind, "__module__", ""))
    with neighbours(_homes.get(module)):
        try:
            yield
        except M2KRError:
            raise
        except (Exception, SystemExit) as error:
            ours = module.partition(".")[0] == "m2kr" or ends_process(error)
            told = None if ours else _told(error, module, doing)
            if told is None:
                raise
            raise told from error


def _told(error: BaseException, module: str, doing: str) -> RetrieverError | None:
    """The error for what a user's code raised; None if it never came into that code."""
    own = _own_files(module)
    frame = last_frame(error, own)
    if frame is None:
        # Called by m2kr, not by this module: the first frame behind the caller's says who raised it.
        files = [Path(f.filename) for f in traceback.extract_tb(error.__traceback__)]
        behind = [file for file in files if file != Path(__file__)][1:]
        if behind and behind[0].is_relative_to(_M2KR):
            return None
    fix = "m2kr --verbose … shows the whole traceback"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        fix = "a smaller batch: --set batch_size=8"
    return RetrieverError(f"{one_line(error)}\n  while:    {doing}", where=frame or module, fix=fix)


_M2KR = Path(m2kr.__file__).parent


@cache
def _libraries() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(paths[name]) for name in names if name in paths})


def _own_files(module: str) -> Callable[[Path], bool]:
    """Whether a file is the user's: beside the module, or in none of the installed libraries."""
    file = getattr(sys.modules.get(module), "__file__", None)
    package = None
    if file is not None and "." in module:
        package = Path(file).parents[module.count(".") - (Path(file).name != "__init__.py")]

    def own(path: Path) -> bool:
        if path.is_relative_to(_M2KR):
            return False
        if file is not None and (path == Path(file) or (package and path.is_relative_to(package))):
            return True
        return not any(path.is_relative_to(library) for library in _libraries())

    return own


@contextmanager
def neighbours(folder: Path | None) -> Iterator[None]:
    """Modules of a folder can be imported inside; None for nothing but what could be before."""
    if folder is None or (_in_use and _in_use[-1] == folder):
        yield
        return
    if _in_use:
        _leave(_in_use[-1])
    _enter(folder)
    _in_use.append(folder)
    try:
        yield
    finally:
        _in_use.pop()
        _leave(folder)
        if _in_use:
            _enter(_in_use[-1])


def _enter(folder: Path) -> None:
    sys.path.append(str(folder))
    sys.modules.update(_resting.pop(folder, {}))


def _leave(folder: Path) -> None:
    # The last of that name: it may stand on the path for another reason, too.
    place = len(sys.path) - 1 - sys.path[::-1].index(str(folder)) if str(folder) in sys.path else -1
    if place >= 0:
        del sys.path[place]
    if str(folder) in sys.path:
        return
    names = [
        name
        for name, module in list(sys.modules.items())
        if name not in _homes and _lies_in(sys.modules.get(name.partition(".")[0], module), folder)
    ]
    _resting[folder] = {name: sys.modules.pop(name) for name in names}


def _lies_in(module: ModuleType | None, folder: Path) -> bool:
    """Whether a top-level module is a file or a package right in a folder."""
    file = getattr(module, "__file__", None)
    if file is None:
        places = list(getattr(module, "__path__", ()))  # a package without __init__.py
        return any(Path(place).parent == folder for place in places)
    path = Path(file)
    return (path.parent.parent if path.name == "__init__.py" else path.parent) == folder


def load_file(source: str) -> ModuleType:
    """The module of a user's file.

    Raises:
        MissingError: there is no such file.
        InputError: it can't be imported; shows the line.
    """
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise MissingError("there is no such file", where=str(path), expected=FORMS)
    name = f"_m2kr_file_{blake2b(os.fsencode(path), digest_size=6).hexdigest()}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("not a Python file", where=str(path), expected=FORMS)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and typing look their module up while its classes are made.
    sys.modules[name] = module
    _homes[name] = path.parent
    _warn_of_hidden(path)
    with neighbours(path.parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise broken(error, str(path), name) from error
    return module


def load_module(name: str) -> ModuleType:
    """A module that is installed, or lies in the working folder.

    Raises:
        MissingError: there is no such module.
        InputError: it can't be imported; shows the line.
        UsageError: there is one here and another elsewhere.
    """
    here = _in_working_folder(name)
    elsewhere = _top_elsewhere(name)
    if here is not None and elsewhere is not None:
        raise UsageError(
            f"'{name}' may mean {elsewhere}, or {here}",
            expected=f"one of the two: {here}:CLASS for the file, or another folder for this command",
        )
    if here is None and elsewhere is None and name.partition(".")[0] not in sys.modules:
        raise MissingError(
            f"there is no module '{name.partition('.')[0]}', installed or in {Path.cwd()}",
            expected=FORMS,
        )
    parts = name.split(".")
    if here is not None:
        # Kept: classes look their own module up.
        _homes.update((".".join(parts[:n]), Path.cwd()) for n in range(1, len(parts) + 1))
    with neighbours(Path.cwd() if here is not None else None):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise broken(error, name, name) from error
            raise MissingError(f"there is no module '{error.name}'", expected=FORMS) from error
        except (Exception, SystemExit) as error:
            raise broken(error, name, name) from error


def _in_working_folder(name: str) -> Path | None:
    """The file of a module that would be imported from the working folder."""
    path = Path.cwd().joinpath(*name.split("."))
    places = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((place for place in places if place.is_file()), None)


def _top_elsewhere(name: str) -> Path | None:
    """Where a module's top-level package lies, if not in the working folder."""
    top = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):
        return None
    if spec is None or (spec.origin is None and spec.loader is None):
        return None
    # A package without __init__.py is no rival of one with, and what lies here is meant anyway.
    if spec.origin is None or _lies_here(Path(spec.origin)):
        return None
    return Path(spec.origin)


def _lies_here(origin: Path) -> bool:
    try:
        folder = origin.resolve().parent
        return Path.cwd() in (folder, folder.parent if origin.name == "__init__.py" else folder)
    except OSError:
        return False


def broken(
    error: BaseException, where: str, module: str = "", folders: Sequence[Path] = ()
) -> M2KRError:
    """The error for code that can't be imported.

    Args:
        error: What its import raised.
        where: How it is named.
        module: Name of the module, if it is the user's.
        folders: Where it may lie, too.
    """
    if ends_process(error):
        raise error
    if isinstance(error, M2KRError):
        return error
    users = _own_files(module)
    frame = last_frame(error, lambda file: file.parent in folders or users(file))
    said = f"can't be imported: {one_line(error)}"
    return InputError(said if frame is None or module else f"{where} {said}", where=frame or where)


def _warn_of_hidden(path: Path) -> None:
    """Says so where an import of the file doesn't mean the neighbour that it seems to mean."""
    for name in sorted(_imported_names(path)):
        near = _neighbour(name, path.parent)
        if near is None or str(path.parent) in sys.path:
            continue
        if name in sys.builtin_module_names or PathFinder.find_spec(name) or name in sys.modules:
            logger.warning(
                "'import %s' in %s is the installed module: %s beside it has to be named otherwise",
                name, path.name, near.relative_to(path.parent),
            )  # fmt: skip


def _imported_names(path: Path) -> set[str]:
    """Top-level names that a file imports anywhere; none of one that can't be parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").partition(".")[0]} if node.module else set()
            if node.level and not node.module:
                found |= {alias.name for alias in node.names}
    return found


def _neighbour(name: str, folder: Path) -> Path | None:
    places = (folder / name / "__init__.py", folder / f"{name}.py")
    return next((place for place in places if place.is_file()), None)


def user_attribute(retriever: object, name: str) -> Any:
    """An attribute of a retriever; what its property raises is told as its own.

    Raises:
        RetrieverError: a property raised something.
    """
    with own_code(retriever, f"reading {type(retriever).__name__}.{name}"):
        return getattr(retriever, name)
