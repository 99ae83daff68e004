"""Some bytes of a file on a server, by HTTP Range, from the same version of it every time."""

import re
from dataclasses import dataclass

import requests

from m2kr.building.fetch.http import blocks, must_decode, open_url, refusal, total_of
from m2kr.building.fetch.retry import Failure, Policy

_EXPIRED = {400, 401, 403, 404, 410}


@dataclass(frozen=True, slots=True)
class Version:
    """What a server says of the file whose bytes it sends.

    Attributes:
        total: Bytes of the whole file.
        etag: The header as received, if any.
        modified: Its Last-Modified as received, if any.
    """

    total: int
    etag: str | None = None
    modified: str | None = None

    @property
    def validator(self) -> str | None:
        """What may stand in If-Range: a strong ETag, else the date."""
        strong = self.etag is not None and self.etag.startswith('"')
        return self.etag if strong else self.modified

    def same(self, other: "Version") -> bool:
        """Whether nothing said of the two tells them apart."""
        if self.total != other.total:
            return False
        if self.etag and other.etag:
            return self.etag == other.etag
        return not (self.modified and other.modified) or self.modified == other.modified


class Address:
    """A URL, and where it was last redirected to: asking anew for every range would double the requests.

    Args:
        url: The URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.now = url


class Changed(Failure):
    """The file is no longer the one that was begun with."""


class NotInParts(Failure):
    """The server has no ranges.

    Args:
        total: Bytes of the whole file, if it said so.
    """

    def __init__(self, total: int | None) -> None:
        super().__init__("sends whole files only")
        self.total = total


def read_range(
    session: requests.Session,
    address: Address,
    start: int,
    end: int,
    version: Version | None,
    policy: Policy,
    sink: bytearray,
) -> Version:
    """Appends the bytes from ``start`` to before ``end``, or to the end of the file.

    Args:
        session: Keeps connections.
        address: Of the file.
        start: First byte.
        end: Behind the last one.
        version: What the file must be; None the first time.
        policy: Patience of one attempt.
        sink: Takes what arrives, if not all arrives, too.

    Returns:
        What the file is.

    Raises:
        Changed: It is another file now.
        NotInParts: The server would send all of it. The body is not read.
        Failure: Not all came.
    """
    headers = {"Range": f"bytes={start}-{end - 1}"}
    if version is not None and version.validator:
        headers["If-Range"] = version.validator
    with _answer(session, address, headers, policy) as response:
        found = _version(response, start, version)
        left = min(end, found.total) - start
        if left > 0:
            for block in blocks(response, policy, decode=False):
                sink += block[:left]
                left -= len(block)
                if left < 0:
                    break
        if left > 0:
            raise Failure(f"the connection ended {left:,} bytes early", again=True)
        return found


def _answer(
    session: requests.Session, address: Address, headers: dict[str, str], policy: Policy
) -> requests.Response:
    response = open_url(session, address.now, headers, policy)
    if response.status_code in _EXPIRED and address.now != address.url:
        # Addresses that a hub redirects to are signed for an hour or so.
        response.close()
        address.now = address.url
        response = open_url(session, address.url, headers, policy)
    if response.status_code == 206:
        address.now = response.url
    return response


def _version(response: requests.Response, start: int, version: Version | None) -> Version:
    """What the file is of which the wanted range now comes."""
    status, headers = response.status_code, response.headers
    total = total_of(response)
    etag, modified = headers.get("ETag") or None, headers.get("Last-Modified") or None
    if status == 200:
        if version is None:
            raise NotInParts(total)
        if total is not None and not version.same(Version(total, etag, modified)):
            raise Changed("the file changed while it was read")
        raise Failure("the server ignores ranges now", again=True)
    if status == 416 and version is None and total == 0:
        return Version(0, etag, modified)
    if status == 416 and version is not None and total not in {None, version.total}:
        raise Changed("the file changed while it was read")
    if status != 206:
        raise refusal(response)
    if must_decode(response, ""):
        raise Failure("the server compresses what it sends")
    first = re.match(r"\s*bytes (\d+)-", headers.get("Content-Range", ""))
    if first is None or int(first[1]) != start:
        raise Failure("answers with another range than the one asked for", again=True)
    if total is None and version is None:
        raise Failure("does not say how large the file is")
    found = Version(version.total if total is None and version else total or 0, etag, modified)
    if version is not None and not version.same(found):
        raise Changed("the file changed while it was read")
    return found
