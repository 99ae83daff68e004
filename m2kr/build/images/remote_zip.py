"""Members of a zip on a server, by its directory: no other bytes of it are fetched."""

import hashlib
import struct
from array import array
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from m2kr.build.archive.guard import Limits, is_safe
from m2kr.build.download.job import Policy
from m2kr.build.images.directory import Directory
from m2kr.build.images.layout import Cost, Layout, in_order
from m2kr.build.images.remote import RemoteParts, Urls
from m2kr.build.images.runs import JOBS, Fault, OnFault, Run, Sink, Stretch, ignore, read_runs
from m2kr.build.images.spans import Offsets
from m2kr.data.image_archives import read_zip_member, scan_zip
from m2kr.data.image_index import (
    DEFLATED,
    ENCRYPTED,
    MAX_BYTES,
    OVERLAPS,
    STORED,
    ZIP_HEADER,
    Entry,
    Index,
    cached_index,
)
from m2kr.errors import InputError
from m2kr.locks import hold
from m2kr.progress import Progress, Silent

# Local headers are longer than the directory tells: most tools add times or 64-bit sizes there.
_USUAL_EXTRA = 32
_REFUSED = {ENCRYPTED: "encrypted", OVERLAPS: "overlaps another member"}


class RemoteZip:
    """A zip on a server, in one file or cut in pieces (``.zip.001``, ``.002`` …); 64-bit ones, too.

    Its directory is fetched once and kept in ``cache`` as an index, 46 bytes a member. A member is
    checked for size and checksum; one that is damaged or hostile is a fault and not the end.

    Args:
        files: Addresses of each part, in order; several of one part are mirrors.
        cache: Folder for indexes.
        policy: Timeouts and retries.
        limits: What a member may be; images of 256 MiB by default.
    """

    def __init__(
        self,
        files: Sequence[Urls],
        cache: Path,
        *,
        policy: Policy | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.parts = RemoteParts(files, policy=policy)
        self._cache = cache
        self._limits = limits or Limits(member_bytes=MAX_BYTES)
        self._index: Index | None = None
        self._offsets = np.zeros(0, np.uint64)

    @property
    def name(self) -> str:
        """Its file name, without ``.001``."""
        return self.parts.name

    @property
    def received(self) -> int:
        """Bytes of bodies that were received."""
        return self.parts.received

    def open(self, progress: Progress | None = None) -> Index:
        """The index of its members, fetched if it isn't in the cache.

        Raises:
            WholeOnlyError: the server has no ranges.
            UpstreamError: it can't be reached, or the file changed.
            InputError: it is no whole zip.
        """
        if self._index is None:
            identity = self.parts.identity()
            self.parts.refuse_packed()
            if self.parts.head[:2] != b"PK":
                page = self.parts.head.lstrip()[:1] == b"<"
                raise InputError(
                    f"this is {'a web page' if page else 'something else'}, no zip file",
                    where=self.parts.url,
                    expected="a zip archive, or the first part of one",
                )
            key = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
            with (
                hold(self._cache / f"zip-{key}.lock", f"the directory of {self.name}"),
                Directory(self.parts, self._cache / f"zip-{key}", progress or Silent()) as source,
            ):
                members = scan_zip(source, self.parts.url)
                index = cached_index(members, self._cache, identity, is_zip=True)
            self._offsets = np.sort(index.entries["offset"])
            self._index = index
        return self._index

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        return is_safe(name) and self.open().find(name) is not None

    def cost(self, names: Iterable[str]) -> Cost:
        """What fetching these members takes, once the directory is here."""
        return self._layout(names, ignore)[0].cost()

    def fetch(
        self,
        names: Iterable[str],
        sink: Sink,
        on_fault: OnFault,
        *,
        jobs: int = JOBS,
        progress: Progress | None = None,
    ) -> None:
        """Gives the content of members to ``sink``, in the order of the archive.

        Args:
            names: Of the members, as paths without ``./``; each once.
            sink: Called with name and content, in this thread.
            on_fault: Told of each name that has no content to give.
            jobs: Connections.
            progress: Told of the bytes.

        Raises:
            M2KRError: the archive as a whole can't be read (see `open`). It is then closed.
        """
        progress = progress or Silent()
        self.open(progress)
        layout, entries = self._layout(names, on_fault)

        def take(run: Run, stretch: Stretch) -> tuple[Run, list[bytes | str]]:
            found: list[bytes | str] = []
            for at in range(run.first, run.last):
                entry = Entry(*(int(value) for value in entries[layout.rows[at]]))
                try:
                    found.append(read_zip_member(stretch, entry))
                except ValueError as error:
                    found.append(str(error))
            return run, found

        runs = layout.runs()
        progress.start(self.name, sum(run.end - run.start for run in runs))
        with closing(read_runs(self.parts, runs, take, jobs=jobs)) as results:
            for run, found in results:
                for at, data in enumerate(found, run.first):
                    if isinstance(data, bytes):
                        sink(layout.names[at], data)
                    else:
                        on_fault(Fault(self.name, layout.names[at], "damaged", data))
                progress.advance(self.name, run.end - run.start)
        progress.done(self.name)

    def close(self) -> None:
        """Ends the connections."""
        self.parts.close()

    def _layout(self, names: Iterable[str], on_fault: OnFault) -> tuple[Layout, Offsets]:
        """The members that may be read, and their entries (columns of `Entry`)."""
        index = self.open()
        good: list[str] = []
        places = array("q")
        for name in names:
            entry = index.find(name) if is_safe(name) else None
            rule, detail = self._problem(name, entry)
            if rule or entry is None:
                on_fault(Fault(self.name, name, rule, detail))
                continue
            good.append(name)
            places.extend((entry.offset, entry.stored, entry.size, entry.crc, entry.method))
        entries = np.frombuffer(places, np.int64).reshape(-1, 5)
        starts, stored, sizes = entries[:, 0], entries[:, 1], entries[:, 2]
        headers = np.array([len(name.encode()) for name in good], np.int64) + ZIP_HEADER
        if len(good):
            headers += max(_USUAL_EXTRA, self._extra(good[0], int(starts[0])))
        following = np.searchsorted(self._offsets, starts.astype(np.uint64), side="right")
        limits = np.append(self._offsets, np.uint64(self.parts.size))[following].astype(np.int64)
        # A header longer than thought is fetched when it is met; one that is shorter costs nothing
        # where members lie close together.
        ends = np.minimum(starts + headers + stored, limits)
        return in_order(good, starts, ends, stored, sizes), entries

    def _problem(self, name: str, entry: Entry | None) -> tuple[str, str]:
        """Why a member is not fetched, and the figures; two empty strings if it is."""
        limits = self._limits
        if not is_safe(name):
            return "unsafe name", ""
        if entry is None:
            return "not in the archive", ""
        if entry.method not in (STORED, DEFLATED):
            return _REFUSED.get(entry.method, "unknown compression"), f"method {entry.method}"
        most = max(entry.size, entry.stored)
        if most > limits.member_bytes:
            return "too large", f"{most:,} bytes, more than {limits.member_bytes:,}"
        if limits.outgrown(entry.size, entry.stored):
            return "a bomb", f"{entry.stored:,} bytes unpack to {entry.size:,}"
        if entry.offset + ZIP_HEADER + entry.stored > self.parts.size:
            return "damaged", "it ends behind the archive"
        return "", ""

    def _extra(self, name: str, offset: int) -> int:
        """How much longer the local header of a member is than its name tells."""
        header = self.parts.read(offset, ZIP_HEADER)
        if len(header) < ZIP_HEADER or header[:4] != b"PK\3\4":
            return 0
        n_name, n_extra = struct.unpack_from("<2H", header, 26)
        return min(4096, max(0, int(n_name) + int(n_extra) - len(name.encode())))
