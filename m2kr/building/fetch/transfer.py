"""One file from the first of its addresses that has the right bytes, resumed where it ended."""

import importlib.resources
import logging
import re
import shutil
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import requests

from m2kr.building.fetch import pages
from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.folder import ExpectedFile
from m2kr.building.fetch.http import (
    Origin,
    body_blocks,
    is_http,
    must_decode,
    open_session,
    open_url,
    refusal,
    total_of,
)
from m2kr.building.fetch.part import Part
from m2kr.building.fetch.retry import Failure, Policy, Stopped, persist
from m2kr.errors import M2KRError
from m2kr.progress import Progress

log = logging.getLogger("m2kr.building.fetch.transfer")

_PACKAGE = "package:"


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
        expected: What its bytes must be.
        part: Where they go.
        policy: Patience.
        stop: Set to end it; what arrived is kept.
        meter: Told of every byte.
        reach: Which servers answered so far, of all files of a fetch.
    """

    asset: Asset
    expected: ExpectedFile
    part: Part
    policy: Policy
    stop: threading.Event
    meter: Meter
    reach: Reach = field(default_factory=Reach)

    @property
    def limit(self) -> int:
        """Bytes at most: the published size, or some times what is known of it roughly."""
        if self.expected.size is not None:
            return self.expected.size
        if self.asset.about:
            return max(4 * self.asset.about, 1 << 30)
        return self.policy.unsized if self.total is None else self.total

    @property
    def total(self) -> int | None:
        """Bytes of the whole file, if published or said by the server."""
        said = self.part.origin.total if self.part.origin is not None else None
        return said if self.expected.size is None else self.expected.size

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


def supported(url: str) -> bool:
    """Whether ``transfer`` knows such URLs: ``http``, ``https`` and ``package:module/path``."""
    if is_local(url):
        module, _, inner = url.removeprefix(_PACKAGE).partition("/")
        return bool(module and inner) and ".." not in inner.split("/")
    return is_http(url)


def is_local(url: str) -> bool:
    """Whether a URL needs no network."""
    return url.startswith(_PACKAGE)


def transfer(job: Job) -> list[tuple[str, str]]:
    """Fills the part with the wanted bytes from the first URL that has them.

    Returns:
        The URLs that failed before, each with its reason. If they are as many as the asset has,
        the part does not hold the file.

    Raises:
        Stopped: ``job.stop`` was set.
        M2KRError: The disk or the lock failed.
    """
    reasons: list[tuple[str, str]] = []
    for url in job.asset.urls:
        given_up = None if is_local(url) else job.reach.given_up(url)
        try:
            if given_up is not None:
                raise Failure(given_up)
            _from_one(job, url)
            break
        except Failure as failure:
            if failure.unreachable:
                job.reach.failed(url, failure.reason)
            level = logging.WARNING if given_up is None else logging.INFO
            log.log(level, "%s: %s: %s", job.asset.name, url, failure.reason)
            reasons.append((url, failure.reason))
    return reasons


def _from_one(job: Job, url: str) -> None:
    """Fills the part from one URL, or raises `Failure` where it is given up."""
    deadline = time.monotonic() + job.policy.longest

    def attempt() -> None:
        if is_local(url):
            _copy(job, url)
        elif job.part.size != job.expected.size or not job.expected.hashed:
            _get(job, url, deadline)
        _verify(job)

    persist(
        attempt,
        job.policy,
        log=partial(log.warning, "%s: %s", job.asset.name),
        stop=job.stop,
        received=lambda: job.part.size,
        offline=lambda: not job.reach.any,
    )


def _get(job: Job, url: str, deadline: float) -> None:
    """Appends the bytes that the part lacks, or raises `Failure`; until a time of `time.monotonic`."""
    part, policy = job.part, job.policy
    ranged = _range_headers(job, url)
    with open_session() as session, open_url(session, url, ranged, policy) as response:
        job.reach.answered(url)
        status = response.status_code
        encoded = must_decode(response, job.asset.name)
        if response.url != url and pages.is_sign_in(response.url, _media(response)):
            raise Failure("leads to a page to sign in at; fetch it by hand")
        if status == 416 and ranged and total_of(response) == part.size:
            return
        if status in {412, 416} and ranged:
            part.restart(None)
            raise Failure(f"the server refuses to go on (HTTP {status})", again=True)
        total = None if encoded else total_of(response)
        if (
            status in {200, 206}
            and None not in (total, job.expected.size)
            and total != job.expected.size
        ):
            page = " (a web page?)" if "html" in _media(response) else ""
            raise Failure(
                f"serves {total:,} bytes instead of {job.expected.size:,}{page}", wrong=True
            )
        if total is not None and job.expected.size is None:
            _check_size(job, total)
        if status == 206:
            _check_range(response, job, Origin.of(response, url), encoded=encoded)
        elif status == 200:
            part.restart(Origin(url) if encoded else Origin.of(response, url))
        else:
            raise refusal(response)
        total = part.origin.total if part.origin is not None else None
        job.meter.at(part.size, job.total)
        for block in body_blocks(response, policy, decode=encoded):
            job.take(block)
            if time.monotonic() > deadline:
                raise Failure(f"not whole after {job.policy.longest / 3600:.3g} hours")
        if total is not None and part.size != total:
            reason = f"the connection ended after {part.size:,} of {total:,} bytes"
            raise Failure(reason, again=True)


def _media(response: requests.Response) -> str:
    return str(response.headers.get("Content-Type", "")).lower()


def _check_size(job: Job, total: int) -> None:
    """Refuses a size that nobody published and that can't be right."""
    if job.asset.about and total > job.limit:
        raise Failure(f"serves {total:,} bytes instead of about {job.asset.about:,}", wrong=True)
    free = shutil.disk_usage(job.part.path.parent).free
    if total - job.part.size + job.policy.spare > free:
        raise M2KRError(
            f"the disk is full or nearly so: {total:,} bytes are to be fetched, {free:,} are free",
            where=str(job.part.path),
            fix="free some space and run the command again: it goes on from what has arrived",
        )


def _range_headers(job: Job, url: str) -> dict[str, str]:
    """Headers that ask for the rest; none (and no part) if old and new bytes could differ unnoticed."""
    part = job.part
    if not part.size or part.origin is None:
        return {}
    headers = {"Range": f"bytes={part.size}-"}
    if part.origin.url == url and part.origin.validator:
        headers["If-Range"] = part.origin.validator
    elif not job.expected.hashed:
        part.restart(None)
        return {}
    return headers


def _check_range(response: requests.Response, job: Job, origin: Origin, *, encoded: bool) -> None:
    """Refuses a 206 that doesn't go on exactly where the part ends, in the same file."""
    part = job.part
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    goes_on = start is not None and int(start[1]) == part.size and not encoded
    if not goes_on or part.origin is None or not part.origin.same(origin):
        part.restart(None)
        raise Failure("the file changed while it was fetched, or ranges are broken", again=True)


def _verify(job: Job) -> None:
    part, expected = job.part, job.expected
    if not part.sync():
        part.restart(None)
        raise Failure("another process wrote to the same file", wrong=True)
    problem = expected.problem(part.size, part.digest.sha256, part.digest.md5)
    if problem is None and not expected.hashed:
        if part.size == 0 and expected.size is None:
            problem = "an empty file"
        else:
            problem = pages.instead_of(part.path, job.asset.name)
    if problem is not None:
        part.restart(None)
        raise Failure(problem, wrong=True)


def _copy(job: Job, url: str) -> None:
    module, _, inner = url.removeprefix(_PACKAGE).partition("/")
    try:
        source = importlib.resources.files(module).joinpath(*inner.split("/"))
        with source.open("rb") as file:
            job.part.restart(Origin(url))
            while block := file.read(1 << 20):
                job.take(block)
    except ModuleNotFoundError as error:
        raise Failure(f"the package that holds {error.name!r} is not installed") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Failure(f"the installed {module!r} has no such file") from error
