"""Wanted images from a remote archive into a store, those that it hasn't got."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from m2kr.build.images.layout import Cost
from m2kr.build.images.runs import JOBS, Fault, OnFault, Sink
from m2kr.build.images.store import Store
from m2kr.errors import InputError
from m2kr.progress import Progress

log = logging.getLogger("m2kr.build.images")


class RemoteArchive(Protocol):
    """A `RemoteZip` or a `RemoteTar`."""

    @property
    def name(self) -> str:
        """Its file name."""
        ...

    @property
    def received(self) -> int:
        """Bytes received so far."""
        ...

    def cost(self, names: Iterable[str]) -> Cost:
        """What fetching members takes."""
        ...

    def fetch(
        self,
        names: Iterable[str],
        sink: Sink,
        on_fault: OnFault,
        *,
        jobs: int = JOBS,
        progress: Progress | None = None,
    ) -> None:
        """Gives the content of members to ``sink``."""
        ...


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


def missing(wanted: Mapping[str, str], store: Store) -> dict[str, list[str]]:
    """Members to be fetched, each with the names that the store hasn't got."""
    members: dict[str, list[str]] = {}
    for name, member in wanted.items():
        if not store.has(name):
            members.setdefault(member, []).append(name)
    return members


def fetch_members(
    archive: RemoteArchive,
    wanted: Mapping[str, str],
    store: Store,
    on_fault: OnFault,
    *,
    jobs: int = JOBS,
    progress: Progress | None = None,
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
    members = missing(wanted, store)
    before, there = archive.received, len(store)
    faults = 0

    def fault(told: Fault) -> None:
        nonlocal faults
        for name in members[told.name]:
            faults += 1
            on_fault(Fault(told.archive, name, told.rule, told.detail))

    def sink(member: str, data: bytes) -> None:
        for name in members[member]:
            try:
                store.add(name, data)
            except InputError as error:
                fault_of_name(name, str(error.what))

    def fault_of_name(name: str, detail: str) -> None:
        nonlocal faults
        faults += 1
        on_fault(Fault(archive.name, name, "unsafe name", detail))

    if members:
        archive.fetch(members, sink, fault, jobs=jobs, progress=progress)
        store.commit()
    added = len(store) - there
    asked = sum(map(len, members.values()))
    log.info("%s: %d of %d images added", archive.name, added, asked)
    return Fetched(len(wanted) - asked, added, faults, archive.received - before)
