"""``m2kr images``: what is needed, what is here, the rest fetched, all of it checked, the coverage told."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr.building.fetch.assets import ImageArchive
from m2kr.building.images.coverage import (
    ImageCoverage,
    absent_images,
    examine_images,
    image_urls,
    required_images,
)
from m2kr.building.images.from_archives import NOT_INSIDE, ArchiveResult, FetchOptions, obtain
from m2kr.building.images.shard_writer import ShardWriter
from m2kr.data.images.roots import open_root
from m2kr.data.images.source_roots import add_roots, store_folder
from m2kr.data.load import Split
from m2kr.errors import M2KRError, UsageError
from m2kr.progress import SILENT, Progress

if TYPE_CHECKING:
    from m2kr.building.images.hosts import Rules
    from m2kr.building.images.outcome import UnavailableImage

log = logging.getLogger("m2kr.building.images")
_WEB = "urls"  # the name by which images are asked for from their own addresses


@dataclass(frozen=True)
class ImageRequest:
    """What is asked of one source.

    Attributes:
        splits: Loaded, of one edition.
        archives: That the source names.
        only: Names of the archives that may be used; all but the very large ones if empty.
        roots: The user's own folders and archives, used in place from now on.
        passages: The images of passages are needed, too.
        offline: Nothing is asked of a network.
        anew: What is known to be sound is decoded again.
        web: Rules under which images are fetched one by one from the addresses in the tables; None
            for not at all. Asked for by the name ``urls`` in ``only``.
    """

    splits: Sequence[Split]
    archives: Sequence[ImageArchive]
    only: Sequence[str] = ()
    roots: Sequence[Path] = ()
    passages: bool = False
    offline: bool = False
    anew: bool = False
    web: "Rules | None" = None

    def store(self, data_root: Path) -> Path:
        """The folder that the source's images are put in."""
        source = self.splits[0].manifest["source"]
        return store_folder(data_root, source.get("image_store") or source["name"])

    def usable_archives(self) -> list[ImageArchive]:
        """The archives that may be used.

        Raises:
            UsageError: there is none of a name in ``only``.
        """
        if not self.only:
            return [archive for archive in self.archives if not archive.ask]
        names = {name for name in self.only if name != _WEB}
        usable, known = [], set()
        for archive in self.archives:
            file = archive.name.partition("/")[2]
            if not names.isdisjoint({archive.name, file}):
                usable.append(archive)
                known |= {archive.name, file}
        if names - known:
            raise UsageError(
                f"no archive of this source is called {sorted(names - known)[0]!r}",
                expected="one of " + ", ".join([*(a.name for a in self.archives), _WEB]),
            )
        return usable


@dataclass(frozen=True)
class ImageReport:
    """What became of it.

    Attributes:
        request: What was asked.
        coverage: Of each split.
        archives: What each one that was used gave.
        failed: Archives that could not be used, and why.
        path: The JSON file that holds the report.
    """

    request: ImageRequest
    coverage: ImageCoverage
    archives: list[ArchiveResult]
    failed: dict[str, M2KRError]
    path: Path

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        split = self.request.splits[0]
        return {
            "format": "m2kr-images-1",
            "source": split.source,
            "edition": split.edition,
            "splits": {
                of_split.split: dataclasses.asdict(of_split) | {"share": round(of_split.share, 6)}
                for of_split in self.coverage.splits
            },
            "reasons": self.coverage.reasons,
            "examples": self.coverage.examples,
            "archives": [
                {
                    "name": result.archive,
                    "added": result.added,
                    "received": result.received,
                    "not had": len(result.faults),
                }
                for result in self.archives
            ],
            "failed": {name: error.as_dict() for name, error in self.failed.items()},
        }


def gather_images(
    request: ImageRequest, options: FetchOptions, *, progress: Progress = SILENT
) -> ImageReport:
    """Fetches the images that some splits need and are nowhere yet, and checks all of them.

    Args:
        request: What.
        options: How to fetch.
        progress: Told of bytes and images.

    Raises:
        UsageError: no archive has a name that was given.
        InputError: a root or a table is damaged.
        MissingError: a root is not there.
        M2KRError: the store can't be written.
    """
    split = request.splits[0]
    folder = request.store(options.folder)
    usable, web = request.usable_archives(), _WEB in request.only
    if request.offline:
        usable, web = [], False
    for root in request.roots:
        open_root(root)
    if request.roots:
        add_roots(folder, request.roots)
    required = [required_images(each, passages=request.passages) for each in request.splits]
    archives: list[ArchiveResult] = []
    failed: dict[str, M2KRError] = {}
    why: dict[str, tuple[str, str]] = {}
    absent = absent_images(required, split.images)
    if absent and (usable or web):
        with ShardWriter(folder) as store:
            for archive in usable:
                mine = [path for path in absent if archive.may_hold(path) and not store.has(path)]
                if not mine:
                    continue
                why |= dict.fromkeys(mine, ("no archive has it", ""))
                try:
                    archives.append(obtain(archive, mine, store, options, progress))
                except M2KRError as error:
                    log.info("%s: %s", archive.name, error)
                    failed[archive.name] = error
                    why |= dict.fromkeys(mine, ("its archive can't be read", archive.name))
                else:
                    why |= _reasons(archives[-1])
            if web:
                left = {path for path in absent if not store.has(path)}
                why |= dict.fromkeys(left, ("no address in the tables", ""))
                archives.append(_from_web(request, left, store, options, progress))
                why |= _reasons(archives[-1])
    fresh = dataclasses.replace(split)  # what is here is looked up anew
    config = split.manifest["source"]["config"]
    table = folder / "reports" / split.edition / f"{config}.parquet"
    coverage = examine_images(
        required, fresh.images, table, why, anew=request.anew, progress=progress
    )
    report = ImageReport(request, coverage, archives, failed, table.with_suffix(".json"))
    atomic.write_json(report.path, report.as_dict())
    return report


def _reasons(result: ArchiveResult) -> dict[str, tuple[str, str]]:
    """Why images that an archive should have had could not be had from it."""
    faults = {path: fault for path, fault in result.faults.items() if fault.rule != NOT_INSIDE}
    return {path: (fault.rule, fault.detail or fault.archive) for path, fault in faults.items()}


def _from_web(
    request: ImageRequest,
    paths: set[str],
    store: ShardWriter,
    options: FetchOptions,
    progress: Progress,
) -> ArchiveResult:
    """Images that no archive had, each from its address in the tables."""
    from m2kr.building.images.from_urls import fetch_urls

    urls: dict[str, str] = {}
    for split in request.splits:
        urls |= image_urls(split, paths)
    faults: dict[str, UnavailableImage] = {}
    got = fetch_urls(
        urls,
        store,
        lambda fault: faults.__setitem__(fault.name, fault),
        rules=request.web,
        jobs=2 * options.jobs,
        progress=progress,
    )
    return ArchiveResult(_WEB, got.added, got.received, faults)
