"""Moving a complete staging folder into its edition, so that a kill at any point loses nothing.

The staged manifest is the decision to publish: once it exists, the next run only rolls forward. The
published manifest is what readers look for; it goes first when an old build is replaced, and comes
last.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.building.hashing import shard_facts
from m2kr.paths import manifest_path
from m2kr.schema import SUFFIX


def published_names(config: str) -> list[str]:
    """Everything a source owns in an edition folder; the manifest last."""
    return [*(f"{config}_{s}" for s in SUFFIX.values()), f"{config}_ledger.parquet"]


def publish(staging: Path, edition: Path, config: str) -> None:
    """Moves the staged tables and the manifest into the edition; safe to run again after a kill."""
    staged_manifest = manifest_path(staging, config)
    names = [name for name in published_names(config) if (staging / name).exists()]
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


def remove(edition: Path, config: str) -> int:
    """Takes a source out of an edition, its manifest first; the bytes of what is gone."""
    atomic.discard(manifest_path(edition, config))
    atomic.fsync_dir(edition)
    size = 0
    for name in published_names(config):
        path = edition / name
        files = path.rglob("*") if path.is_dir() else [path]
        size += sum(file.stat().st_size for file in files if file.is_file())
        atomic.discard(path)
    return size


def listed_files(folder: Path, config: str, tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of all that is published beside the manifest; shards were hashed when written."""
    known = {
        f"{table}/{shard['file']}": shard
        for table, facts in tables.items()
        for shard in facts["shards"]
    }
    paths = [
        path
        for name in published_names(config)
        for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
        if path.is_file()
    ]
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(paths):
        name = path.relative_to(folder).as_posix()
        facts = known.get(name) or shard_facts(path)
        found[name] = {"size": facts["size"], "sha256": facts["sha256"]}
    return found
