"""Checking all that is built under a data root: sources, cards and images."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from m2kr.building import card
from m2kr.building.adopt import adopt
from m2kr.building.images.shard_writer import check_store
from m2kr.building.verify import Finding, verify
from m2kr.data.file_checks import OTHER_BYTES, hashes
from m2kr.data.images.places import SourceRoots
from m2kr.data.images.shards import holds_shards
from m2kr.data.load import source_of
from m2kr.data.manifests import (
    EarlierManifestError,
    build_again,
    config_of,
    read_manifests,
    rebuild_command,
)
from m2kr.errors import M2KRError, from_system, one_line
from m2kr.locks import hold
from m2kr.paths import editions
from m2kr.progress import SILENT, Progress
from m2kr.sources import normalise

Manifest = Mapping[str, Any]


def verify_root(
    root: Path,
    source: str | None = None,
    edition: str | None = None,
    progress: Progress = SILENT,
) -> Iterator[tuple[str, Finding]]:
    """Checks all that is built under a data root; nothing that is damaged ends it.

    Args:
        root: The data root.
        source: One source by its canonical name; all if absent.
        edition: One edition; all if absent.
        progress: Told of each table, in rows.

    Yields:
        Edition names and what was checked there.
    """
    bars, stores = progress, set[Path]()

    def named(manifests: Mapping[Path, M2KRError]) -> dict[Path, M2KRError]:
        return {
            path: error
            for path, error in manifests.items()
            if source is None or normalise(source) == normalise(source_of(path))
        }

    for folder in editions(root):
        if edition not in (None, folder.name):
            continue
        for path, error in named(read_manifests(folder)[1]).items():
            if isinstance(error, EarlierManifestError):
                with suppress(M2KRError, OSError), hold(_lock(path), f"the manifest {path}"):
                    if adopt(path, bars):
                        card.write_cards_of(folder)
        sound, damaged = read_manifests(folder)
        for path, error in named(damaged).items():
            early = isinstance(error, EarlierManifestError)
            said = f"{error.what}; they were checked, and do not fit" if early else error.what
            yield folder.name, Finding(path.name, "manifest", said, build_again(path))
        chosen = [record for name, record in sound.items() if source in (None, name)]
        for record in chosen:
            findings = [*verify(folder, record, bars), *_images(folder, record, stores, bars)]
            yield from ((folder.name, finding) for finding in findings)
        if chosen and not damaged:
            yield from ((folder.name, each) for each in _cards(folder, list(sound.values())))


def _lock(manifest: Path) -> Path:
    return manifest.with_name(f".{config_of(manifest)}.lock")


def _cards(edition: Path, records: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether card and Croissant file are those of the manifests; a copied edition may have a new name.

    They follow from the manifests: one that is gone is written anew.
    """
    names = dict.fromkeys([edition.name, *(record["edition"] for record in records)])
    made = [card.cards(name, records) for name in names]
    gone = [name for name in made[0] if not (edition / name).exists()]
    if gone:
        with suppress(M2KRError, OSError):
            card.write_cards_of(edition)
    for name in made[0]:
        problem, fix = "", f"delete {edition / name}: m2kr verify then writes it anew"
        try:
            seen = (edition / name).read_bytes()
            if name in gone:
                problem, fix = "it was gone", "nothing more: it is written anew"
            elif not any(cards[name] == seen for cards in made):
                problem = "it is not what this m2kr makes of the manifests here"
        except OSError as error:
            problem = f"it can't be read: {error.strerror}"
        yield Finding(name, "card", problem, fix)


def _images(
    edition: Path, manifest: Manifest, stores: set[Path], bars: Progress
) -> Iterator[Finding]:
    """Image roots are where the manifest says; archives and stores that m2kr made are what they were.

    Args:
        edition: The edition folder.
        manifest: The source's manifest.
        stores: Image stores that were checked before; gets those that are checked now.
        bars: Told of each store, in images.
    """
    source = manifest["source"]
    recorded = tuple((edition / root).resolve() for root in manifest["image_roots"])
    store = source.get("image_store") or source["name"]
    roots = SourceRoots((), recorded, edition.parent, store)
    fix = f"m2kr images {source['name']} --images PATH --data {edition.parent}"
    if roots.none:
        return
    try:
        there = roots.paths()
    except M2KRError as error:
        yield Finding("images", "images", f"{error.where}: {error.what}", error.fix or fix)
        there = []
    hashed = {each["name"]: each["sha256"] for each in manifest["inputs"]}
    for path in there:
        if path in stores:
            continue
        problem = ""
        try:
            if path in recorded and path.is_file() and path.name in hashed:
                bars.start(path.name, None)
                ((identity, sha256),) = hashes(path.parent, [path.name]).values()
                bars.done(path.name)
                if identity is None or sha256 != hashed[path.name]:
                    problem = f"{path}: {OTHER_BYTES}"
                    fix = f"delete it, then {rebuild_command(manifest, edition)}"
            elif holds_shards(path):
                stores.add(path)
                problem = check_store(path, bars)
                fix = f"move it away with its index; m2kr images {source['name']} fetches anew"
        except (M2KRError, OSError) as error:
            ours = from_system(error)
            problem = f"{path}: {ours.what if ours else one_line(error)}"
        yield Finding("images", "images", problem, fix)
