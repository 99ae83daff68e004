"""Putting a built source into its edition, and taking it out, so that a kill at any point loses nothing.

The staged manifest is the decision to publish: once it exists, the next run only rolls forward. The
published manifest is what readers look for; it goes first when an old build is replaced, and comes
last.
"""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.building import card
from m2kr.building.hashing import shard_facts
from m2kr.data.built_sources import BuiltSources
from m2kr.data.manifests import config_of
from m2kr.errors import MissingError, UsageError
from m2kr.locks import hold
from m2kr.paths import manifest_path
from m2kr.schema import SUFFIX


def _published_names(config: str) -> list[str]:
    """Everything a source owns in an edition folder; the manifest last."""
    return [*(f"{config}_{s}" for s in SUFFIX.values()), f"{config}_ledger.parquet"]


def publish(staging: Path, edition: Path, config: str) -> None:
    """Moves the staged tables and the manifest into the edition; safe to run again after a kill."""
    staged_manifest = manifest_path(staging, config)
    names = [name for name in _published_names(config) if (staging / name).exists()]
    if names:
        atomic.discard(manifest_path(edition, config))
        # It tells readers with a cache of their own which rows are here (see `card`).
        (edition / "README.md").unlink(missing_ok=True)
        atomic.fsync_dir(edition)
    old = staging / "replaced"
    for name in names:
        if (edition / name).exists():
            old.mkdir(exist_ok=True)
            (edition / name).rename(old / name)
        (staging / name).rename(edition / name)
    atomic.fsync_dir(edition)
    atomic.replace(staged_manifest, manifest_path(edition, config))
    shutil.rmtree(staging)


def listed_files(folder: Path, config: str, tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of all that is published beside the manifest; shards were hashed when written."""
    known = {
        f"{table}/{shard['file']}": shard
        for table, facts in tables.items()
        for shard in facts["shards"]
    }
    paths = [
        path
        for name in _published_names(config)
        for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
        if path.is_file()
    ]
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(paths):
        name = path.relative_to(folder).as_posix()
        facts = known.get(name) or shard_facts(path)
        found[name] = {"size": facts["size"], "sha256": facts["sha256"]}
    return found


@dataclass(frozen=True)
class Removed:
    """A source that is gone from an edition.

    Attributes:
        source: Its name.
        folder: The edition folder, which is gone, too, if it held nothing else.
        bytes: Of its tables.
    """

    source: str
    folder: Path
    bytes: int


def remove(
    source: str, root: Path, *, edition: str | None = None, every: bool = False
) -> list[Removed]:
    """Takes a source out of one edition or all; waits if a process is building it.

    Images, downloads, results and cached rows stay. Who has the tables open keeps reading them.

    Args:
        source: Name or alias; a damaged manifest is no hindrance.
        root: The data root.
        edition: Which, if several hold it.
        every: All of them.

    Raises:
        UsageError: no such source, or several editions hold it.
        MissingError: it is not built.
    """
    here = BuiltSources.below(root)
    name = here.name_of(source)
    configs = {found.folder: found.config for found in here.editions.get(name, {}).values()}
    configs |= {path.parent: config_of(path) for path in here.damaged_of(name)}
    chosen = {f: config for f, config in configs.items() if edition in (None, f.name)}
    if not chosen:
        where = str(root / edition) if edition else str(root)
        raise MissingError(f"'{name}' is not built here", where=where, fix="m2kr list")
    if len(chosen) > 1 and not every:
        raise UsageError(
            f"'{name}' is built in several editions",
            expected="one of " + ", ".join(folder.name for folder in chosen),
            fix=f"--edition {next(iter(chosen)).name}, or --all",
        )
    return [_remove(name, folder, config) for folder, config in sorted(chosen.items())]


def _remove(source: str, folder: Path, config: str) -> Removed:
    with hold(folder / f".{config}.lock", f"the build of {source} in {folder}"):
        atomic.discard(manifest_path(folder, config))  # first
        atomic.fsync_dir(folder)
        size = 0
        for path in (folder / name for name in _published_names(config)):
            files = path.rglob("*") if path.is_dir() else [path]
            size += sum(file.stat().st_size for file in files if file.is_file())
            atomic.discard(path)
        shutil.rmtree(folder / f".staging-{config}", ignore_errors=True)
    with hold(folder / ".edition.lock", f"the card of {folder}"):
        if any(folder.glob("*_manifest.json")):
            card.write_cards(folder)
        else:
            for name in card.cards(folder.name, []):
                (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds something else
        folder.rmdir()
    return Removed(source, folder, size)


def discard_unfinished(folder: Path, config: str) -> None:
    """Removes what a build that can't succeed has left in an edition of its own."""
    with hold(folder / f".{config}.lock", f"the build of {config} in {folder}"):
        if not manifest_path(folder, config).exists():
            shutil.rmtree(folder / f".staging-{config}", ignore_errors=True)
    with contextlib.suppress(OSError):  # it is somebody else's, too
        folder.rmdir()
