"""Builders by the names of their sources: found, imported, and told from broken ones."""

import importlib
from functools import cache

from m2kr.building.spec import Builder
from m2kr.errors import InputError, ends_process, last_frame, one_line
from m2kr.sources import (
    Source,
    builder_folders,
    builder_modules,
    builder_names,
    nearest_source,
    normalise,
)


def builder(name: str) -> Builder:
    """The builder of a source.

    Raises:
        UsageError: nothing of that name; suggests the nearest.
        InputError: the builder can't be imported, or declares no source of its name.
    """
    return _imported(name if name in builder_modules() else resolve_source(name))


def sources() -> dict[str, Source]:
    """Every source that m2kr can build, by name; a broken builder's is left out: see `broken_builders`."""
    return {
        name: _imported(name).source
        for name in sorted(builder_modules())
        if name not in broken_builders()
    }


@cache
def broken_builders() -> dict[str, InputError]:
    """What is wrong with the builders that can't be used, by name; imports all of them."""
    broken = {}
    for name in sorted(builder_modules()):
        try:
            _imported(name)
        except InputError as error:
            broken[name] = error
    return broken


def _imported(name: str) -> Builder:
    """The builder in the file of a name."""
    path = builder_modules()[name]
    try:
        module = importlib.import_module(path)
    except (Exception, SystemExit) as error:
        if ends_process(error):
            raise
        folders = builder_folders()
        raise InputError(
            f"the builder '{name}' can't be imported: {one_line(error)}",
            where=last_frame(error, lambda file: file.parent in folders) or path,
        ) from error
    kind = vars(module).get("BUILDER")
    if not (isinstance(kind, type) and issubclass(kind, Builder) and _name_of(kind) == name):
        raise InputError(
            f"the builder '{name}' declares no source of its name",
            where=str(module.__file__),
            expected=f'BUILDER = a class derived from Builder, with source = Source(name="{name}", …)',
        )
    return kind()


def _name_of(kind: type[Builder]) -> str:
    return kind.source.name if "source" in vars(kind) else ""


def resolve_source(name: str) -> str:
    """The canonical source name for what a user typed; case, punctuation and aliases are forgiven.

    Imports builders where it takes their aliases; readers use `m2kr.data.built_sources.BuiltSources.name_of`.

    Args:
        name: What was typed.

    Raises:
        UsageError: nothing of that name; suggests the nearest.
    """
    names = builder_names()
    if normalise(name) not in names:
        for source in sources().values():
            for label in (source.config, *source.aliases):
                names.setdefault(normalise(label), source.name)
    return nearest_source(name, names)
