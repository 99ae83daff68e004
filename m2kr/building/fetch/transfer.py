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


def supported(url: str) -> bool:
    """Whether such URLs can be fetched: ``http``, ``https`` and ``package:module/path``."""
    if is_local(url):
        module, _, inner = url.removeprefix(_PACKAGE).partition("/")
        return bool(module and inner) and ".." not in inner.split("/")
    return is_http(url)


def is_local(url: str) -> bool:
    """Whether a URL needs no network."""
    return url.startswith(_PACKAGE)


@dataclass(slots=True)
class Transfer:
    """One file on its way into its part.

    Attributes:
        asset: The file.
        expected: What its bytes must be.
        part: Where they go.
        policy: Patience.
        progress: Told of every byte; one that begins again takes bytes back, by an advance below zero.
        stop: Set to end it; what arrived is kept.
        reach: Which servers answered so far, of all files of a fetch.
    """

    asset: Asset
    expected: ExpectedFile
    part: Part
    policy: Policy
    progress: Progress
    stop: threading.Event
    reach: Reach
    _shown: int | None = field(default=None, init=False)

    def run(self) -> list[tuple[str, str]]:
        """Fills the part with the expected bytes from the first URL that has them.

        Returns:
            The URLs that failed before, each with its reason. If they are as many as the asset has,
            the part does not hold the file.

        Raises:
            Stopped: ``stop`` was set.
            M2KRError: The disk or the lock failed.
        """
        reasons: list[tuple[str, str]] = []
        try:
            for url in self.asset.urls:
                given_up = None if is_local(url) else self.reach.given_up(url)
                try:
                    if given_up is not None:
                        raise Failure(given_up)
                    self._from_url(url)
                    break
                except Failure as failure:
                    if failure.unreachable:
                        self.reach.failed(url, failure.reason)
                    level = logging.WARNING if given_up is None else logging.INFO
                    log.log(level, "%s: %s: %s", self.asset.name, url, failure.reason)
                    reasons.append((url, failure.reason))
        finally:
            if self._shown is not None:
                self.progress.done(self.asset.name)
        return reasons

    def _from_url(self, url: str) -> None:
        """Fills the part from one URL, or raises `Failure` where it is given up."""
        deadline = time.monotonic() + self.policy.longest

        def attempt() -> None:
            if is_local(url):
                self._copy(url)
            elif self.part.size != self.expected.size or not self.expected.hashed:
                self._get(url, deadline)
            self._verify()

        persist(
            attempt,
            self.policy,
            log=partial(log.warning, "%s: %s", self.asset.name),
            stop=self.stop,
            received=lambda: self.part.size,
            offline=lambda: not self.reach.any,
        )

    def _copy(self, url: str) -> None:
        module, _, inner = url.removeprefix(_PACKAGE).partition("/")
        try:
            source = importlib.resources.files(module).joinpath(*inner.split("/"))
            with source.open("rb") as file:
                self.part.restart(Origin(url))
                while block := file.read(1 << 20):
                    self._take(block)
        except ModuleNotFoundError as error:
            raise Failure(f"the package that holds {error.name!r} is not installed") from error
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise Failure(f"the installed {module!r} has no such file") from error

    def _get(self, url: str, deadline: float) -> None:
        """Appends the bytes that the part lacks, or raises `Failure`; until a time of `time.monotonic`."""
        part = self.part
        ranged = self._range_headers(url)
        with open_session() as session, open_url(session, url, ranged, self.policy) as response:
            self.reach.answered(url)
            status, origin = response.status_code, Origin.of(response, url)
            media = str(response.headers.get("Content-Type", "")).lower()
            if response.url != url and pages.is_sign_in(response.url, media):
                raise Failure("leads to a page to sign in at; fetch it by hand")
            if status == 416 and ranged and origin.total == part.size:
                return
            if status in {412, 416} and ranged:
                part.restart(None)
                raise Failure(f"the server refuses to go on (HTTP {status})", again=True)
            if status not in {200, 206}:
                raise refusal(response)
            encoded = must_decode(response, self.asset.name)
            if encoded:
                origin = Origin(url)
            self._check_size(origin.total, media)
            if status == 200:
                part.restart(origin)
            else:
                start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
                goes_on = start is not None and int(start[1]) == part.size and not encoded
                if not goes_on or part.origin is None or not part.origin.same(origin):
                    part.restart(None)
                    reason = "the file changed while it was fetched, or ranges are broken"
                    raise Failure(reason, again=True)
            total = part.origin.total if part.origin is not None else None
            self._show()
            for block in body_blocks(response, self.policy, decode=encoded):
                self._take(block)
                if time.monotonic() > deadline:
                    raise Failure(f"not whole after {self.policy.longest / 3600:.3g} hours")
            if total is not None and part.size != total:
                reason = f"the connection ended after {part.size:,} of {total:,} bytes"
                raise Failure(reason, again=True)

    def _range_headers(self, url: str) -> dict[str, str]:
        """Headers that ask for the rest; none (and no part) if old and new bytes could differ unnoticed."""
        part = self.part
        if not part.size or part.origin is None:
            return {}
        headers = {"Range": f"bytes={part.size}-"}
        if part.origin.url == url and part.origin.validator:
            headers["If-Range"] = part.origin.validator
        elif not self.expected.hashed:
            part.restart(None)
            return {}
        return headers

    def _check_size(self, total: int | None, media: str) -> None:
        """Refuses a size that isn't the published one, or can't be right."""
        if total is None:
            return
        if self.expected.size is not None:
            if total != self.expected.size:
                page = " (a web page?)" if "html" in media else ""
                reason = f"serves {total:,} bytes instead of {self.expected.size:,}{page}"
                raise Failure(reason, wrong=True)
            return
        about = self.asset.about
        if about and total > self._most:
            raise Failure(f"serves {total:,} bytes instead of about {about:,}", wrong=True)
        free = shutil.disk_usage(self.part.path.parent).free
        if total - self.part.size + self.policy.spare > free:
            raise M2KRError(
                f"the disk is full or nearly so: {total:,} bytes are to be fetched, {free:,} are free",
                where=str(self.part.path),
                fix="free some space and run the command again: it goes on from what has arrived",
            )

    @property
    def _total(self) -> int | None:
        """Bytes of the whole file, if published or said by the server."""
        said = self.part.origin.total if self.part.origin is not None else None
        return said if self.expected.size is None else self.expected.size

    @property
    def _most(self) -> int:
        """Bytes at most: the published size, or some times what is known of it roughly."""
        if self.expected.size is not None:
            return self.expected.size
        if self.asset.about:
            return max(4 * self.asset.about, 1 << 30)
        return self.policy.unsized if self._total is None else self._total

    def _take(self, block: bytes) -> None:
        """Adds bytes to the part, unless they are too many."""
        if self.stop.is_set():
            raise Stopped
        self.part.append(block)
        self._show()
        most = self._most
        if self.part.size > most:
            self.part.restart(None)
            raise Failure(f"more than the expected {most:,} bytes", wrong=True)

    def _show(self) -> None:
        if self._shown is None:
            self.progress.start(self.asset.name, self._total)
            self._shown = 0
        self.progress.advance(self.asset.name, self.part.size - self._shown)
        self._shown = self.part.size

    def _verify(self) -> None:
        part, expected = self.part, self.expected
        if not part.sync():
            part.restart(None)
            raise Failure("another process wrote to the same file", wrong=True)
        problem = expected.problem(part.size, part.digest.sha256, part.digest.md5)
        if problem is None and not expected.hashed:
            if part.size == 0 and expected.size is None:
                problem = "an empty file"
            else:
                problem = pages.instead_of(part.path, self.asset.name)
        if problem is not None:
            part.restart(None)
            raise Failure(problem, wrong=True)
