"""Readers by name, imported when they are opened."""

import difflib
import importlib
from collections.abc import Mapping

from m2kr.errors import UsageError
from m2kr.rag.own_reader import open_own_reader
from m2kr.rag.reader import Reader
from m2kr.retrievers._settings import split_off

# Module below this folder and class by name. After a colon stands the model: ``hf:FOLDER``.
_READERS = {
    "extractive": ("extractive", "ExtractiveReader"),
    "blip2": ("blip2", "Blip2Reader"),
    "hf": ("hf", "HfReader"),
    "http": ("http", "HttpReader"),
}
_BY_STRINGS = frozenset(("http",))  # their ``from_settings`` reads strings itself


def reader_names() -> tuple[str, ...]:
    """The readers that have a name."""
    return tuple(sorted(_READERS))


def open_reader(spec: str, settings: Mapping[str, object] | None = None) -> Reader:
    """A new reader.

    Args:
        spec: A name, or one and its model (``hf:FOLDER``), or ``package.module:Class`` or
            ``file.py:Class``, which run the user's code.
        settings: Arguments of its ``__init__``; strings are turned into the annotated types.

    Raises:
        UsageError: no such reader or setting, or a value of the wrong type; says which exist.
        MissingError: a file, a module or a package that it needs is not on this machine.
        InputError: the user's file can't be imported, or what it names is no reader.
    """
    name, colon, model = spec.strip().partition(":")
    known = name.lower().replace("-", "_")
    if known in _READERS and (not colon or not spec.partition(":")[0].endswith(".py")):
        if colon and not model.strip():
            raise UsageError("no model is named", where=spec, expected=f"{known}:MODEL")
        given = ({"model": model.strip()} if colon else {}) | dict(settings or {})
        module, kind = _READERS[known]
        factory = getattr(importlib.import_module(f"m2kr.rag.readers.{module}"), kind)
        if known in _BY_STRINGS:
            opened: Reader = factory.from_settings({key: str(v) for key, v in given.items()})
            return opened
        arguments, attributes = split_off(factory, given, f"reader {known}")
        made: Reader = factory(**arguments)
        for key, value in attributes.items():
            setattr(made, key, value)
        return made
    if colon:
        return open_own_reader(spec, settings)
    near = difflib.get_close_matches(known, _READERS, n=1)
    fix = f"did you mean '{near[0]}'?" if near else None
    raise UsageError(
        f"there is no reader '{spec}'",
        expected=f"one of {', '.join(reader_names())}; or package.module:Class, file.py:Class",
        fix=f"{spec.strip()}:CLASS" if spec.strip().endswith(".py") else fix,
    )
