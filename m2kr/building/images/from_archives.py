"""Images that are lacking, out of the archives that a source names: only they, wherever that can be."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from m2kr.building.fetch.assets import Asset, ImageArchive
from m2kr.building.fetch.fetch import fetch
from m2kr.building.fetch.retry import Policy
from m2kr.building.formats.archives import members
from m2kr.building.formats.limits import Limits
from m2kr.building.images.outcome import FetchCounts, OnFault, UnavailableImage
from m2kr.building.images.remote_archive import RemoteArchive, RemoteTar, RemoteZip
from m2kr.building.images.remote_file import JOBS, RemoteFile
from m2kr.building.images.shard_writer import ShardWriter
from m2kr.building.images.tar_index import index_remote_tar
from m2kr.data.images.index import MAX_BYTES
from m2kr.data.images.names import alternatives
from m2kr.data.images.tar_offsets import TarOffsets
from m2kr.errors import InputError, MissingError
from m2kr.progress import SILENT, Progress, task

log = logging.getLogger("m2kr.building.images")
NOT_INSIDE = "not in the archive"


@dataclass(frozen=True)
class FetchOptions:
    """What fetching may use.

    Attributes:
        folder: Of the data root; ``.cache/images`` and ``images/indexes`` below it hold indexes,
            ``downloads/images`` the archives that can't be read in part.
        names: Other names that an image may have (`m2kr.data.images.names`).
        whole: Archives that can't be read in part may be read or downloaded whole.
        indexes: Of tars, from others; fault apart by the name of the archive that they hold.
        jobs: Connections.
        policy: Timeouts and retries.
    """

    folder: Path
    names: Sequence[str] = ()
    whole: bool = False
    indexes: Sequence[Path] = ()
    jobs: int = JOBS
    policy: Policy = field(default_factory=Policy)

    def index_of(self, archive: ImageArchive) -> Path:
        """Where the index of a tar is kept, once it is made."""
        return self.folder / "images" / "indexes" / f"{archive.name}.index.parquet"


@dataclass(frozen=True)
class ArchiveResult:
    """What one archive gave.

    Attributes:
        archive: Its name.
        added: Images.
        received: Bytes.
        faults: Why each of the others was not had, by ``img_path``.
    """

    archive: str
    added: int
    received: int
    faults: dict[str, UnavailableImage]


def obtain(
    archive: ImageArchive,
    lacking: Iterable[str],
    store: ShardWriter,
    means: FetchOptions,
    progress: Progress,
) -> ArchiveResult:
    """Puts those of the images that the archive has into the store, under the names of the tables.

    Args:
        archive: One that may hold them.
        lacking: Their ``img_path``.
        store: Open for writing.
        means: See there.
        progress: Told of the bytes.

    Raises:
        UpstreamError: the archive can't be reached, or not in part (says what a full download costs).
        MissingError: it can't be read in part, and ``whole`` is not set.
        InputError: it is damaged.
    """
    required = list(lacking)
    if archive.kind == "tar.gz":
        return _from_packed(archive, required, store, means, progress)
    files, policy = archive.addresses(), means.policy
    remote: RemoteZip | RemoteTar
    if archive.kind == "zip":
        remote = RemoteZip(files, means.folder / ".cache" / "images", policy=policy)
        remote.open(progress)
    else:
        remote = RemoteTar(_index(archive, means, progress), files, policy=policy)
    with closing(remote):
        names = {path: list(_inside(archive, path, means)) for path in required}
        present = remote.present(name for several in names.values() for name in several)
        inside = {
            path: next(filter(present.__contains__, several))
            for path, several in names.items()
            if not present.isdisjoint(several)
        }
        faults = {
            path: UnavailableImage(archive.name, path, NOT_INSIDE)
            for path in names
            if path not in inside
        }
        counts = fetch_members(
            remote,
            inside,
            store,
            lambda fault: faults.__setitem__(fault.name, fault),
            jobs=means.jobs,
            progress=progress,
        )
        return ArchiveResult(archive.name, counts.added, remote.received, faults)


def _inside(archive: ImageArchive, path: str, means: FetchOptions) -> Iterable[str]:
    """The names that an image may have in an archive, the likeliest first."""
    return (archive.inside(name) for name in alternatives(path, means.names))


def fetch_members(
    archive: RemoteArchive,
    images: Mapping[str, str],
    store: ShardWriter,
    on_fault: OnFault,
    *,
    jobs: int = JOBS,
    progress: Progress = SILENT,
) -> FetchCounts:
    """Fetches what the store hasn't got. After a kill, the same call goes on where it was.

    Args:
        archive: Where the members are.
        images: Name in the store, such as an ``img_path``, to name of the member; paths in normal form.
        store: Open for writing.
        on_fault: Told of each name that can't be had, under its name in the store. A name in the
            archive that is none for a store is such a fault, too.
        jobs: Connections.
        progress: Told of the bytes.

    Raises:
        M2KRError: the archive as a whole can't be read, or the store not be written. What was added
            until then stays.
    """
    members: dict[str, list[str]] = {}
    for name, member in images.items():
        if not store.has(name):
            members.setdefault(member, []).append(name)
    before, there = archive.received, len(store)
    faults = 0

    def member_fault(fault: UnavailableImage) -> None:
        for name in members[fault.name]:
            count(replace(fault, name=name))

    def count(fault: UnavailableImage) -> None:
        nonlocal faults
        faults += 1
        on_fault(fault)

    def sink(member: str, data: bytes) -> None:
        for name in members[member]:
            try:
                store.add(name, data)
            except InputError as error:
                count(UnavailableImage(archive.name, name, "unsafe name", error.what))

    if members:
        archive.fetch(members, sink, member_fault, jobs=jobs, progress=progress)
        store.commit()
    added = len(store) - there
    required = sum(map(len, members.values()))
    log.info("%s: %d of %d images added", archive.name, added, required)
    return FetchCounts(len(images) - required, added, faults, archive.received - before)


def _index(archive: ImageArchive, means: FetchOptions, progress: Progress) -> Path:
    """The index of a tar: one that was given, one that is here, or, by a pass over it, a new one."""
    own = means.index_of(archive)
    file = archive.name.rpartition("/")[2]
    for given in means.indexes:
        if TarOffsets(given).facts.name == file:
            return given
    if own.exists():
        return own
    if not means.whole:
        raise MissingError(
            f"the members of this tar are found by an index, and there is none (of {file})",
            where=archive.addresses()[0][0],
            expected=f"--index {file}.index.parquet by somebody who has made it",
            fix=f"--whole: makes one by reading all {archive.about / 1e9:.1f} GB once, keeping nothing "
            f"but the index; or download the tar and give it as --images {file}",
        )
    with closing(RemoteFile(archive.addresses(), policy=means.policy)) as tar:
        index_remote_tar(tar, own, jobs=means.jobs, progress=progress)
    return own


def _from_packed(
    archive: ImageArchive,
    required: Sequence[str],
    store: ShardWriter,
    means: FetchOptions,
    progress: Progress,
) -> ArchiveResult:
    """Images of a packed tar, which has no places to begin reading: it is downloaded, and read once."""
    folder = means.folder / "downloads" / "images"
    local = folder / archive.name
    if not means.whole and not local.exists():
        raise MissingError(
            f"this tar is packed and can't be read in part; it has {archive.about / 1e9:.1f} GB",
            where=archive.addresses()[0][0],
            expected=f"the file at {local}, if you have it",
            fix="--whole: downloads it, takes the images that are needed, and leaves it there",
        )
    (mirrors,) = archive.addresses()
    asset = Asset(archive.name, tuple(mirrors), about=archive.about, gate=archive.gate)
    before = local.stat().st_size if local.exists() else 0
    fetch([asset], folder, progress=progress, policy=means.policy)
    received = local.stat().st_size - before

    paths: dict[str, list[str]] = {}
    for path in required:
        for name in _inside(archive, path, means):
            paths.setdefault(name, []).append(path)
    faults = {path: UnavailableImage(archive.name, path, NOT_INSIDE) for path in required}
    added = 0
    with task(progress, f"reading {local.name}", None, "files"):
        for member in members(local, Limits(member_bytes=MAX_BYTES)):
            progress.advance(f"reading {local.name}", 1)
            for path in paths.get(member.name, ()):
                try:
                    added += store.add(path, member.read())
                except InputError as error:
                    faults[path] = UnavailableImage(archive.name, path, "damaged", error.what)
                else:
                    faults.pop(path, None)
    store.commit()
    return ArchiveResult(archive.name, added, received, faults)
