"""One request: who we say we are, redirects, the body in blocks, and why a server refuses."""

import email.utils
import functools
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from m2kr._version import __version__
from m2kr.building.fetch.addresses import may_be_private, mount
from m2kr.building.fetch.retry import Failure, Policy

_HUB = "https://huggingface.co"
_AGAIN = {408, 425, 429}
_FATAL = (
    requests.exceptions.SSLError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
)


def is_http(url: str) -> bool:
    """Whether a URL is one we open: no password inside, since messages show URLs."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        return usable and "@" not in parts.netloc and (parts.port or 1) > 0
    except ValueError:
        return False


def headers_for(url: str) -> dict[str, str]:
    """The request headers for a URL: our name, and ``HF_TOKEN`` for the hub (or ``HF_ENDPOINT``) alone."""
    headers = {"User-Agent": f"m2kr/{__version__}", "Accept-Encoding": "identity"}
    token = os.environ.get("HF_TOKEN", "").strip()
    hubs = {_origin_of(_HUB), _origin_of(os.environ.get("HF_ENDPOINT") or _HUB)}
    if token and is_http(url) and _origin_of(url) in hubs:
        headers["Authorization"] = f"Bearer {token}"
    return headers


class _Session(requests.Session):
    """Looks at no redirect: requests would read its body first, however long, also if it doesn't follow."""

    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[Any]:
        """None."""
        return iter(())


def open_session() -> requests.Session:
    """A session whose connections end in time, and which leaves redirects alone."""
    session = _Session()
    mount(session)
    return session


def open_url(
    session: requests.Session, url: str, extra: dict[str, str], policy: Policy
) -> requests.Response:
    """The answer after redirects. We follow them ourselves, so that every host gets its own headers.

    A redirect into a private network is not followed, unless the address is itself in one; see
    `may_be_private`.

    Args:
        session: Keeps connections.
        url: The address.
        extra: Headers besides our own, for every host.
        policy: Timeouts, and how many redirects.

    Raises:
        Failure: There is none.
    """
    timeout = (policy.connect_timeout, policy.read_timeout)
    declared = url
    for _ in range(policy.redirects + 1):
        try:
            response = session.get(
                url,
                headers=headers_for(url) | extra,
                stream=True,
                allow_redirects=False,
                timeout=timeout,
                auth=_no_netrc,
            )
        except requests.ConnectTimeout as error:
            reason = f"no connection within {policy.connect_timeout:g} s"
            raise Failure(reason, again=True, unreachable=True) from error
        except requests.ReadTimeout as error:
            raise Failure(f"no answer for {policy.read_timeout:g} s", again=True) from error
        except _FATAL as error:
            raise Failure(cause(error)) from error
        except requests.RequestException as error:
            gone = _never_connected(error)
            raise Failure(cause(error), again=True, unreachable=gone) from error
        target = session.get_redirect_target(response)
        if target is None:
            return response
        response.close()
        before, url = url, urljoin(url, target)
        secure = urlsplit(before).scheme == "https"
        if not is_http(url) or (secure and urlsplit(url).scheme != "https"):
            raise Failure("redirects to an address that is not safe to follow")
        if urlsplit(url).netloc != urlsplit(before).netloc and not may_be_private(declared, url):
            mount(session, f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/", guarded=True)
    raise Failure(f"redirects more than {policy.redirects} times")


def _never_connected(error: requests.RequestException) -> bool:
    """Whether there was no connection at all: a name that nobody knows, a port that nobody listens on."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ProxyError)


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # With any other value requests adds what ~/.netrc says, in place of our header.
    return request


def body_blocks(response: requests.Response, policy: Policy, *, decode: bool) -> Iterator[bytes]:
    """The body as it comes.

    Raises:
        Failure: The connection broke, stalled, or brings almost nothing; worth another attempt.
    """
    # The caller counts for itself, and says how many bytes are missing.
    response.raw.enforce_content_length = False
    since, received = time.monotonic(), 0
    try:
        # Not more than has come: a server that drips would else fill one block for a day.
        while block := response.raw.read1(policy.chunk, decode_content=decode):
            received += len(block)
            seconds = time.monotonic() - since
            if seconds >= policy.slow_seconds:
                if received < policy.slow_rate * seconds:
                    slow = f"fewer than {policy.slow_rate:,} bytes a second for {seconds:.0f} s"
                    raise Failure(slow, again=True)
                since, received = time.monotonic(), 0
            yield block
    except urllib3.exceptions.ReadTimeoutError as error:
        raise Failure(f"no data for {policy.read_timeout:g} s", again=True) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Failure(f"the connection broke: {cause(error)}", again=True) from error


def must_decode(response: requests.Response, name: str) -> bool:
    """Whether the server compressed the file for the way, although we asked it not to.

    Some label a file that is itself a .gz as encoded; its bytes are then the ones sent.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    return encoding not in {"", "identity"} and not name.lower().endswith((".gz", ".tgz"))


def total_of(response: requests.Response) -> int | None:
    """Bytes of the whole file by Content-Range or Content-Length."""
    if response.status_code in {206, 416}:
        match = re.search(r"/(\d+)\s*$", response.headers.get("Content-Range", ""))
    else:
        match = re.fullmatch(r"\s*(\d+)\s*", response.headers.get("Content-Length", ""))
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Origin:
    """What a server said about a file when it began to send bytes of it.

    Attributes:
        url: The address, before redirects.
        etag: The header as received, if any.
        last_modified: The header as received, if any.
        total: Bytes of the whole file, if said.
    """

    url: str
    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None

    @classmethod
    def of(cls, response: requests.Response, url: str) -> Self:
        """What an answer says."""
        etag, modified = (response.headers.get(name) for name in ("ETag", "Last-Modified"))
        return cls(url, etag or None, modified or None, total_of(response))

    @property
    def validator(self) -> str | None:
        """What may stand in If-Range: a strong ETag, else the date."""
        strong = self.etag is not None and self.etag.startswith('"')
        return self.etag if strong else self.last_modified

    def same(self, other: "Origin") -> bool:
        """Whether nothing said of the two tells their files apart; of different servers the size counts."""
        if None not in (self.total, other.total) and self.total != other.total:
            return False
        if self.url != other.url:
            return True
        if self.etag and other.etag:
            return self.etag == other.etag
        dates = {self.last_modified, other.last_modified} - {None}
        return len(dates) < 2


def refusal(response: requests.Response) -> Failure:
    """Why a server gives no file, by its status."""
    status = response.status_code
    if status in {401, 403}:
        hub = _origin_of(response.url) == _origin_of(_HUB)
        how = "accept the terms on its page and set HF_TOKEN" if hub else "fetch it by hand"
        reason = f"HTTP {status}: needs a login or an accepted licence; {how}"
        return Failure(reason, status=status)
    if status in {404, 410}:
        return Failure(f"HTTP {status}: not there (any more)", status=status)
    again = status in _AGAIN or status >= 500
    wait = retry_after(response.headers.get("Retry-After")) if again else None
    return Failure(f"HTTP {status} {response.reason or ''}".strip(), again=again, wait=wait)


def retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which is a number of them or a date."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def cause(error: BaseException) -> str:
    """The root of a network error in a few words: its text may hold signed addresses."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    return words.removesuffix(" error") or "connection error"


@functools.lru_cache(maxsize=64)
def _origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a token is bound to."""
    try:
        parts = urlsplit(url)
        default = {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or default
    except ValueError:
        return "", "", None


@dataclass(frozen=True, slots=True)
class FileStart:
    """The first bytes of a file.

    Attributes:
        data: They.
        whole: There are no more.
        total: Bytes of the whole file, if the server says so.
    """

    data: bytes
    whole: bool
    total: int | None


def read_start(url: str, name: str, count: int, policy: Policy, *, seconds: float) -> FileStart:
    """The first ``count`` bytes of a file, or those that came within so many seconds.

    Args:
        url: Its address.
        name: Of the file.
        count: Bytes required. A server that sends more is not listened to any longer.
        policy: Patience of the one attempt.
        seconds: Enough of waiting for more, if there are some.

    Raises:
        Failure: They didn't come.
    """
    deadline = time.monotonic() + seconds
    ranged = {"Range": f"bytes=0-{count - 1}"}
    with open_session() as session, open_url(session, url, ranged, policy) as response:
        status, headers = response.status_code, response.headers
        if status == 416 and total_of(response) == 0:
            return FileStart(b"", whole=True, total=0)
        if status not in {200, 206}:
            raise refusal(response)
        if status == 206 and not headers.get("Content-Range", "").startswith("bytes 0-"):
            raise Failure("answers with another range than the one asked for", again=True)
        encoded = must_decode(response, name)
        total = None if encoded else total_of(response)
        data, ended = bytearray(), True
        for block in body_blocks(response, policy, decode=encoded):
            data += block
            if len(data) > count or time.monotonic() > deadline:
                ended = False
                break
    if ended and total is not None and len(data) < min(total, count):
        reason = f"the connection ended after {len(data):,} of {min(total, count):,} bytes"
        raise Failure(reason, again=True)
    last = ended and (status == 200 or (len(data) < count and not encoded))
    whole = last if total is None else len(data) >= total
    return FileStart(bytes(data[:count]), whole and len(data) <= count, total)
