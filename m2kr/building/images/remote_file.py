"""An archive on a server, read at any offset as if it were here: by HTTP Range, and nothing else of it."""

import logging
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import accumulate
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import requests

from m2kr.building.fetch.http import is_http, open_session
from m2kr.building.fetch.ranges import Address, Changed, NotInParts, Version, read_range
from m2kr.building.fetch.retry import Failure, Policy, persist
from m2kr.data.images.roots import PACKED
from m2kr.errors import InputError, UpstreamError

log = logging.getLogger("m2kr.building.images")

T = TypeVar("T")
_Borrow = Callable[[], AbstractContextManager[requests.Session]]
Urls = str | Sequence[str]
JOBS = 8
_HEAD = 512
_IN_FLIGHT = 64 << 20


class WholeOnlyError(UpstreamError):
    """A remote archive that can be downloaded, but not read in part; says what that costs.

    Args:
        files: Address and bytes, if known, of each of its files.
        why: What stands against it.
        expected: What would do.
        then: What to do with the downloaded files.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, int | None]],
        why: str = "this server can't be read in part",
        expected: str = "HTTP 206 (Partial Content) to a request with Range",
        then: str = "",
    ) -> None:
        self.files = tuple(files)
        sizes = [size for _, size in files]
        known = sum(size or 0 for size in sizes)
        total = f"{'at least ' if None in sizes else ''}{known:,} bytes"
        lines = "".join(
            f"\n    {_name_of(url)}  {'of unknown size' if size is None else f'{size:,} bytes'}"
            for url, size in files
        )
        count = "1 file" if len(files) == 1 else f"{len(files)} files"
        gets = " ".join(f"-O '{url}'" for url, _ in files)
        then = then or f"give --images {_name_of(files[0][0])} (no unpacking needed)"
        super().__init__(
            f"{why}; a full download is {total} in {count}:{lines}",
            where=files[0][0],
            expected=expected,
            fix=f"curl -fL {gets}   then {then}",
        )


class Span(NamedTuple):
    """What one request reads: ``start`` to before ``end``, members ``first`` to before ``last`` in it.

    ``memory`` is how many bytes its members take when unpacked.
    """

    start: int
    end: int
    first: int = 0
    last: int = 0
    memory: int = 0


class Near:
    """An archive of which one stretch is here; what lies outside is fetched when it is asked for."""

    def __init__(self, parts: "RemoteParts", start: int, end: int) -> None:
        self._parts, self._start = parts, start
        self._data = parts.read(start, end - start)
        self.size = parts.size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end."""
        at = offset - self._start
        here = self._data[at : at + size] if at >= 0 else b""
        more = size - len(here)
        return here + self._parts.read(offset + len(here), more) if more else here


class RemoteParts:
    """One file on a server, or several that make one when put end to end; readable by any thread.

    Args:
        files: Addresses of each part, in order; several of one part are mirrors: the next one is used
            where one fails.
        policy: Timeouts and retries; those without progress are bounded, for each address.

    Raises:
        InputError: an address is none that we open.
    """

    def __init__(self, files: Sequence[Urls], *, policy: Policy | None = None) -> None:
        given = [[urls] if isinstance(urls, str) else list(urls) for urls in files]
        if not given or not all(urls and all(map(is_http, urls)) for urls in given):
            raise InputError(
                "an address of this archive can't be used",
                expected="http://… or https://… (no password in it)",
            )
        self._parts = [_Part(urls, policy or Policy(), self._session) for urls in given]
        self._idle: deque[requests.Session] = deque()
        self._starts: list[int] = []
        self._lock = threading.Lock()
        self.url = given[0][0]
        self.name = _name_of(self.url).removesuffix(".001")

    @property
    def size(self) -> int:
        """Bytes of all parts.

        Raises:
            WholeOnlyError: the server has no ranges; says what all parts cost.
            UpstreamError: a part can't be read.
        """
        return self._open()[-1]

    @property
    def head(self) -> bytes:
        """The first 512 bytes."""
        self._open()
        return self._parts[0].head

    @property
    def received(self) -> int:
        """Bytes of bodies that were received."""
        return sum(part.received for part in self._parts)

    def identity(self) -> tuple[tuple[str, int, str], ...]:
        """Address, bytes and ETag (or date, or "") of each part: changes when the content does."""
        self._open()
        said = [(part.url, part.first) for part in self._parts]
        return tuple((url, v.total, v.etag or v.modified or "") for url, v in said)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end.

        Raises:
            UpstreamError: all addresses of a part failed, or it changed since the first read.
            Stopped: `stop` was called.
        """
        starts = self._open()
        end = min(offset + size, starts[-1]) if offset >= 0 else 0
        chunks: list[bytes] = []
        while offset < end:
            part = bisect_right(starts, offset) - 1
            stop = min(end, starts[part + 1])
            chunks.append(self._parts[part].read(offset - starts[part], stop - starts[part]))
            offset = stop
        return b"".join(chunks)

    def ahead(
        self, spans: Iterable[Span], take: Callable[[Span, Near], T], jobs: int = JOBS
    ) -> Generator[T]:
        """What ``take`` makes of each span, in order; it works in threads.

        At most 64 MiB, or one span, are in memory. If the caller gives up or anything fails, the
        archive is stopped and can't be read any more.
        """

        def work(span: Span) -> T:
            return take(span, Near(self, span.start, span.end))

        waiting: deque[tuple[Future[T], int]] = deque()
        held = 0
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            try:
                for span in spans:
                    weight = span.end - span.start + span.memory
                    while waiting and (held + weight > _IN_FLIGHT or len(waiting) >= 4 * jobs):
                        held -= waiting[0][1]
                        yield waiting.popleft()[0].result()
                    waiting.append((pool.submit(work, span), weight))
                    held += weight
                while waiting:
                    yield waiting.popleft()[0].result()
            except BaseException:
                self.stop()
                for future, _ in waiting:
                    future.cancel()
                raise

    def refuse_packed(self) -> None:
        """Refuses a compressed file, which has no members at known offsets.

        Raises:
            WholeOnlyError: says what it costs.
        """
        for magic, (kind, command) in PACKED.items():
            if self.head.startswith(magic):
                command = command.format(path=_name_of(self.url))
                raise WholeOnlyError(
                    [part.cost() for part in self._parts],
                    f"a {kind} file can't be read in part",
                    "a zip, or an uncompressed tar",
                    f"{command}, and give the result: --images FILE",
                )

    def stop(self) -> None:
        """Ends all reading, by other threads too, for good."""
        for part in self._parts:
            part.stop.set()

    def close(self) -> None:
        """Ends connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def _open(self) -> list[int]:
        """Where each part begins, and the end; asked for once."""
        with self._lock:
            if not self._starts:
                try:
                    self._starts = list(accumulate((p.size() for p in self._parts), initial=0))
                except WholeOnlyError:
                    raise WholeOnlyError([part.cost() for part in self._parts]) from None
            return self._starts

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        """A connection that no other thread uses meanwhile."""
        try:
            session = self._idle.pop()
        except IndexError:
            session = open_session()
        try:
            yield session
        finally:
            self._idle.append(session)


class _Part:
    """One file on a server, under one address or several; see `RemoteParts`."""

    def __init__(self, urls: Sequence[str], policy: Policy, session: _Borrow) -> None:
        self.url, self.head, self.received = urls[0], b"", 0
        self.stop = threading.Event()
        self._policy, self._session = policy, session
        self._left = [Address(url) for url in urls]
        self._failures: list[tuple[str, Failure]] = []
        self._said: dict[Address, Version] = {}
        self._lock = threading.Lock()

    @property
    def first(self) -> Version:
        """Size, ETag and date, as the first address that answered said them."""
        with self._lock:
            return next(iter(self._said.values()))

    def size(self) -> int:
        """Bytes of the file, asked for with its head."""
        if not self._said:
            self.head = self.read(0, _HEAD)
        return self.first.total

    def cost(self) -> tuple[str, int | None]:
        """Address and size, whether it can be read in part or not."""
        try:
            return self.url, self.size()
        except WholeOnlyError as error:
            return error.files[0]
        except UpstreamError:
            return self.url, None

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to before ``end``, from the first address that gives them."""
        while True:
            with self._lock:
                if not self._left:
                    raise self._failed()
                address, data = self._left[0], bytearray()
            try:
                self._persist(address, start, end, data)
                return bytes(data)
            except Changed as failure:
                raise UpstreamError(
                    failure.reason,
                    where=address.url,
                    expected="the same size and ETag in every answer",
                    fix="run the same command again: it begins anew with the file that is there now",
                ) from failure
            except Failure as failure:
                log.warning("%s: %s", address.url, failure.reason)
                with self._lock:
                    if address in self._left:
                        self._left.remove(address)
                        self._failures.append((address.url, failure))

    def _persist(self, address: Address, start: int, end: int, data: bytearray) -> None:
        def attempt() -> None:
            # Another server's ETag says nothing: there, only the size counts.
            known = self._said.get(address) or (Version(self.first.total) if self._said else None)
            before = len(data)
            try:
                with self._session() as session:
                    said = read_range(
                        session, address, start + before, end, known, self._policy, data
                    )
                with self._lock:
                    self._said.setdefault(address, said)
            finally:
                with self._lock:
                    self.received += len(data) - before

        persist(
            attempt,
            self._policy,
            log=partial(log.info, "%s: %s", address.url),
            stop=self.stop,
            received=lambda: len(data),
        )

    def _failed(self) -> UpstreamError:
        for _, failure in self._failures:
            if isinstance(failure, NotInParts):
                return WholeOnlyError([(self.url, failure.total)])
        lines = "".join(f"\n    {url}: {failure.reason}" for url, failure in self._failures)
        return UpstreamError(
            f"this file can't be read:{lines}",
            where=_name_of(self.url),
            fix="run the same command later: what was fetched is kept",
        )


def _name_of(url: str) -> str:
    """The last part of a URL's path."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or url
