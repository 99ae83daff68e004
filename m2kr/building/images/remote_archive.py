"""Members of a zip or tar on a server, read where they lie: neighbours by one request, several at a time."""

import hashlib
import mmap
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import numpy as np

from m2kr import atomic
from m2kr.building.fetch.retry import Policy
from m2kr.building.formats.limits import Limits, is_safe
from m2kr.building.images.outcome import OnFault, UnavailableImage
from m2kr.building.images.remote_file import JOBS, RemoteFile, Span, Urls
from m2kr.data.images.archives import directory_start, read_zip_member, scan_zip
from m2kr.data.images.index import (
    DEFLATED,
    ENCRYPTED,
    MAX_BYTES,
    OVERLAPS,
    STORED,
    ZIP_HEADER,
    Entry,
    Index,
    Member,
    Readable,
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


def group_members(places: Sequence[Place]) -> list[Span]:
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
    spans, first = [], 0
    for last in range(1, len(places) + 1):
        ends_here = last == len(places) or not joined[last - 1]
        if ends_here or ends[last] - starts[first] > MOST_BYTES:
            memory = int(sizes[first:last].sum())
            spans.append(Span(int(starts[first]), int(ends[last - 1]), first, last, memory))
            first = last
    return spans


class _Stretch:
    """An archive of which some bytes are here; what lies outside is fetched when it is asked for."""

    def __init__(self, archive: Readable, start: int, data: bytes | mmap.mmap) -> None:
        self._archive, self._start, self._data = archive, start, data
        self.size = archive.size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end."""
        first = offset - self._start
        here = self._data[first : first + size] if first >= 0 else b""
        more = size - len(here)
        return here + self._archive.read(offset + len(here), more) if more > 0 else here


class RemoteArchive(RemoteFile):
    """What zips and tars on a server share."""

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
            if isinstance(place, UnavailableImage):
                on_fault(place)
            else:
                places.append(place)
        places.sort(key=lambda place: place.start)

        def contents(span: Span) -> list[bytes | ValueError]:
            here = _Stretch(self, span.start, self.read(span.start, span.end - span.start))
            return [self._content(here, place) for place in places[span.first : span.last]]

        spans = group_members(places)
        progress.start(self.name, sum(span.end - span.start for span in spans))
        with closing(self.ahead(spans, contents, jobs)) as results:
            for span, members in results:
                for place, data in zip(places[span.first : span.last], members, strict=True):
                    if isinstance(data, bytes):
                        sink(place.name, data)
                    else:
                        on_fault(UnavailableImage(self.name, place.name, "damaged", str(data)))
                progress.advance(self.name, span.end - span.start)
        progress.done(self.name)

    def present(self, names: Iterable[str]) -> set[str]:
        """Those of some names that are members."""
        raise NotImplementedError

    def _places(self, names: Iterable[str]) -> Iterator[Place | UnavailableImage]:
        """Where each member lies, or why it is not fetched."""
        raise NotImplementedError

    def _content(self, here: Readable, place: Place) -> bytes | ValueError:
        """The content of a member, or why it is damaged."""
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
        super().__init__(files, policy=policy)
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
            identity = self.identity()
            if self.head[:2] != b"PK":
                page = self.head.lstrip()[:1] == b"<"
                raise InputError(
                    f"this is {'a web page' if page else 'something else'}, no zip file",
                    where=self.url,
                    expected="a zip archive, or the first part of one",
                )
            key = f"zip-{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"
            with hold(self._cache / f"{key}.lock", f"the directory of {self.name}"):
                members = self._members(self._cache / key, progress)
                self._index = cached_index(members, self._cache, identity, is_zip=True)
        return self._index

    def _members(self, path: Path, progress: Progress) -> Iterator[Member]:
        """All members by the directory, which lies in a file until it was read: a kill loses none of it."""
        tail_start = max(0, self.size - _TAIL)
        tail = _Stretch(self, tail_start, self.read(tail_start, _TAIL))
        start = directory_start(tail, self.url)
        if start >= tail_start:
            yield from scan_zip(tail, self.url)
            return
        task = f"{self.name}: directory"
        # The offset is part of the name: what was kept may be of another reading of the end records.
        path = path.with_name(f"{path.name}-{start}.part")
        with plainly(path), atomic.reopen(path) as file:
            progress.start(task, tail_start - start)
            progress.advance(task, file.seek(0, 2))
            while (offset := start + file.seek(0, 2)) < tail_start:
                piece = self.read(offset, min(_PIECE, tail_start - offset))
                file.write(piece)
                file.flush()
                progress.advance(task, len(piece))
            try:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    yield from scan_zip(_Stretch(tail, start, data), self.url)
            finally:
                path.unlink(missing_ok=True)
        progress.done(task)

    def present(self, names: Iterable[str]) -> set[str]:
        """Those of some names that are members."""
        index = self.open()
        return {name for name in names if is_safe(name) and index.find(name) is not None}

    def _places(self, names: Iterable[str]) -> Iterator[Place | UnavailableImage]:
        index = self.open()
        offsets = np.sort(index.entries["offset"])
        for name in names:
            entry = index.find(name) if is_safe(name) else None
            rule, detail = self._problem(name, entry)
            if rule or entry is None:
                yield UnavailableImage(self.name, name, rule, detail)
                continue
            header = ZIP_HEADER + len(name.encode()) + _EXTRA
            after = int(np.searchsorted(offsets, np.uint64(entry.offset), side="right"))
            most = int(offsets[after]) if after < len(offsets) else self.size
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
        if entry.offset + ZIP_HEADER + entry.stored > self.size:
            return "damaged", "it ends behind the archive"
        return "", ""

    def _content(self, here: Readable, place: Place) -> bytes | ValueError:
        try:
            return read_zip_member(here, Entry(place.start, *place[3:]))
        except ValueError as error:
            return error


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
        super().__init__(files, policy=policy)
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
            facts = offsets.facts
            if facts.size != self.size:
                raise self._stranger(f"it has {self.size:,} bytes, not {facts.size:,}")
            (url, _, etag), *_ = self.identity()
            if facts.url == url and facts.etag and etag and facts.etag != etag:
                raise self._stranger(f"its ETag is {etag}, not {facts.etag}")
            self._offsets = offsets
        return self._offsets

    def present(self, names: Iterable[str]) -> set[str]:
        """Those of some names that are members."""
        return set(self._rows(names))

    def _rows(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Offset, size and checksum of the header, of the names that are members."""
        import pyarrow as pa
        import pyarrow.compute as pc

        safe = pa.array(filter(is_safe, names), pa.large_string())
        rows: dict[str, list[int]] = {}
        for batch in self.open().batches():
            hits = batch.filter(pc.is_in(batch.column(0).cast(safe.type), value_set=safe))
            for name, *row in zip(*hits.to_pydict().values(), strict=True):
                rows[name] = row  # of equal names the last counts
        return rows

    def _places(self, names: Iterable[str]) -> Iterator[Place | UnavailableImage]:
        names = list(names)
        rows = self._rows(names)
        for name in names:
            if name not in rows:
                rule = "not in the archive" if is_safe(name) else "unsafe name"
                yield UnavailableImage(self.name, name, rule)
                continue
            offset, size, crc = rows[name]
            if size > self._most:
                detail = f"{size:,} bytes, more than {self._most:,}"
                yield UnavailableImage(self.name, name, "too large", detail)
            else:
                # With the padding: then neighbours touch, and are read by one request.
                end = offset + size + -size % BLOCK
                yield Place(name, offset - BLOCK, end, size, size, crc)

    def _content(self, here: Readable, place: Place) -> bytes | ValueError:
        if zlib.crc32(here.read(place.start, BLOCK)) != place.crc:
            raise self._stranger(
                f"the header at byte {place.start:,} is not that of {place.name!r}"
            )
        return here.read(place.start + BLOCK, place.size)

    def _stranger(self, difference: str) -> CheckError:
        return CheckError(
            f"the index does not belong to this archive: {difference}",
            where=f"{self._path} for {self.url}",
            expected="the index of this very archive",
            fix="get the index that was made of it, or make one: it takes one pass over the archive",
        )
