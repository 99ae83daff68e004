"""Retrievers by name: one file in this folder is one retriever.

A file ``thing.py`` holds a class and the line ``RETRIEVER = Thing``, and is then known as ``thing``;
nothing else has to be edited. Files that start with ``_`` are shared helpers. Other packages add
theirs by the entry point group ``m2kr.retrievers``, and a script's is named ``file.py:Class``.
"""

import difflib
import importlib
import importlib.metadata
import logging
import pkgutil
import shlex
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import InputError, UsageError, one_line

if TYPE_CHECKING:
    from m2kr.retrieval.protocol import Retriever

__all__ = ["adapted", "create", "find", "names"]

logger = logging.getLogger("m2kr.retrievers")

_GROUP = "m2kr.retrievers"
_REPLAY = "run:"
# What other libraries' models are named by: ``st:NAME``. The rest of the name is the setting ``model``.
_LIBRARIES = {
    "st": ("_sentence_transformers", "SentenceTransformers"),
    "mteb": ("_mteb", "mteb_retriever"),
}
_RUN_ENDINGS = frozenset(
    (".trec", ".run", ".res", ".txt", ".tsv", ".csv", ".json", ".parquet", ".gz")
)


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
    entries: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in _entries():
        name = entry.name.lower().replace("-", "_")
        if name in _own() or name in entries:
            logger.warning("retriever '%s' of %s is left out: taken", entry.name, entry.value)
        else:
            entries[name] = entry
    return entries


def _entries() -> list[importlib.metadata.EntryPoint]:
    """What is installed in our group; a package whose entry points can't be read is left out."""
    try:
        return list(importlib.metadata.entry_points(group=_GROUP))
    except Exception:  # noqa: BLE001 - one package's errors are its own: now one by one
        entries = []
        for package in importlib.metadata.distributions():
            try:
                entries += [entry for entry in package.entry_points if entry.group == _GROUP]
            except Exception as error:  # noqa: BLE001
                name = package.metadata["Name"] if package.metadata else "a package"
                logger.warning("entry points of %s can't be read: %s", name, one_line(error))
        return entries


def names() -> tuple[str, ...]:
    """Every retriever that has a name, sorted; nothing is imported to find out."""
    return tuple(sorted({*_own(), *_installed()}))


def create(spec: str, settings: Mapping[str, object] | None = None) -> "Retriever":
    """A new retriever.

    Args:
        spec: A name, ``package.module:Class``, ``file.py:Class``, ``st:NAME_OR_PATH`` for a model of
            sentence-transformers, ``mteb:NAME``, or ``run:FILE`` to replay a run. The second and third
            run the user's code; a submission is never checked with them. The file of a run may be a
            pattern (``results/mini.test.bm25.*.run.parquet``) of one file, or a result whose run is
            beside it.
        settings: Arguments of its ``__init__``; strings are turned into the annotated types.

    Raises:
        UsageError: no such retriever or setting, or a value of the wrong type; says which exist.
        MissingError: the file, module or a package that it needs is not on this machine.
        InputError: the user's file can't be imported, or what it names is no retriever.

    Example:
        >>> create("bm25", {"k1": "0.9"}).settings["k1"]
        0.9
    """
    if spec.startswith(_REPLAY):
        return _replay(spec, settings)
    return create_by(find(spec), spec, settings)


def create_by(
    factory: Callable[..., Any], spec: str, settings: Mapping[str, object] | None = None
) -> "Retriever":
    """The same, by what `find` gave for the spec: a file of the user's is then not run again."""
    from m2kr.retrieval.own_code import home_of, own_code, remember_home
    from m2kr.retrieval.search_split import check_retriever
    from m2kr.retrievers._settings import split_off

    if (library := _library(spec)) is not None:
        settings = {"model": library[1], **(settings or {})}
    given, attributes = split_off(factory, settings or {}, f"retriever {spec}")
    with own_code(factory, f"making {getattr(factory, '__name__', spec)}({_shown(given)})"):
        made = factory(**given)
        for name, value in attributes.items():
            setattr(made, name, value)
    remember_home(type(made), home_of(factory))
    check_retriever(made, spec)
    return made  # type: ignore[no-any-return]


def adapted(given: object) -> "Retriever":
    """A retriever for an object of the user's: itself, or what makes one of another library's model.

    Args:
        given: A retriever, or a model of sentence-transformers or MTEB.

    Raises:
        UsageError: a model of a kind that makes no vectors of rows.
    """
    if any(k.__module__.partition(".")[0] == "sentence_transformers" for k in type(given).__mro__):
        from m2kr.retrievers._sentence_transformers import SentenceTransformers, require_supported

        require_supported(given)
        model: Any = given
        return SentenceTransformers(model=model)
    if hasattr(type(given), "mteb_model_meta") and not hasattr(given, "modalities"):
        from m2kr.retrievers._mteb import mteb_retriever

        mteb_model: Any = given
        return mteb_retriever(model=mteb_model)
    return given  # type: ignore[return-value] # whether it is one is looked at before it is used


def _library(spec: str) -> tuple[str, str] | None:
    """Prefix and model of a spec such as ``st:NAME``."""
    prefix, colon, model = spec.partition(":")
    if not colon or prefix not in _LIBRARIES:
        return None
    if not model.strip():
        raise UsageError("no model is named", where=spec, expected=f"{prefix}:NAME")
    return prefix, model.strip()


def _shown(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def _replay(spec: str, settings: Mapping[str, object] | None) -> "Retriever":
    from m2kr.evaluation.result_files import result_in
    from m2kr.retrieval.replay import RunRetriever

    if settings:
        raise UsageError("a run that is replayed has no settings", where=spec)
    path = Path(spec.removeprefix(_REPLAY)).expanduser()
    if not path.exists() and (files := sorted(path.parent.glob(path.name))):
        if len(files) > 1:
            raise UsageError(
                f"{len(files)} files have such a name",
                where=spec,
                expected="one of " + ", ".join(file.name for file in files[:5]),
            )
        path = files[0]
    try:
        return RunRetriever(path)
    except InputError:
        if (result := result_in(path)) is None:
            raise
    replayed = RunRetriever(result.load_run())
    replayed.file = result.run_path.name if result.run_path else ""
    return replayed


def find(spec: str) -> Callable[..., Any]:
    """The class (or function) that makes a retriever; see `create`."""
    from m2kr.retrieval.own_code import broken, load_file, load_module, remember_home

    if (library := _library(spec)) is not None:
        module_name, attribute = _LIBRARIES[library[0]]
        return _attribute(importlib.import_module(f"{__name__}.{module_name}"), attribute, spec)
    if ":" in spec:
        source, _, attribute = spec.rpartition(":")
        load = load_file if source.endswith(".py") else load_module
        module, home = load(source)
        factory = _attribute(module, attribute, spec)
        remember_home(factory, home)
        return factory
    name = _resolve(spec)
    where = f"the retriever '{name}'"
    try:
        if name in _own():
            return _attribute(importlib.import_module(_own()[name]), "RETRIEVER", where)
        where += f" ({_installed()[name].value})"
        installed: Callable[..., Any] = _installed()[name].load()
    except (Exception, SystemExit) as error:
        raise broken(error, where, folders=[Path(folder) for folder in __path__]) from error
    return installed


def _resolve(spec: str) -> str:
    """The known name for what was typed; case and ``-`` for ``_`` are forgiven."""
    name = spec.strip().lower().replace("-", "_")
    if name not in names():
        if Path(spec).suffix in _RUN_ENDINGS:
            raise UsageError(
                "a run file is given as a retriever",
                where=spec,
                fix=shlex.join(("--retriever", f"run:{spec}")),
            )
        near = difflib.get_close_matches(name, names(), n=1)
        raise UsageError(
            f"there is no retriever '{spec}'",
            expected=f"one of {', '.join(names())}; or package.module:Class, file.py:Class, "
            "st:NAME, mteb:NAME, run:FILE",
            fix=f"did you mean '{near[0]}'?" if near else _with_class(spec),
        )
    return name


def _with_class(spec: str) -> str | None:
    """What somebody probably meant who named a file, or a class by dots."""
    if spec.strip().endswith(".py"):
        return f"{spec}:CLASS"
    module, _, name = spec.rpartition(".")
    return f"{module}:{name}" if module else None


def _attribute(module: Any, name: str, spec: str) -> Callable[..., Any]:
    factory = getattr(module, name, None)
    if not callable(factory):
        own = {n: v for n, v in vars(module).items() if callable(v) and not n.startswith("_")}
        has = [n for n, v in own.items() if getattr(v, "__module__", "") == module.__name__]
        raise InputError(f"there is no '{name}'", where=spec, expected="one of " + ", ".join(has))
    return factory  # type: ignore[no-any-return]
