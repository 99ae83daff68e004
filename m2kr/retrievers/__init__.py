"""Retrievers by name: one file in this folder is one retriever.

A file ``thing.py`` holds a class and the line ``RETRIEVER = Thing``, and is then known as ``thing``;
nothing else has to be edited. Files that start with ``_`` are shared helpers. Other packages add
theirs by the entry point group ``m2kr.retrievers``, and a script's is named ``file.py:Class``.
"""

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import pkgutil
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import InputError, M2KRError, MissingError, UsageError

if TYPE_CHECKING:
    from m2kr.evaluation.retriever import Retriever

__all__ = ["create", "find", "names"]

logger = logging.getLogger("m2kr.retrievers")

GROUP = "m2kr.retrievers"
_PARTS = ("name", "settings", "modalities", "index", "search")
_FORMS = "a name, package.module:Class, file.py:Class or run:FILE"
REPLAY = "run:"


@cache
def _own() -> dict[str, str]:
    """Module path by name. ``random_.py`` is ``random``: the underscore spares the standard module."""
    return {
        info.name.rstrip("_"): f"{__name__}.{info.name}"
        for info in pkgutil.iter_modules(__path__)
        if not info.name.startswith("_")
    }


@cache
def _installed() -> dict[str, importlib.metadata.EntryPoint]:
    """Entry points of other packages; one that repeats a name of ours is left out."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name in _own() or entry.name in found:
            logger.warning("retriever '%s' of %s is left out: taken", entry.name, entry.value)
        else:
            found[entry.name] = entry
    return found


def names() -> tuple[str, ...]:
    """Every retriever that has a name, sorted; nothing is imported to find out."""
    return tuple(sorted({*_own(), *_installed()}))


def create(spec: str, settings: Mapping[str, object] | None = None) -> "Retriever":
    """A new retriever.

    Args:
        spec: A name, ``package.module:Class``, ``file.py:Class``, or ``run:FILE`` to replay a run.
            The second and third run the user's code; a submission is never checked with them.
        settings: Arguments of its ``__init__``; strings are turned into the annotated types.

    Raises:
        UsageError: no such retriever or setting, or a value of the wrong type; says which exist.
        MissingError: the file, module or a package that it needs is not on this machine.
        InputError: the user's file can't be imported, or what it names is no retriever.

    Example:
        >>> create("bm25", {"k1": "0.9"}).settings["k1"]
        0.9
    """
    if spec.startswith(REPLAY):
        return _replay(spec, settings)
    factory = find(spec)
    made = factory(**_convert(factory, settings or {}, spec))
    lacking = [part for part in _PARTS if inspect.getattr_static(made, part, made) is made]
    if lacking:
        raise InputError(
            f"{type(made).__name__} is not a retriever: it has no {', '.join(lacking)}",
            where=spec,
            expected="the attributes name, settings and modalities; the methods index and search",
            fix="subclass m2kr.evaluation.retriever.EncoderRetriever, or see its Retriever protocol",
        )
    return made  # type: ignore[no-any-return]


def _replay(spec: str, settings: Mapping[str, object] | None) -> "Retriever":
    from m2kr.evaluation.retriever import RunRetriever

    if settings:
        raise UsageError("a run that is replayed has no settings", where=spec)
    return RunRetriever(spec.removeprefix(REPLAY))


def _convert(
    factory: Callable[..., Any], settings: Mapping[str, object], spec: str
) -> dict[str, Any]:
    from m2kr.retrievers._settings import convert

    return convert(factory, settings, f"retriever {spec}")


def find(spec: str) -> Callable[..., Any]:
    """The class (or function) that makes a retriever; see `create`."""
    if ":" in spec:
        source, _, attribute = spec.rpartition(":")
        path = source.endswith(".py")
        return _attribute(_run_file(source) if path else _import(source), attribute, spec)
    name = _resolve(spec)
    if name in _own():
        return _attribute(importlib.import_module(_own()[name]), "RETRIEVER", name)
    entry = _installed()[name]
    try:
        return entry.load()  # type: ignore[no-any-return]
    except Exception as error:
        raise _broken(error, f"{name} ({entry.value})") from error


def _resolve(spec: str) -> str:
    """The known name for what was typed; case and ``-`` for ``_`` are forgiven."""
    wanted = spec.strip().lower().replace("-", "_")
    if wanted not in names():
        near = difflib.get_close_matches(wanted, names(), n=1)
        raise UsageError(
            f"there is no retriever '{spec}'",
            expected=f"one of {', '.join(names())}; or package.module:Class, or file.py:Class",
            fix=f"did you mean '{near[0]}'?" if near else None,
        )
    return wanted


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _broken(error, module) from error
        raise MissingError(
            f"there is no module '{error.name}'", expected=_FORMS, fix=f"pip install {error.name}"
        ) from error
    except Exception as error:
        raise _broken(error, module) from error


def _run_file(source: str) -> Any:
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise MissingError("there is no such file", where=str(path), expected=_FORMS)
    name = f"_m2kr_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("not a Python file", where=str(path), expected=_FORMS)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and typing look their module up while its classes are made.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _broken(error, str(path)) from error
    return module


def _attribute(module: Any, name: str, spec: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        has = [n for n, v in vars(module).items() if isinstance(v, type) and not n.startswith("_")]
        raise InputError(
            f"there is no class '{name}'", where=spec, expected="one of " + ", ".join(has)
        )
    return found  # type: ignore[no-any-return]


def _broken(error: Exception, where: str) -> M2KRError:
    if isinstance(error, M2KRError):
        return error
    return InputError(f"can't be imported: {type(error).__name__}: {error}", where=where)
