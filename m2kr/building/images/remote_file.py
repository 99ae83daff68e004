"""A file on a server, read at any offset as if it were here: by HTTP Range, and nothing else of it."""

import logging
import re
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import requests

from m2kr.building.fetch.http import (
    Origin,
    body_blocks,
    is_http,
    must_decode,
    open_session,
    open_url,
    refusal,
)
from m2kr.building.fetch.retry import Failure, Policy, persist
from m2kr.concurrency import ahead
from m2kr.data.images.roots import PACKED
from m2kr.errors import InputError, UpstreamError

log = logging.getLogger("m2kr.building.images")

Urls = str | Sequence[str]
T = TypeVar("T")
JOBS = 8
_HEAD = 512
_IN_FLIGHT = 64 << 20
_EXPIRED = {400, 401, 403, 404, 410}


class Span(NamedTuple):
    """What one request reads: ``start`` to before ``end``, members ``first`` to before ``last`` in it.

    ``memory`` is how many bytes its members take when unpacked.
    """

    start: int
    end: int
    first: int = 0
    last: int = 0
    memory: int = 0


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
        total = f"{'at least ' if None in sizes else ''}{sum(size or 0 for size in sizes):,} bytes"
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


class RemoteFile:
    """One file on a server, or several that make one when put end to end; readable by any thread.

    Args:
        files: Addresses of each part, in order; several of one part are mirrors: the next one is used
            where one fails.
        policy: Timeouts and retries; those without progress are bounded, for each address.

    Attributes:
        url: The first address.
        name: Its file name, without ``.001``.

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
        self.url = given[0][0]
        self.name = _name_of(self.url).removesuffix(".001")
        self._stop = threading.Event()
        self._parts = [_Part(urls, policy or Policy(), self._stop) for urls in given]
        self._starts: list[int] = []
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of all parts.

        Raises:
            WholeOnlyError: the server has no ranges, or the file is compressed; says what all parts cost.
            UpstreamError: a part can't be read.
        """
        return self._opened()[-1]

    @property
    def head(self) -> bytes:
        """The first 512 bytes."""
        self._opened()
        return self._parts[0].head

    @property
    def received(self) -> int:
        """Bytes of bodies that were received."""
        return sum(part.received for part in self._parts)

    def identity(self) -> tuple[tuple[str, int, str], ...]:
        """Address, bytes and ETag (or date, or "") of each part: changes when the content does."""
        self._opened()
        return tuple((part.url, part.size(), part.tag) for part in self._parts)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end.

        Raises:
            UpstreamError: all addresses of a part failed, or it changed since the first read.
            Stopped: `ahead` ended early.
        """
        starts = self._opened()
        end = min(offset + size, starts[-1]) if offset >= 0 else 0
        pieces: list[bytes] = []
        while offset < end:
            number = bisect_right(starts, offset) - 1
            stop = min(end, starts[number + 1])
            pieces.append(self._parts[number].read(offset - starts[number], stop - starts[number]))
            offset = stop
        return b"".join(pieces)

    def ahead(
        self, spans: Iterable[Span], work: Callable[[Span], T], jobs: int = JOBS
    ) -> Generator[tuple[Span, T]]:
        """Each span with what ``work`` makes of it, in order; it works in threads.

        At most 64 MiB, or one span, are in memory. If the caller gives up or anything fails, all reading
        ends for good.
        """
        few = _IN_FLIGHT // (4 * jobs)
        with ThreadPoolExecutor(jobs) as pool:
            try:
                yield from ahead(
                    spans,
                    lambda span: pool.submit(work, span),
                    room=_IN_FLIGHT,
                    size=lambda span: max(few, span.end - span.start + span.memory),
                )
            except BaseException:
                self._stop.set()
                raise

    def close(self) -> None:
        """Ends connections that are not in use."""
        for part in self._parts:
            while part.idle:
                part.idle.pop().close()

    def _opened(self) -> list[int]:
        """Where each part begins, and the end; asked for once."""
        with self._lock:
            if not self._starts:
                try:
                    starts = list(accumulate((part.size() for part in self._parts), initial=0))
                except WholeOnlyError:
                    raise WholeOnlyError([part.cost() for part in self._parts]) from None
                for magic, (kind, command) in PACKED.items():
                    if self._parts[0].head.startswith(magic):
                        command = command.format(path=_name_of(self.url))
                        raise WholeOnlyError(
                            [part.cost() for part in self._parts],
                            f"a {kind} file can't be read in part",
                            "a zip, or an uncompressed tar",
                            f"{command}, and give the result: --images FILE",
                        )
                self._starts = starts
            return self._starts


class _NoRanges(Failure):
    def __init__(self, total: int | None) -> None:
        super().__init__("sends whole files only")
        self.total = total


class _Mirror:
    """An address, where it last redirected to (or each range would take two requests), and what is there."""

    def __init__(self, url: str) -> None:
        self.url = self.target = url
        self.origin: Origin | None = None


class _Part:
    """One file on a server, under one address or several; see `RemoteFile`."""

    def __init__(self, urls: Sequence[str], policy: Policy, stop: threading.Event) -> None:
        self.url, self.head, self.received = urls[0], b"", 0
        self.origin: Origin | None = None  # as the first address that answered said
        self.idle: deque[requests.Session] = deque()
        self._policy, self._stop = policy, stop
        self._mirrors = [_Mirror(url) for url in urls]
        self._failures: list[tuple[str, Failure]] = []
        self._lock = threading.Lock()

    def size(self) -> int:
        """Bytes of the file, asked for with its head."""
        if self.origin is None:
            self.head = self.read(0, _HEAD)
        return (self.origin and self.origin.total) or 0

    @property
    def tag(self) -> str:
        """ETag, or date, or nothing."""
        return (self.origin and (self.origin.etag or self.origin.last_modified)) or ""

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
                if not self._mirrors:
                    raise self._failed()
                mirror, data = self._mirrors[0], bytearray()
            try:
                persist(
                    partial(self._append, mirror, start, end, data),
                    self._policy,
                    log=partial(log.info, "%s: %s", mirror.url),
                    stop=self._stop,
                    received=partial(len, data),
                )
                return bytes(data)
            except Failure as failure:
                log.warning("%s: %s", mirror.url, failure)
                with self._lock:
                    if mirror in self._mirrors:
                        self._mirrors.remove(mirror)
                        self._failures.append((mirror.url, failure))

    def _append(self, mirror: _Mirror, start: int, end: int, data: bytearray) -> None:
        """Appends those bytes of a range that ``data`` lacks, or as many as come before a `Failure`."""
        known = mirror.origin or self.origin
        start, before = start + len(data), len(data)
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if mirror.origin is not None and mirror.origin.validator:
            headers["If-Range"] = mirror.origin.validator
        try:
            session = self.idle.pop()
        except IndexError:  # not asked before: another thread may take the last one
            session = open_session()
        try:
            with self._answer(session, mirror, headers) as response:
                origin = _origin_of(response, mirror.url, start, known)
                left = min(end, origin.total or 0) - start
                if left > 0:
                    for block in body_blocks(response, self._policy, decode=False):
                        data += block[:left]
                        left -= len(block)
                        if left < 0:
                            break
                if left > 0:
                    raise Failure(f"the connection ended {left:,} bytes early", again=True)
            with self._lock:
                mirror.origin = mirror.origin or origin
                self.origin = self.origin or origin
        finally:
            self.idle.append(session)
            with self._lock:
                self.received += len(data) - before

    def _answer(
        self, session: requests.Session, mirror: _Mirror, headers: dict[str, str]
    ) -> requests.Response:
        response = open_url(session, mirror.target, headers, self._policy)
        if response.status_code in _EXPIRED and mirror.target != mirror.url:
            # Addresses that a hub redirects to are signed for an hour or so.
            response.close()
            mirror.target = mirror.url
            response = open_url(session, mirror.url, headers, self._policy)
        if response.status_code == 206:
            mirror.target = response.url
        return response

    def _failed(self) -> UpstreamError:
        for _, failure in self._failures:
            if isinstance(failure, _NoRanges):
                return WholeOnlyError([(self.url, failure.total)])
        lines = "".join(f"\n    {url}: {failure}" for url, failure in self._failures)
        return UpstreamError(
            f"this file can't be read:{lines}",
            where=_name_of(self.url),
            fix="run the same command later: what was fetched is kept",
        )


def _origin_of(response: requests.Response, url: str, start: int, known: Origin | None) -> Origin:
    """What is said of the file whose bytes from ``start`` on now come.

    Raises:
        UpstreamError: It is another file than the ``known`` one.
        Failure: They don't come, or all of it would come; the body is not read.
    """
    status, origin = response.status_code, Origin.of(response, url)
    if known is None:
        if status == 200:
            raise _NoRanges(origin.total)
        if status == 416 and origin.total == 0:
            return origin
    elif status in {200, 206} or (status == 416 and origin.total != known.total):
        if not (status == 200 and origin.total is None) and not known.same(origin):
            raise UpstreamError(
                "the file changed while it was read",
                where=url,
                expected="the same size and ETag in every answer",
                fix="run the same command again: it begins anew with the file that is there now",
            )
        if status == 200:
            raise Failure("the server ignores ranges now", again=True)
    if status != 206:
        raise refusal(response)
    if must_decode(response, ""):
        raise Failure("the server compresses what it sends")
    first = re.match(r"\s*bytes (\d+)-", response.headers.get("Content-Range", ""))
    if first is None or int(first[1]) != start:
        raise Failure("answers with another range than the one asked for", again=True)
    if origin.total is None:
        if known is None:
            raise Failure("does not say how large the file is")
        return replace(origin, total=known.total)
    return origin


def _name_of(url: str) -> str:
    """The last part of a URL's path."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or url
