"""One file on its way: what it must be, where it goes, and how patient we are."""

import threading
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.folder import Stopped, Want
from m2kr.building.fetch.part import Part
from m2kr.progress import Progress


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient downloads are.

    Attributes:
        attempts: Failures in a row, without progress, after which a URL is given up.
        step: New bytes that count as progress.
        backoff: Seconds before the second attempt; doubles with every further one.
        backoff_cap: Longest such wait in seconds.
        retry_after_cap: Longest wait in seconds that a server may ask for by Retry-After.
        connect_timeout: Seconds to get a connection.
        read_timeout: Seconds without a byte after which a connection is stalled.
        slow_rate: Bytes a second below which a connection is given up after `slow_seconds`.
        slow_seconds: see ``slow_rate``.
        longest: Seconds that one file may take from one address, whatever it brings.
        hopeless: Seconds after which a server that can't be reached is given up, if none was before.
        unsized: Bytes of a file at most of which neither its builder nor its server says how large it is.
        redirects: Followed at most.
        chunk: Bytes read at a time.
        spare: Bytes that must stay free on the disk.
    """

    attempts: int = 5
    step: int = 1 << 18
    backoff: float = 1.0
    backoff_cap: float = 60.0
    retry_after_cap: float = 300.0
    connect_timeout: float = 20.0
    read_timeout: float = 60.0
    slow_rate: int = 1000
    slow_seconds: float = 120.0
    longest: float = 7 * 86400.0
    hopeless: float = 5.0
    unsized: int = 64 << 30
    redirects: int = 10
    chunk: int = 1 << 16
    spare: int = 256 << 20


class Failure(Exception):
    """One attempt at one URL failed; never leaves the engine.

    Args:
        reason: For the message to the user.
        again: The same URL may work later.
        wait: Seconds the server asks to wait.
        wrong: The content is not the expected one: worth one more attempt.
        unreachable: There was no connection at all.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: bool = False,
        wait: float | None = None,
        wrong: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.wait = wait
        self.wrong = wrong
        self.unreachable = unreachable


class Reach:
    """Which servers answered so far in one fetch: without a network, none is asked again and again."""

    def __init__(self) -> None:
        self.any = False
        self._gone: dict[str, str] = {}

    def answered(self, url: str) -> None:
        """A server was reached."""
        self.any = True
        self._gone.pop(_host(url), None)

    def failed(self, url: str, reason: str) -> None:
        """A server could not be reached, and was given up."""
        self._gone[_host(url)] = reason

    def given_up(self, url: str) -> str | None:
        """Why the server of an address isn't asked any more; None if it is."""
        return self._gone.get(_host(url))

    def __str__(self) -> str:
        return ", ".join(f"{host} ({reason})" for host, reason in sorted(self._gone.items()))


def _host(url: str) -> str:
    return urlsplit(url).netloc.lower()


class Meter:
    """Tells a `Progress` how many bytes of one file are there.

    A download that begins again takes bytes back, by an advance below zero.
    """

    def __init__(self, name: str, progress: Progress) -> None:
        self._name = name
        self._progress = progress
        self._shown: int | None = None

    def at(self, size: int, total: int | None) -> None:
        """``size`` bytes of ``total``, if known, are there."""
        if self._shown is None:
            self._progress.start(self._name, total)
            self._shown = 0
        self._progress.advance(self._name, size - self._shown)
        self._shown = size

    def done(self) -> None:
        """The file is complete or given up."""
        if self._shown is not None:
            self._progress.done(self._name)


@dataclass(frozen=True, slots=True)
class Job:
    """What a transfer works on.

    Attributes:
        asset: The file.
        want: What its bytes must be.
        part: Where they go.
        policy: Patience.
        stop: Set to end it; what arrived is kept.
        meter: Told of every byte.
        reach: Which servers answered so far, of all files of a fetch.
    """

    asset: Asset
    want: Want
    part: Part
    policy: Policy
    stop: threading.Event
    meter: Meter
    reach: Reach = field(default_factory=Reach)

    @property
    def limit(self) -> int:
        """Bytes at most: the published size, or some times what is known of it roughly."""
        if self.want.size is not None:
            return self.want.size
        if self.asset.about:
            return max(4 * self.asset.about, 1 << 30)
        return self.policy.unsized if self.total is None else self.total

    @property
    def total(self) -> int | None:
        """Bytes of the whole file, if published or said by the server."""
        said = self.part.origin.total if self.part.origin is not None else None
        return said if self.want.size is None else self.want.size

    def take(self, block: bytes) -> None:
        """Adds bytes to the part.

        Raises:
            Stopped: ``stop`` is set.
            Failure: They are too many.
            M2KRError: The disk or the lock failed.
        """
        if self.stop.is_set():
            raise Stopped
        self.part.append(block)
        self.meter.at(self.part.size, self.total)
        if self.part.size > self.limit:
            limit = self.limit
            self.part.restart(None)
            raise Failure(f"more than the expected {limit:,} bytes", wrong=True)
