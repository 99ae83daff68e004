"""GET with resume: the missing bytes of a file, all of them, or one reason why not; or its first ones."""

import re
import shutil
import time
from dataclasses import dataclass

import requests

from m2kr.building.fetch import pages
from m2kr.building.fetch.connection import (
    blocks,
    must_decode,
    open_session,
    open_url,
    refusal,
    total_of,
)
from m2kr.building.fetch.part import Origin
from m2kr.building.fetch.policy import Failure, Job, Policy
from m2kr.errors import M2KRError


def get(job: Job, url: str, deadline: float) -> None:
    """Appends the bytes that the part lacks.

    Args:
        job: The file.
        url: Where to get it.
        deadline: By `time.monotonic`, when the address is given up.

    Raises:
        Failure: Not all of them came; the part holds those that did, if they are of use.
        Stopped: ``job.stop`` was set.
        M2KRError: The disk or the lock failed.
    """
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
        if status in {200, 206} and None not in (total, job.want.size) and total != job.want.size:
            page = " (a web page?)" if "html" in _media(response) else ""
            raise Failure(f"serves {total:,} bytes instead of {job.want.size:,}{page}", wrong=True)
        if total is not None and job.want.size is None:
            _check_size(job, total)
        if status == 206:
            _check_range(response, job, url, encoded=encoded)
        elif status == 200:
            part.restart(_origin(response, url, encoded=encoded))
        else:
            raise refusal(response)
        total = part.origin.total if part.origin is not None else None
        job.meter.at(part.size, job.total)
        for block in blocks(response, policy, decode=encoded):
            job.take(block)
            if time.monotonic() > deadline:
                raise Failure(f"not whole after {job.policy.longest / 3600:.3g} hours")
        if total is not None and part.size != total:
            what = f"the connection ended after {part.size:,} of {total:,} bytes"
            raise Failure(what, again=True)


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


@dataclass(frozen=True, slots=True)
class Start:
    """The first bytes of a file, and what the server says of it.

    Attributes:
        status: 200 if they are here; 401, 403, 404 or 410 if the server refuses them.
        data: They.
        whole: There are no more.
        total: Bytes of the whole file, if the server says so.
    """

    status: int
    data: bytes = b""
    whole: bool = False
    total: int | None = None


def start_of(url: str, name: str, count: int, policy: Policy, *, seconds: float) -> Start:
    """The first ``count`` bytes of a file, or those that came within so many seconds.

    Args:
        url: Its address.
        name: Of the file.
        count: Bytes wanted. A server that sends more is not listened to any longer.
        policy: Patience of one attempt.
        seconds: Enough of waiting for more, if there are some.

    Raises:
        Failure: They didn't come.
    """
    deadline = time.monotonic() + seconds
    ranged = {"Range": f"bytes=0-{count - 1}"}
    with open_session() as session, open_url(session, url, ranged, policy) as response:
        status, headers = response.status_code, response.headers
        if status in {401, 403, 404, 410}:
            return Start(status)
        if status == 416 and total_of(response) == 0:
            return Start(200, whole=True, total=0)
        if status not in {200, 206}:
            raise refusal(response)
        if status == 206 and not headers.get("Content-Range", "").startswith("bytes 0-"):
            raise Failure("answers with another range than the one asked for", again=True)
        encoded = must_decode(response, name)
        total = None if encoded else total_of(response)
        data, ended = bytearray(), True
        for block in blocks(response, policy, decode=encoded):
            data += block
            if len(data) > count or time.monotonic() > deadline:
                ended = False
                break
    if ended and total is not None and len(data) < min(total, count):
        what = f"the connection ended after {len(data):,} of {min(total, count):,} bytes"
        raise Failure(what, again=True)
    last = ended and (status == 200 or (len(data) < count and not encoded))
    whole = last if total is None else len(data) >= total
    return Start(200, bytes(data[:count]), whole and len(data) <= count, total)


def _range_headers(job: Job, url: str) -> dict[str, str]:
    """Headers that ask for the rest; none (and no part) if old and new bytes could differ unnoticed."""
    part = job.part
    if not part.size or part.origin is None:
        return {}
    headers = {"Range": f"bytes={part.size}-"}
    validator = part.origin.etag or part.origin.last_modified
    if part.origin.url == url and validator:
        headers["If-Range"] = validator
    elif not job.want.hashed:
        part.restart(None)
        return {}
    return headers


def _origin(response: requests.Response, url: str, *, encoded: bool) -> Origin:
    if encoded:
        return Origin(url)
    etag = response.headers.get("ETag", "")
    return Origin(
        url,
        etag=etag if etag.startswith('"') else None,
        last_modified=response.headers.get("Last-Modified"),
        total=total_of(response),
    )


def _check_range(response: requests.Response, job: Job, url: str, *, encoded: bool) -> None:
    """Refuses a 206 that doesn't go on exactly where the part ends, in the same file."""
    part, old = job.part, job.part.origin
    new = _origin(response, url, encoded=encoded)
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    fits = old is not None and start is not None and int(start[1]) == part.size and not encoded
    if fits and old is not None:
        fits = old.total is None or new.total is None or old.total == new.total
        same_place = old.url == new.url
        fits &= not same_place or old.etag is None or new.etag is None or old.etag == new.etag
    if not fits:
        part.restart(None)
        raise Failure("the file changed while it was fetched, or ranges are broken", again=True)
