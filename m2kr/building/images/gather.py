"""``m2kr images``: what is needed, what is here, the rest fetched, all of it checked, the coverage told."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr.building.images.check import ImageLimits
from m2kr.building.images.coverage import (
    ImageCoverage,
    Needed,
    addresses,
    examine,
    lacking,
    needed,
)
from m2kr.building.images.declared import ImageArchive
from m2kr.building.images.from_archives import NOT_INSIDE, Means, Taken, obtain
from m2kr.building.images.shard_writer import Store
from m2kr.data.images.places import add_roots, store_folder
from m2kr.data.images.roots import open_root
from m2kr.data.load import Split
from m2kr.errors import M2KRError, UsageError
from m2kr.progress import SILENT, Progress

if TYPE_CHECKING:
    from m2kr.building.images.hosts import Rules
    from m2kr.building.images.members import Fault

log = logging.getLogger("m2kr.building.images")
WEB = "urls"  # the name by which images are asked for from their own addresses


@dataclass(frozen=True)
class Ask:
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


@dataclass(frozen=True)
class Gathered:
    """What became of it.

    Attributes:
        coverage: Of each split.
        taken: From each archive that was used.
        failed: Archives that could not be used, and why.
        report: The JSON file.
    """

    coverage: ImageCoverage
    taken: list[Taken]
    failed: dict[str, M2KRError]
    report: Path


def gather(
    ask: Ask,
    means: Means,
    *,
    limits: ImageLimits | None = None,
    checkers: int | None = None,
    progress: Progress = SILENT,
) -> Gathered:
    """Fetches the images that some splits need and are nowhere yet, and checks all of them.

    Args:
        ask: What.
        means: How to fetch.
        limits: Of an image, when it is decoded.
        checkers: Decoder processes.
        progress: Told of bytes and images.

    Raises:
        UsageError: no archive has a name that was given.
        InputError: a root or a table is damaged.
        MissingError: a root is not there.
        M2KRError: the store can't be written.
    """
    folder = store_of(ask.splits[0], means.folder)
    usable = chosen(ask.archives, ask.only)
    web = WEB in ask.only
    if ask.offline:
        usable, web = [], False
    for root in ask.roots:
        open_root(root)
    if ask.roots:
        add_roots(folder, ask.roots)
    wanted = [needed(split, passages=ask.passages) for split in ask.splits]
    taken: list[Taken] = []
    failed: dict[str, M2KRError] = {}
    why: dict[str, tuple[str, str]] = {}
    absent = absentees(wanted, ask.splits[0])
    if absent and (usable or web):
        with Store(folder) as store:
            for archive in usable:
                mine = [path for path in absent if archive.may_hold(path) and not store.has(path)]
                if not mine:
                    continue
                why |= dict.fromkeys(mine, ("no archive has it", ""))
                try:
                    got = obtain(archive, mine, store, means, progress)
                except M2KRError as error:
                    log.info("%s: %s", archive.name, error)
                    failed[archive.name] = error
                    why |= dict.fromkeys(mine, ("its archive can't be read", archive.name))
                    continue
                taken.append(got)
                for path, fault in got.faults.items():
                    if fault.rule != NOT_INSIDE:
                        why[path] = fault.rule, fault.detail or fault.archive
            if web:
                taken.append(_web(ask, absent, store, why, means, progress))
    fresh = dataclasses.replace(ask.splits[0])
    name = ask.splits[0].manifest["source"]["config"]
    table = folder / "reports" / fresh.edition / f"{name}.parquet"
    coverage = examine(
        wanted,
        fresh.images,
        table,
        why,
        jobs=checkers,
        limits=limits,
        anew=ask.anew,
        progress=progress,
    )
    report = table.with_suffix(".json")
    atomic.write_json(report, summary(ask, coverage, taken, failed))
    return Gathered(coverage, taken, failed, report)


def _web(
    ask: Ask,
    absent: Sequence[str],
    store: Store,
    why: dict[str, tuple[str, str]],
    means: Means,
    progress: Progress,
) -> Taken:
    """The images that are still lacking, each from its address in the tables."""
    from m2kr.building.images.from_urls import fetch_urls

    left = {path for path in absent if not store.has(path)}
    faults: dict[str, Fault] = {}
    wanted = {path: url for split in ask.splits for path, url in addresses(split, left).items()}
    got = fetch_urls(
        wanted,
        store,
        lambda fault: faults.__setitem__(fault.name, fault),
        rules=ask.web,
        jobs=2 * means.jobs,
        progress=progress,
    )
    why |= dict.fromkeys(left - wanted.keys(), ("no address in the tables", ""))
    why |= {path: (fault.rule, fault.detail or fault.archive) for path, fault in faults.items()}
    return Taken(WEB, got.added, got.received, faults)


def store_of(split: Split, root: Path) -> Path:
    """The folder that a source's images are put in."""
    source = split.manifest["source"]
    return store_folder(root, source.get("image_store") or source["name"])


def absentees(wanted: Sequence[Needed], split: Split) -> list[str]:
    """The images of all splits that are nowhere, each once."""
    found: dict[str, None] = {}
    for each in wanted:
        found |= dict.fromkeys(lacking(each, split.images))
    return list(found)


def chosen(archives: Sequence[ImageArchive], only: Sequence[str]) -> list[ImageArchive]:
    """The archives that may be used.

    Raises:
        UsageError: there is none of such a name.
    """
    if not only:
        return [archive for archive in archives if not archive.ask]
    only = [name for name in only if name != WEB]
    found = [
        a for a in archives if any(a.name in (o, f"{a.name.partition('/')[0]}/{o}") for o in only)
    ]
    unknown = set(only) - {n for a in found for n in (a.name, a.name.partition("/")[2])}
    if unknown:
        raise UsageError(
            f"no archive of this source is called {sorted(unknown)[0]!r}",
            expected="one of " + ", ".join([*(a.name for a in archives), WEB]),
        )
    return found


def summary(
    ask: Ask, coverage: ImageCoverage, taken: Sequence[Taken], failed: Mapping[str, M2KRError]
) -> dict[str, Any]:
    """The report as JSON."""
    split = ask.splits[0]
    return {
        "format": "m2kr-images-1",
        "source": split.source,
        "edition": split.edition,
        "splits": {
            each.split: dataclasses.asdict(each) | {"share": round(each.share, 6)}
            for each in coverage.splits
        },
        "reasons": coverage.reasons,
        "examples": coverage.examples,
        "archives": [
            {
                "name": each.archive,
                "added": each.added,
                "received": each.received,
                "not had": len(each.faults),
            }
            for each in taken
        ],
        "failed": {name: error.as_dict() for name, error in failed.items()},
    }
