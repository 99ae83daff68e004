"""Code that users bring: what it may import, and whose error an exception in it is.

A retriever's file may import its neighbours. Their folder is at the end of ``sys.path`` while the file
is loaded and while its code runs; afterwards ``sys.path`` is as before, and what was imported from there
leaves ``sys.modules``. So files of one name in two folders don't meet, and nothing else is ever hidden by
a file that lies there.
"""

import ast
import importlib
import importlib.util
import json
import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

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

logger = logging.getLogger("m2kr.retrieval")

_FORMS = "a name, package.module:Class, file.py:Class, st:NAME, mteb:NAME or run:FILE"

_LOADED = "_m2kr_file_"  # how the names of files that were loaded begin


@dataclass
class _Rest:
    """What a folder's code has put on the path and imported, while it isn't in use."""

    paths: list[str]
    modules: dict[str, ModuleType] = field(default_factory=dict)


# The folders that classes and functions were loaded from.
_homes: WeakKeyDictionary[Any, Path] = WeakKeyDictionary()
_resting: dict[Path, _Rest] = {}
# Folders in use, the last one now, each with path and modules from before.
_in_use: list[tuple[Path, list[str], dict[str, ModuleType]]] = []


def remember_home(made: object, home: Path | None) -> None:
    """Remembers where a class or function of a user's was loaded from; see `home_of`."""
    if home is not None and not str(getattr(made, "__module__", "m2kr")).startswith("m2kr."):
        with suppress(TypeError):  # what can't be remembered is no class and no function
            _homes[made] = home


def home_of(made: object) -> Path | None:
    """The folder whose modules a class, function or object of a user's may import."""
    kinds = made.__mro__ if isinstance(made, type) else (made, *type(made).__mro__)
    for kind in kinds:
        with suppress(TypeError):
            if kind in _homes:
                return _homes[kind]
    return None


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
    with neighbours(home_of(owner)):
        try:
            yield
        except M2KRError as error:
            frame = None if error.where else last_frame(error, _own_files(module))
            if frame is None or module.partition(".")[0] == "m2kr":
                raise
            said = type(error)(error.what, where=frame, expected=error.expected, fix=error.fix)
            raise said from error
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if isinstance(error, KeyboardInterrupt | GeneratorExit):
                raise
            ours = module.partition(".")[0] == "m2kr" or ends_process(error)
            own_error = None if ours else _own_error(error, module, doing)
            if own_error is None:
                raise
            raise own_error from error


def _own_error(error: BaseException, module: str, doing: str) -> RetrieverError | None:
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


_M2KR = Path(__file__).parents[1]


@cache
def _libraries() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(paths[name]) for name in names if name in paths})


def _own_files(module: str) -> Callable[[Path], bool]:
    """Whether a file is the user's: beside the module, or in none of the installed libraries."""
    file = getattr(sys.modules.get(module), "__file__", None)
    home = None
    if file is not None:
        # Of a package all of it, of a module alone its file.
        depth = module.count(".") + (Path(file).name == "__init__.py")
        home = [Path(file), *Path(file).parents][depth : depth + 1]

    def own(path: Path) -> bool:
        if path.is_relative_to(_M2KR):
            return False
        if home and path.is_relative_to(home[0]):
            return True
        return not any(path.is_relative_to(library) for library in _libraries())

    return own


@contextmanager
def neighbours(folder: Path | None) -> Iterator[None]:
    """Modules of a folder can be imported inside; None for nothing but what could be before."""
    if folder is None or (_in_use and _in_use[-1][0] == folder):
        yield
        return
    outer = _leave() if _in_use else None
    _enter(folder)
    try:
        yield
    finally:
        _leave()
        if outer is not None:
            _enter(outer)


def _enter(folder: Path) -> None:
    _in_use.append((folder, list(sys.path), dict(sys.modules)))
    rest = _resting.pop(folder, None) or _Rest([str(folder)])
    sys.path += [path for path in rest.paths if path not in sys.path]
    sys.modules.update(rest.modules)


def _leave() -> Path:
    """Puts the path and the modules of the folder in use aside, and gives the folder."""
    folder, path, modules = _in_use.pop()
    paths = [place for place in sys.path if place not in path]
    places = {Path(place).resolve() for place in paths if not _INSTALLED & {*Path(place).parts}}
    # Of what was there before, later submodules stay as well: m2kr itself may be run from this folder.
    tops = {
        name
        for name, module in list(sys.modules.items())
        if "." not in name
        and module is not modules.get(name)
        and not name.startswith(_LOADED)
        and _lies_in(module, places)
    }
    names = [name for name in list(sys.modules) if name.partition(".")[0] in tops]
    _resting[folder] = _Rest(paths, {name: sys.modules.pop(name) for name in names})
    sys.modules.update({name: modules[name] for name in names if name in modules})
    sys.path[:] = path
    return folder


_INSTALLED = {"site-packages", "dist-packages"}


def _lies_in(module: ModuleType, places: Collection[Path]) -> bool:
    """Whether a top-level module is a file or a package right in one of some folders."""
    file = getattr(module, "__file__", None)
    if file is None:  # a package without __init__.py, or a part of Python
        return any(Path(path).parent in places for path in getattr(module, "__path__", ()))
    path = Path(file)
    return (path.parent.parent if path.name == "__init__.py" else path.parent) in places


def load_file(source: str) -> tuple[ModuleType, Path]:
    """The module of a user's file, and the folder of its neighbours.

    Raises:
        MissingError: there is no such file.
        InputError: it can't be imported; shows the line.
    """
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise MissingError("there is no such file", where=str(path), expected=_FORMS)
    name = f"{_LOADED}{blake2b(os.fsencode(path), digest_size=6).hexdigest()}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("not a Python file", where=str(path), expected=_FORMS)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and typing look their module up while its classes are made.
    sys.modules[name] = module
    with suppress(OSError):  # loading it says so
        _warn_of_hidden(path)
    with neighbours(path.parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise broken(error, str(path), name) from error
    return module, path.parent


def load_module(name: str) -> tuple[ModuleType, Path | None]:
    """A module that is installed, or lies in the working folder, which is given as well then.

    Raises:
        MissingError: there is no such module.
        InputError: it can't be imported; shows the line.
        UsageError: there is one here and another elsewhere.
    """
    here = _module_in(Path.cwd(), name)
    elsewhere = _top_elsewhere(name)
    if here is not None and elsewhere is not None:
        raise UsageError(
            f"'{name}' may mean {elsewhere}, or {here}",
            expected=f"one of the two: {here}:CLASS for the file, or another folder for this command",
        )
    if here is None and elsewhere is None and name.partition(".")[0] not in sys.modules:
        raise MissingError(
            f"there is no module '{name.partition('.')[0]}', installed or in {Path.cwd()}",
            expected=_FORMS,
        )
    home = None if here is None else Path.cwd()
    with neighbours(home):
        try:
            return importlib.import_module(name), home
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise broken(error, name, name) from error
            raise MissingError(f"there is no module '{error.name}'", expected=_FORMS) from error
        except (Exception, SystemExit) as error:
            raise broken(error, name, name) from error


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
    for name in sorted({parts[0] for _, parts in imports_in(path.read_bytes())}):
        near = _module_in(path.parent, name)
        if near is None or str(path.parent) in sys.path:
            continue
        spec = PathFinder.find_spec(name)
        meant = getattr(sys.modules.get(name, spec), "__file__", None) or getattr(
            spec, "origin", None
        )
        if (meant is not None and Path(meant) != near) or name in sys.builtin_module_names:
            logger.warning(
                "'import %s' in %s is the installed module: %s beside it has to be named otherwise",
                name, path.name, near.relative_to(path.parent),
            )  # fmt: skip


def imports_in(source: bytes) -> Iterator[tuple[int, list[str]]]:
    """What a source imports anywhere: the dots before it, and its dotted parts; nothing if it has errors."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = node.module.split(".") if node.module else []
            yield from ((node.level, [*package, alias.name]) for alias in node.names)


def _module_in(folder: Path, name: str) -> Path | None:
    """The file of a module that would be imported from a folder."""
    path = folder.joinpath(*name.split("."))
    places = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((place for place in places if place.is_file()), None)


def user_attribute(retriever: object, name: str) -> Any:
    """An attribute of a retriever; what its property raises is told as its own.

    Raises:
        RetrieverError: a property raised something.
    """
    with own_code(retriever, f"reading {type(retriever).__name__}.{name}"):
        return getattr(retriever, name)


def json_settings(retriever: object) -> dict[str, Any]:
    """A retriever's settings as they will be read back from JSON.

    Raises:
        InputError: they can't be written as JSON.
        RetrieverError: the property raised something.
    """
    return json_values(user_attribute(retriever, "settings"), "settings", retriever)


def json_values(given: object, what: str, retriever: object) -> dict[str, Any]:
    """A mapping that a retriever gave, as it will be read back from JSON.

    Raises:
        InputError: it is no mapping, or can't be written as JSON.
    """
    try:
        if not isinstance(given, Mapping):
            raise TypeError(f"it is of type {type(given).__name__}")
        text = json.dumps(dict(given), allow_nan=False, ensure_ascii=False).encode()
        values: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{what} can't be written as JSON: {error}",
            where=f"retriever {getattr(retriever, 'name', type(retriever).__name__)}",
            expected="a dict of numbers, strings, true, false, null, lists and objects",
        ) from error
    return values
