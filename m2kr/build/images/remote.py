"""Files on a server, read at any offset as if they were here."""

import logging
import queue
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

import requests

from m2kr.build.download.connection import is_http, open_session
from m2kr.build.download.downloads import Stopped
from m2kr.build.download.job import Failure, Policy
from m2kr.build.download.ranges import Address, Changed, NotInParts, Version, read_range
from m2kr.data.image_roots import PACKED
from m2kr.errors import InputError, UpstreamError

log = logging.getLogger("m2kr.build.images")

Urls = str | Sequence[str]
_HEAD = 512


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
            f"\n    {name_of(url)}  {'of unknown size' if size is None else f'{size:,} bytes'}"
            for url, size in files
        )
        count = "1 file" if len(files) == 1 else f"{len(files)} files"
        gets = " ".join(f"-O '{url}'" for url, _ in files)
        then = then or f"give --images {name_of(files[0][0])} (no unpacking needed)"
        super().__init__(
            f"{why}; a full download is {total} in {count}:{lines}",
            where=files[0][0],
            expected=expected,
            fix=f"curl -fL {gets}   then {then}",
        )


class Sessions:
    """Connections that threads borrow, so that they are used again."""

    def __init__(self) -> None:
        self._idle: queue.LifoQueue[requests.Session] = queue.LifoQueue()

    @contextmanager
    def borrowed(self) -> Iterator[requests.Session]:
        """A session that no other thread uses meanwhile."""
        try:
            session = self._idle.get_nowait()
        except queue.Empty:
            session = open_session()
        try:
            yield session
        finally:
            self._idle.put(session)

    def close(self) -> None:
        """Ends those that are not in use."""
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return


class RemoteFile:
    """One file on a server, readable at any offset by any thread.

    Args:
        urls: Its address, or several that hold the same file; the next one is used where one fails.
        policy: Timeouts and retries; those without progress are bounded, for each address.
        sessions: Connections shared with other files.

    Attributes:
        received: Bytes of bodies that were received.
        stop: Set to end all reading, for good.

    Raises:
        InputError: an address is none that we open.
    """

    def __init__(
        self, urls: Urls, *, policy: Policy | None = None, sessions: Sessions | None = None
    ) -> None:
        given = [urls] if isinstance(urls, str) else list(urls)
        if not given or not all(map(is_http, given)):
            raise InputError(
                "an address of this archive can't be used",
                expected="http://… or https://… (no password in it)",
            )
        self._addresses = [Address(url) for url in given]
        self._policy = policy or Policy()
        self._sessions = sessions or Sessions()
        self._number = 0
        self._failures: list[tuple[str, Failure]] = []
        self._version: Version | None = None
        self._told_by: Address | None = None
        self._head = b""
        self._lock = threading.RLock()
        self.received = 0
        self.stop = threading.Event()

    @property
    def url(self) -> str:
        """The first address."""
        return self._addresses[0].url

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses."""
        return tuple(address.url for address in self._addresses)

    @property
    def name(self) -> str:
        """The last part of its address."""
        return name_of(self.url)

    @property
    def version(self) -> Version:
        """Size, ETag and date by the server; asked for once.

        Raises:
            WholeOnlyError: it has no ranges.
            UpstreamError: no address gives the file.
        """
        with self._lock:
            if self._version is None:
                data = bytearray()
                self._persist(0, _HEAD, data)
                self._head = bytes(data)
            assert self._version is not None
            return self._version

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.version.total

    @property
    def head(self) -> bytes:
        """Its first 512 bytes."""
        assert self.version is not None
        return self._head

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end.

        Raises:
            UpstreamError: all addresses failed, or the file changed since the first read.
            Stopped: ``stop`` is set.
        """
        end = min(offset + size, self.size)
        data = bytearray()
        if 0 <= offset < end:
            self._persist(offset, end, data)
        return bytes(data)

    def close(self) -> None:
        """Ends connections that are not in use."""
        self._sessions.close()

    def _persist(self, start: int, end: int, data: bytearray) -> None:
        """Fills ``data`` from the first address that can."""
        while True:
            with self._lock:
                number = self._number
                if number == len(self._addresses):
                    raise self._failed()
            address = self._addresses[number]
            try:
                self._from_one(address, start, end, data)
                return
            except Changed as failure:
                raise UpstreamError(
                    failure.reason,
                    where=address.url,
                    expected="the same size and ETag in every answer",
                    fix="run the same command again: it begins anew with the file that is there now",
                ) from failure
            except Failure as failure:
                log.warning("%s: %s", address.url, failure.reason)
                data.clear()
                with self._lock:
                    if self._number == number:
                        self._failures.append((address.url, failure))
                        self._number += 1

    def _from_one(self, address: Address, start: int, end: int, data: bytearray) -> None:
        policy = self._policy
        failures = farthest = 0
        while True:
            if self.stop.is_set():
                raise Stopped
            before = len(data)
            try:
                with self._sessions.borrowed() as session:
                    found = read_range(
                        session, address, start + before, end, self._known(address), policy, data
                    )
                self._note(address, found)
                return
            except Failure as failure:
                if not failure.again:
                    raise
                progress = len(data) >= farthest + policy.step
                failures = 1 if progress else failures + 1
                farthest = len(data) if progress else farthest
                if failures >= policy.attempts:
                    reason = f"{failure.reason} ({failures} attempts)"
                    raise Failure(reason) from failure
                wait = min(policy.backoff * 2 ** (failures - 1), policy.backoff_cap)
                if failure.wait is not None:
                    wait = max(wait, min(failure.wait, policy.retry_after_cap))
                log.info("%s: %s; again in %.3g s", address.url, failure.reason, wait)
                self.stop.wait(wait)
            finally:
                with self._lock:
                    self.received += len(data) - before

    def _known(self, address: Address) -> Version | None:
        """What the file at an address must be. Another server's ETag says nothing: only the size counts."""
        version = self._version
        if version is None or address is self._told_by:
            return version
        return Version(version.total)

    def _note(self, address: Address, found: Version) -> None:
        with self._lock:
            if self._told_by is not address:
                self._version, self._told_by = found, address

    def _failed(self) -> UpstreamError:
        for _, failure in self._failures:
            if isinstance(failure, NotInParts):
                return WholeOnlyError([(self.url, failure.total)])
        lines = "".join(f"\n    {url}: {failure.reason}" for url, failure in self._failures)
        return UpstreamError(
            f"this file can't be read:{lines}",
            where=self.name,
            fix="run the same command later: what was fetched is kept",
        )


class RemoteParts:
    """One file on a server, or several that make one when put end to end.

    Args:
        files: Addresses of each part, in order.
        policy: Timeouts and retries.
    """

    def __init__(self, files: Sequence[Urls], *, policy: Policy | None = None) -> None:
        self._sessions = Sessions()
        self.files = [RemoteFile(urls, policy=policy, sessions=self._sessions) for urls in files]
        if not self.files:
            raise InputError("no address of this archive is given")
        self._starts: list[int] | None = None
        self._size = 0
        self._versions: tuple[tuple[str, Version], ...] = ()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The last part of the first address, without ``.001``."""
        return self.files[0].name.removesuffix(".001")

    @property
    def url(self) -> str:
        """The first address of the first part."""
        return self.files[0].url

    @property
    def size(self) -> int:
        """Bytes of all parts.

        Raises:
            WholeOnlyError: the server has no ranges; says what all parts cost.
            UpstreamError: a part can't be read.
        """
        self._open()
        return self._size

    @property
    def head(self) -> bytes:
        """The first 512 bytes."""
        self._open()
        return self.files[0].head

    @property
    def received(self) -> int:
        """Bytes of bodies that were received."""
        return sum(file.received for file in self.files)

    def identity(self) -> tuple[tuple[str, int, str], ...]:
        """Address, bytes and ETag (or date, or "") of each part: changes when the content does."""
        self._open()
        return tuple((url, v.total, v.etag or v.modified or "") for url, v in self._versions)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end.

        Raises:
            UpstreamError: all addresses of a part failed, or it changed since the first read.
            Stopped: `stop` was called.
        """
        starts = self._open()
        chunks: list[bytes] = []
        size = max(0, min(size, self._size - offset)) if offset >= 0 else 0
        while size:
            part = bisect_right(starts, offset) - 1
            chunk = self.files[part].read(offset - starts[part], size)
            chunks.append(chunk)
            offset, size = offset + len(chunk), size - len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def refuse_packed(self) -> None:
        """Refuses a compressed file, which has no members at known offsets.

        Raises:
            WholeOnlyError: says what it costs.
        """
        for magic, (kind, command) in PACKED.items():
            if self.head.startswith(magic):
                name = self.files[0].name
                raise WholeOnlyError(
                    [(file.url, file.size) for file in self.files],
                    f"a {kind} file can't be read in part",
                    "a zip, or an uncompressed tar",
                    f"{command.format(path=name)}, and give the result: --images FILE",
                )

    def stop(self) -> None:
        """Ends all reading, by other threads too, for good."""
        for file in self.files:
            file.stop.set()

    def close(self) -> None:
        """Ends connections that are not in use."""
        self._sessions.close()

    def _open(self) -> list[int]:
        with self._lock:
            if self._starts is None:
                sizes = self._sizes()
                self._size = sum(sizes)
                self._versions = tuple((file.url, file.version) for file in self.files)
                self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
            return self._starts

    def _sizes(self) -> list[int]:
        try:
            return [file.size for file in self.files]
        except WholeOnlyError:
            raise WholeOnlyError([_cost(file) for file in self.files]) from None


def _cost(file: RemoteFile) -> tuple[str, int | None]:
    """Address and size of a file, whether it can be read in part or not."""
    try:
        return file.url, file.size
    except WholeOnlyError as error:
        return error.files[0]
    except UpstreamError:
        return file.url, None


def name_of(url: str) -> str:
    """The last part of a URL's path."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or url
