"""Members of an uncompressed tar on a server, by an offset index that someone made of it."""

import zlib
from array import array
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from m2kr.build.archive.guard import is_safe
from m2kr.build.download.job import Policy
from m2kr.build.images.layout import Cost, Layout, in_order
from m2kr.build.images.remote import RemoteParts, Urls
from m2kr.build.images.runs import JOBS, Fault, OnFault, Run, Sink, Stretch, ignore, read_runs
from m2kr.build.images.spans import Offsets
from m2kr.data.image_index import MAX_BYTES
from m2kr.data.tar_offsets import BLOCK, TarOffsets
from m2kr.errors import CheckError
from m2kr.progress import Progress, Silent


class RemoteTar:
    """A tar on a server whose members are found by its index.

    The header before each member is fetched with it and must be the one that was indexed. A tar has
    no checksum of contents: the image check that follows finds what was damaged on the way.

    Args:
        index: The Parquet file (see `m2kr.data.tar_offsets`).
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
        self.parts = RemoteParts(files, policy=policy)
        self._path = index
        self._most = most
        self._offsets: TarOffsets | None = None

    @property
    def name(self) -> str:
        """Its file name."""
        return self.parts.name

    @property
    def received(self) -> int:
        """Bytes of bodies that were received."""
        return self.parts.received

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

    def cost(self, names: Iterable[str]) -> Cost:
        """What fetching these members takes."""
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
            M2KRError: see `open`; or a header is not the one that was indexed. The archive is then
                closed.
        """
        progress = progress or Silent()
        self.open()
        layout, checks = self._layout(names, on_fault)

        def take(run: Run, stretch: Stretch) -> tuple[Run, list[bytes]]:
            found = []
            for at in range(run.first, run.last):
                start, size = int(layout.starts[at]), int(layout.sizes[at])
                if zlib.crc32(stretch.read(start, BLOCK)) != checks[layout.rows[at]]:
                    name = layout.names[at]
                    raise self._stranger(f"the header at byte {start:,} is not that of {name!r}")
                found.append(stretch.read(start + BLOCK, size))
            return run, found

        runs = layout.runs()
        progress.start(self.name, sum(run.end - run.start for run in runs))
        with closing(read_runs(self.parts, runs, take, jobs=jobs)) as results:
            for run, found in results:
                for at, data in enumerate(found, run.first):
                    sink(layout.names[at], data)
                progress.advance(self.name, run.end - run.start)
        progress.done(self.name)

    def close(self) -> None:
        """Ends the connections."""
        self.parts.close()

    def _layout(self, names: Iterable[str], on_fault: OnFault) -> tuple[Layout, Offsets]:
        """The members that may be read, and the crc32 of their headers."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = list(names)
        plain = pa.array([name for name in wanted if is_safe(name)], pa.string())
        found: dict[str, int] = {}
        places = array("q")
        for batch in self.open().batches():
            for row in batch.filter(pc.is_in(batch.column(0), value_set=plain)).to_pylist():
                found[row["name"]] = len(places) // 3  # of equal names the last counts
                places.extend((row["offset"], row["size"], row["header"]))
        table = np.frombuffer(places, np.int64).reshape(-1, 3)
        good: list[str] = []
        for name in wanted:
            rule, detail = self._problem(name, found, table)
            if rule:
                on_fault(Fault(self.name, name, rule, detail))
            else:
                good.append(name)
        table = table[[found[name] for name in good]]
        starts, sizes = table[:, 0] - BLOCK, table[:, 1]
        # With the padding: then neighbours touch, and are read by one request.
        ends = table[:, 0] + sizes + -sizes % BLOCK
        return in_order(good, starts, ends, sizes, sizes), table[:, 2]

    def _problem(self, name: str, found: dict[str, int], table: Offsets) -> tuple[str, str]:
        if not is_safe(name):
            return "unsafe name", ""
        if name not in found:
            return "not in the archive", ""
        size = int(table[found[name], 1])
        return (
            ("too large", f"{size:,} bytes, more than {self._most:,}")
            if size > self._most
            else ("", "")
        )

    def _stranger(self, what: str) -> CheckError:
        return CheckError(
            f"the index does not belong to this archive: {what}",
            where=f"{self._path} for {self.parts.url}",
            expected="the index of this very archive",
            fix="get the index that was made of it, or make one: it takes one pass over the archive",
        )
