"""Wanted images from a remote archive into a store, those that it hasn't got."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from m2kr.building.images.remote_file import JOBS
from m2kr.building.images.shard_writer import Store
from m2kr.errors import InputError
from m2kr.progress import SILENT, Progress

if TYPE_CHECKING:
    from m2kr.building.images.remote_archive import RemoteArchive

log = logging.getLogger("m2kr.building.images")


@dataclass(frozen=True, slots=True)
class Fault:
    """A member that can't be had.

    Attributes:
        archive: Name of its archive.
        name: As it was asked for.
        rule: The kind of fault, for the ledger, such as ``not in the archive``.
        detail: More, if there is more to say.
    """

    archive: str
    name: str
    rule: str
    detail: str = ""


OnFault = Callable[[Fault], object]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of the wanted images.

    Attributes:
        there: Were in the store.
        added: Are now.
        faults: Can't be had.
        received: Bytes received for them, those of the directory and of repeated attempts included.
    """

    there: int
    added: int
    faults: int
    received: int


def fetch_members(
    archive: "RemoteArchive",
    wanted: Mapping[str, str],
    store: Store,
    on_fault: OnFault,
    *,
    jobs: int = JOBS,
    progress: Progress = SILENT,
) -> Fetched:
    """Fetches what the store hasn't got. After a kill, the same call goes on where it was.

    Args:
        archive: Where the members are.
        wanted: Name in the store, such as an ``img_path``, to name of the member; paths in normal form.
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
    for name, member in wanted.items():
        if not store.has(name):
            members.setdefault(member, []).append(name)
    before, there = archive.received, len(store)
    faults = 0

    def fault(told: Fault) -> None:
        for name in members[told.name]:
            count(replace(told, name=name))

    def count(told: Fault) -> None:
        nonlocal faults
        faults += 1
        on_fault(told)

    def sink(member: str, data: bytes) -> None:
        for name in members[member]:
            try:
                store.add(name, data)
            except InputError as error:
                count(Fault(archive.name, name, "unsafe name", error.what))

    if members:
        archive.fetch(members, sink, fault, jobs=jobs, progress=progress)
        store.commit()
    added = len(store) - there
    asked = sum(map(len, members.values()))
    log.info("%s: %d of %d images added", archive.name, added, asked)
    return Fetched(len(wanted) - asked, added, faults, archive.received - before)
