"""Images that are lacking, out of the archives that a source names: only they, wherever that can be."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.fetch import fetch
from m2kr.building.fetch.retry import Policy
from m2kr.building.formats.archives import members
from m2kr.building.formats.limits import Limits
from m2kr.building.images.declared import ImageArchive
from m2kr.building.images.members import Fault, Fetched, fetch_members
from m2kr.building.images.remote_archive import RemoteTar, RemoteZip
from m2kr.building.images.remote_file import JOBS, RemoteParts
from m2kr.building.images.shard_writer import Store
from m2kr.building.images.tar_index import index_remote_tar
from m2kr.data.images.index import MAX_BYTES
from m2kr.data.images.names import alternatives
from m2kr.data.images.tar_offsets import TarOffsets
from m2kr.errors import InputError, MissingError
from m2kr.progress import Progress

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
        indexes: Of tars, from others; told apart by the name of the archive that they hold.
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
    faults: dict[str, Fault]


def obtain(
    archive: ImageArchive,
    lacking: Iterable[str],
    store: Store,
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
    wanted = list(lacking)
    if archive.kind == "tar.gz":
        return _whole(archive, wanted, store, means, progress)
    remote: RemoteZip | RemoteTar
    if archive.kind == "zip":
        cache = means.folder / ".cache" / "images"
        remote = RemoteZip(archive.addresses(), cache, policy=means.policy)
        remote.open(progress)
        with closing(remote):
            inside = {
                path: name
                for path in wanted
                for name in [next(filter(remote.has, _inside(archive, path, means)), None)]
                if name is not None
            }
            return _members(archive, remote, inside, wanted, store, means, progress)
    index = _index(archive, means, progress)
    remote = RemoteTar(index, archive.addresses(), policy=means.policy)
    with closing(remote):
        inside = _in_tar(remote.open(), archive, wanted, means)
        return _members(archive, remote, inside, wanted, store, means, progress)


def _inside(archive: ImageArchive, path: str, means: FetchOptions) -> Iterable[str]:
    """The names that an image may have in an archive, the likeliest first."""
    return (archive.inside(name) for name in alternatives(path, means.names))


def _in_tar(
    offsets: TarOffsets, archive: ImageArchive, wanted: Sequence[str], means: FetchOptions
) -> dict[str, str]:
    """The member that each image is, by one pass over the index."""
    import pyarrow as pa
    import pyarrow.compute as pc

    every = [list(_inside(archive, path, means)) for path in wanted]
    asked = pa.array([name for names in every for name in names], pa.large_string())
    there: set[str] = set()
    for batch in offsets.batches():
        names = batch.column(0).cast(pa.large_string())
        there.update(names.filter(pc.is_in(names, asked)).to_pylist())
    found = (next((name for name in names if name in there), None) for names in every)
    return {path: name for path, name in zip(wanted, found, strict=True) if name is not None}


def _members(
    archive: ImageArchive,
    remote: RemoteZip | RemoteTar,
    inside: dict[str, str],
    wanted: Sequence[str],
    store: Store,
    means: FetchOptions,
    progress: Progress,
) -> ArchiveResult:
    faults = {path: Fault(archive.name, path, NOT_INSIDE) for path in wanted if path not in inside}

    def fault(told: Fault) -> None:
        faults[told.name] = told

    got: Fetched = fetch_members(remote, inside, store, fault, jobs=means.jobs, progress=progress)
    return ArchiveResult(archive.name, got.added, remote.received, faults)


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
    parts = RemoteParts(archive.addresses(), policy=means.policy)
    with closing(parts):
        index_remote_tar(parts, own, jobs=means.jobs, progress=progress)
    return own


def _whole(
    archive: ImageArchive,
    wanted: Sequence[str],
    store: Store,
    means: FetchOptions,
    progress: Progress,
) -> ArchiveResult:
    """Images of a packed tar, which has no places to begin reading: it is downloaded."""
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
    return from_packed(local, archive, wanted, store, means, progress, received)


def from_packed(
    local: Path,
    archive: ImageArchive,
    wanted: Sequence[str],
    store: Store,
    means: FetchOptions,
    progress: Progress,
    received: int = 0,
) -> ArchiveResult:
    """Images of a packed tar that is here, by one pass over it."""
    names: dict[str, list[str]] = {}
    for path in wanted:
        for name in _inside(archive, path, means):
            names.setdefault(name, []).append(path)
    faults = {path: Fault(archive.name, path, NOT_INSIDE) for path in wanted}
    task, added = f"reading {local.name}", 0
    progress.start(task, None, "files")
    for member in members(local, Limits(member_bytes=MAX_BYTES)):
        progress.advance(task, 1)
        for path in names.get(member.name, ()):
            try:
                added += store.add(path, member.read())
            except InputError as error:
                faults[path] = Fault(archive.name, path, "damaged", error.what)
            else:
                faults.pop(path, None)
    progress.done(task)
    store.commit()
    return ArchiveResult(archive.name, added, received, faults)
