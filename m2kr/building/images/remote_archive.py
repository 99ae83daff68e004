"""Members of a zip or tar on a server, read where they lie: neighbours by one request, several at a time."""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np

from m2kr import atomic
from m2kr.building.fetch.retry import Policy
from m2kr.building.formats.limits import Limits, is_safe
from m2kr.building.images.members import Fault, OnFault
from m2kr.building.images.remote_file import JOBS, Near, RemoteParts, Span, Urls
from m2kr.data.images.archives import read_zip_member, scan_zip
from m2kr.data.images.index import (
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
from m2kr.data.images.tar_offsets import BLOCK, TarOffsets
from m2kr.errors import CheckError, InputError, plainly
from m2kr.locks import hold
from m2kr.progress import SILENT, Progress

SLACK = 0.05  # bytes read for nothing, by bytes wanted
WIDEST_GAP = 64 << 10
MOST_BYTES = 8 << 20
# Local headers are longer than the directory tells: tools add times, owners or 64-bit sizes there. A
# header longer than thought is fetched when it is met.
_EXTRA = 64
_REFUSED = {ENCRYPTED: "encrypted", OVERLAPS: "overlaps another member"}
_TAIL = (1 << 16) + 256  # the longest comment of a zip, and the end records before it
_PIECE = 4 << 20


class Place(NamedTuple):
    """Where a member lies: from its header, at ``start``, to before ``end``."""

    name: str
    start: int
    end: int
    stored: int
    size: int
    crc: int
    method: int = STORED


def spans(places: Sequence[Place]) -> list[Span]:
    """What is read by one request each, of members in the order of the archive.

    The narrowest gaps are closed first, so that there are as few requests as the slack buys: headers
    and gaps come to 5 % of the content, headers alone maybe to more. A request reads 8 MiB at most, or
    one member.
    """
    table = np.array([place[1:5] for place in places], np.int64).reshape(-1, 4)
    starts, ends, stored, sizes = table.T
    gaps = starts[1:] - ends[:-1]
    allowance = max(0, int(SLACK * stored.sum()) - int((ends - starts - stored).sum()))
    narrowest = np.argsort(gaps, kind="stable")
    joined = np.zeros(len(gaps), bool)
    joined[narrowest[np.cumsum(gaps[narrowest]) <= allowance]] = True
    joined &= gaps <= WIDEST_GAP
    found, first = [], 0
    for at in range(1, len(places) + 1):
        if at == len(places) or not joined[at - 1] or ends[at] - starts[first] > MOST_BYTES:
            memory = int(sizes[first:at].sum())
            found.append(Span(int(starts[first]), int(ends[at - 1]), first, at, memory))
            first = at
    return found


class RemoteArchive:
    """What zips and tars share.

    Args:
        files: Addresses of each part, in order; several of one part are mirrors.
        policy: Timeouts and retries.

    Attributes:
        parts: The archive as one file.
        name: Its file name, without ``.001``.
    """

    def __init__(self, files: Sequence[Urls], policy: Policy | None) -> None:
        self.parts = RemoteParts(files, policy=policy)
        self.name = self.parts.name

    @property
    def received(self) -> int:
        """Bytes of bodies that were received."""
        return self.parts.received

    def fetch(
        self,
        names: Iterable[str],
        sink: Callable[[str, bytes], object],
        on_fault: OnFault,
        *,
        jobs: int = JOBS,
        progress: Progress = SILENT,
    ) -> None:
        """Gives the content of members to ``sink``, in the order of the archive.

        Args:
            names: Of the members, as paths without ``./``; each once.
            sink: Called with name and content, in this thread.
            on_fault: Told of each name that has no content to give.
            jobs: Connections.
            progress: Told of the bytes.

        Raises:
            M2KRError: the archive as a whole can't be read (see ``open``), or a header is not the one
                that was indexed. It is then closed.
        """
        places: list[Place] = []
        for place in self._places(names):
            if isinstance(place, Fault):
                on_fault(place)
            else:
                places.append(place)
        places.sort(key=lambda place: place.start)

        def take(span: Span, near: Near) -> tuple[Span, list[bytes | str]]:
            found: list[bytes | str] = []
            for place in places[span.first : span.last]:
                try:
                    found.append(self._content(near, place))
                except ValueError as error:
                    found.append(str(error))
            return span, found

        requests = spans(places)
        progress.start(self.name, sum(span.end - span.start for span in requests))
        with closing(self.parts.ahead(requests, take, jobs)) as results:
            for span, found in results:
                for place, data in zip(places[span.first : span.last], found, strict=True):
                    if isinstance(data, bytes):
                        sink(place.name, data)
                    else:
                        on_fault(Fault(self.name, place.name, "damaged", data))
                progress.advance(self.name, span.end - span.start)
        progress.done(self.name)

    def close(self) -> None:
        """Ends the connections."""
        self.parts.close()

    def _places(self, names: Iterable[str]) -> Iterator[Place | Fault]:
        """Where each member lies, or why it is not fetched."""
        raise NotImplementedError

    def _content(self, near: Near, place: Place) -> bytes:
        """The content of a member; ValueError if it is damaged."""
        raise NotImplementedError


class RemoteZip(RemoteArchive):
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
        super().__init__(files, policy)
        self._cache = cache
        self._limits = limits or Limits(member_bytes=MAX_BYTES)
        self._index: Index | None = None

    def open(self, progress: Progress = SILENT) -> Index:
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
                _Directory(self.parts, self._cache / f"zip-{key}", progress) as source,
            ):
                members = scan_zip(source, self.parts.url)
                self._index = cached_index(members, self._cache, identity, is_zip=True)
        return self._index

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        return is_safe(name) and self.open().find(name) is not None

    def _places(self, names: Iterable[str]) -> Iterator[Place | Fault]:
        index = self.open()
        offsets = np.sort(index.entries["offset"])
        for name in names:
            entry = index.find(name) if is_safe(name) else None
            rule, detail = self._problem(name, entry)
            if rule or entry is None:
                yield Fault(self.name, name, rule, detail)
                continue
            header = ZIP_HEADER + len(name.encode()) + _EXTRA
            after = int(np.searchsorted(offsets, np.uint64(entry.offset), side="right"))
            most = int(offsets[after]) if after < len(offsets) else self.parts.size
            start, stored, *facts = astuple(entry)
            yield Place(name, start, min(start + header + stored, most), stored, *facts)

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

    def _content(self, near: Near, place: Place) -> bytes:
        _, start, _, *facts = place
        return read_zip_member(near, Entry(start, *facts))


class _Directory:
    """A remote zip for one that reads its end, and from there a stretch before it from first to last.

    That stretch lies in a file as far as it was read, so that a killed process loses none of it. It
    goes when the directory is whole, or damaged; use it in ``with``, in one process at a time.
    """

    def __init__(self, parts: RemoteParts, path: Path, progress: Progress) -> None:
        self._parts, self._path, self._progress = parts, path, progress
        self.size = parts.size
        self._tail_at = max(0, self.size - _TAIL)
        self._tail: bytes | None = None
        self._file: BinaryIO | None = None
        self._start = 0
        self._task = f"{parts.name}: directory"

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end."""
        size = max(0, min(size, self.size - offset)) if offset >= 0 else 0
        before = min(size, max(0, self._tail_at - offset))
        data = b""
        if before:
            with plainly(self._path):
                data = self._kept(offset, before)
        if size > before:
            if self._tail is None:
                self._tail = self._parts.read(self._tail_at, _TAIL)
            at = offset + before - self._tail_at
            data += self._tail[at : at + size - before]
        return data

    def _kept(self, offset: int, size: int) -> bytes:
        if self._file is None:
            # The offset is part of the name: what was kept may be of another reading of the end records.
            path = self._path.with_name(f"{self._path.name}-{offset}.part")
            self._file = atomic.reopen(path)
            self._start = offset
            self._progress.start(self._task, self._tail_at - offset)
            self._progress.advance(self._task, self._file.seek(0, 2))
        have = self._start + self._file.seek(0, 2)
        if not self._start <= offset <= have:
            # Not what a directory is read like: the end records of this archive are wrong.
            return self._parts.read(offset, size)
        while have < offset + size:
            piece = self._parts.read(have, min(_PIECE, self._tail_at - have))
            self._file.write(piece)
            self._file.flush()
            have += len(piece)
            self._progress.advance(self._task, len(piece))
        self._file.seek(offset - self._start)
        return self._file.read(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._progress.done(self._task)
            if kind is None or issubclass(kind, InputError):
                Path(self._file.name).unlink(missing_ok=True)


class RemoteTar(RemoteArchive):
    """A tar on a server whose members are found by an offset index that someone made of it.

    The header before each member is fetched with it and must be the one that was indexed. A tar has
    no checksum of contents: the image check that follows finds what was damaged on the way.

    Args:
        index: The Parquet file (see `m2kr.data.images.tar_offsets`).
        files: Addresses of each part, in order; several of one part are mirrors.
        policy: Timeouts and retries.
        most: Bytes of one member.
    """

    def __init__(
        self,
        index: Path,
        files: Sequence[Urls],
        *,
        policy: Policy | None = None,
        most: int = MAX_BYTES,
    ) -> None:
        super().__init__(files, policy)
        self._path = index
        self._most = most
        self._offsets: TarOffsets | None = None

    def open(self) -> TarOffsets:
        """The index, once it is clear that it may belong to the archive.

        Raises:
            CheckError: it doesn't: the archive has another size, or another ETag at the same address.
            MissingError: the index or its checksum is not there.
            InputError: it is damaged.
            WholeOnlyError: the server has no ranges, or the archive is compressed.
            UpstreamError: it can't be reached.
        """
        if self._offsets is None:
            offsets = TarOffsets(self._path)
            self.parts.refuse_packed()
            facts = offsets.facts
            if facts.size != self.parts.size:
                raise self._stranger(f"it has {self.parts.size:,} bytes, not {facts.size:,}")
            (url, _, etag), *_ = self.parts.identity()
            if facts.url == url and facts.etag and etag and facts.etag != etag:
                raise self._stranger(f"its ETag is {etag}, not {facts.etag}")
            self._offsets = offsets
        return self._offsets

    def _places(self, names: Iterable[str]) -> Iterator[Place | Fault]:
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = list(names)
        plain = pa.array([name for name in wanted if is_safe(name)], pa.string())
        found: dict[str, list[int]] = {}
        for batch in self.open().batches():
            rows = batch.filter(pc.is_in(batch.column(0), value_set=plain)).to_pydict()
            for name, *place in zip(*rows.values(), strict=True):
                found[name] = place  # of equal names the last counts
        for name in wanted:
            offset, size, crc = found.get(name, [0, 0, 0])
            if not offset:
                rule = "not in the archive" if is_safe(name) else "unsafe name"
                yield Fault(self.name, name, rule)
            elif size > self._most:
                detail = f"{size:,} bytes, more than {self._most:,}"
                yield Fault(self.name, name, "too large", detail)
            else:
                # With the padding: then neighbours touch, and are read by one request.
                end = offset + size + -size % BLOCK
                yield Place(name, offset - BLOCK, end, size, size, crc)

    def _content(self, near: Near, place: Place) -> bytes:
        if zlib.crc32(near.read(place.start, BLOCK)) != place.crc:
            raise self._stranger(
                f"the header at byte {place.start:,} is not that of {place.name!r}"
            )
        return near.read(place.start + BLOCK, place.size)

    def _stranger(self, what: str) -> CheckError:
        return CheckError(
            f"the index does not belong to this archive: {what}",
            where=f"{self._path} for {self.parts.url}",
            expected="the index of this very archive",
            fix="get the index that was made of it, or make one: it takes one pass over the archive",
        )
