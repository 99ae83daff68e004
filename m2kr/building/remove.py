"""Taking a built source out of an edition."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from m2kr.building import card, publish
from m2kr.data.load import known_source, manifest_of, source_of, survey
from m2kr.data.manifests import config_of
from m2kr.errors import MissingError, UsageError
from m2kr.locks import hold
from m2kr.paths import manifest_path
from m2kr.sources import normalise


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
    have, damaged = survey(root)
    name = known_source(source, root)
    configs = {
        folder: manifest_of(folder, name)["source"]["config"]
        for folder in have.get(name, {}).values()
    }
    configs |= {
        path.parent: config_of(path)
        for path in damaged
        if normalise(source_of(path)) == normalise(name)
    }
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
        size = publish.remove(folder, config)
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
