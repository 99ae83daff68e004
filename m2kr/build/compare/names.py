"""Finding the two versions that a user wants to compare: editions, sources in them, folders."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2kr.build.compare.diff import Version
from m2kr.data.load import built_source
from m2kr.data.manifests import read_manifests
from m2kr.errors import MissingError, UsageError
from m2kr.paths import editions

log = logging.getLogger("m2kr.build")

Sources = Mapping[str, Mapping[str, Any]]  # manifests by source name


def find_versions(
    a: str, b: str, root: Path, source: str | None = None
) -> list[tuple[Version, Version]]:
    """What to compare with what; several pairs if two editions share several sources.

    Args:
        a: ``EDITION/SOURCE``, ``EDITION``, or the path of an edition folder (with ``/SOURCE`` or not).
        b: The same. One that names no source takes the other's.
        root: The data root that editions are looked up in.
        source: The source, where neither names one.

    Raises:
        UsageError: a name means nothing, names clash, or the editions share no source.
        MissingError: there is no such edition, or it lacks the source.
    """
    (folder_a, have_a, said_a), (folder_b, have_b, said_b) = (_edition(x, root) for x in (a, b))
    if source is not None and (said_a or said_b):
        raise UsageError(
            "--source says again what A or B says",
            expected="EDITION/SOURCE twice, or EDITION twice and --source",
        )
    said_a, said_b = said_a or said_b or source, said_b or said_a or source
    if said_a is None or said_b is None:
        shared = [name for name in have_a if name in have_b]
        if not shared:
            raise UsageError(
                f"'{folder_a.name}' and '{folder_b.name}' share no source",
                expected=f"{_held(folder_a, have_a)}; {_held(folder_b, have_b)}",
                fix=f"m2kr diff {a}/{next(iter(have_a))} {b}/{next(iter(have_b))}",
            )
        names = [(name, name) for name in shared]
    else:
        names = [(_source(said_a, folder_a, have_a), _source(said_b, folder_b, have_b))]
    return [(Version(folder_a, have_a[x]), Version(folder_b, have_b[y])) for x, y in names]


def _edition(text: str, root: Path) -> tuple[Path, Sources, str | None]:
    """The edition folder that a text means, what it holds, and the source that the text names."""
    path = Path(text).expanduser()
    known = {folder.name: folder for folder in editions(root)}
    edition, _, source = text.strip("/").partition("/")
    if not text.startswith((".", "/", "~")) and edition in known and "/" not in source:
        return known[edition], _held_in(known[edition]), source or None
    for folder, name in ((path, None), (path.parent, path.name)):
        if any(folder.glob("*_manifest.json")) and (name is None or os.sep in text or "/" in text):
            return folder.absolute(), _held_in(folder), name
    raise MissingError(
        f"'{text}' is no edition under {root} and no edition folder",
        expected="one of " + "; ".join(_held(f, _held_in(f)) for f in known.values())
        if known
        else "EDITION/SOURCE, but nothing is built here",
        fix="m2kr list",
    )


def _held_in(folder: Path) -> Sources:
    sound, damaged = read_manifests(folder)
    if damaged and not sound:
        raise next(iter(damaged.values()))
    for path, error in damaged.items():
        log.warning("left out: %s: %s", path, error.what)
    return sound


def _held(folder: Path, have: Sources) -> str:
    return ", ".join(f"{folder.name}/{name}" for name in have)


def _source(said: str, folder: Path, have: Sources) -> str:
    name = built_source(said, {name: {folder.name: folder} for name in have})
    if name not in have:
        raise MissingError(
            f"'{name}' is not built in '{folder.name}'", expected=f"one of {_held(folder, have)}"
        )
    return name
