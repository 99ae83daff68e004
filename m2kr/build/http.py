"""GET with resume: the missing bytes of a file, all of them, or one reason why not; or its first ones."""

import email.utils
import functools
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from m2kr import __version__
from m2kr.build.job import Failure, Job, Policy
from m2kr.build.part import Origin

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


def get(job: Job, url: str) -> None:
    """Appends the bytes that the part lacks.

    Raises:
        Failure: Not all of them came; the part holds those that did, if they are of use.
        Stopped: ``job.stop`` was set.
        M2KRError: The disk or the lock failed.
    """
    part, policy = job.part, job.policy
    ranged = _range_headers(job, url)
    with requests.Session() as session, _open(session, url, ranged, policy) as response:
        status = response.status_code
        encoded = _must_decode(response, job.asset.name)
        if status == 416 and ranged and _total(response) == part.size:
            return
        if status in {412, 416} and ranged:
            part.restart(None)
            raise Failure(f"the server refuses to go on (HTTP {status})", again=True)
        total = None if encoded else _total(response)
        if status in {200, 206} and None not in (total, job.want.size) and total != job.want.size:
            raise Failure(f"serves {total:,} bytes instead of {job.want.size:,}", wrong=True)
        if status == 206:
            _check_range(response, job, url, encoded=encoded)
        elif status == 200:
            part.restart(_origin(response, url, encoded=encoded))
        else:
            raise _refusal(response)
        total = part.origin.total if part.origin is not None else None
        job.meter.at(part.size, job.total)
        for block in _blocks(response, policy, decode=encoded):
            job.take(block)
        if total is not None and part.size != total:
            what = f"the connection ended after {part.size:,} of {total:,} bytes"
            raise Failure(what, again=True)


@dataclass(frozen=True, slots=True)
class Start:
    """The first bytes of a file, and what the server says of it.

    Attributes:
        status: 200 if they are here; 401, 403, 404 or 410 if the server refuses them.
        data: They.
        whole: There are no more.
        total: Bytes of the whole file, if the server says so.
        etag: Its ETag.
        last_modified: Its Last-Modified.
        media: Its Content-Type.
    """

    status: int
    data: bytes = b""
    whole: bool = False
    total: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    media: str = ""


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
    with requests.Session() as session, _open(session, url, ranged, policy) as response:
        status, headers = response.status_code, response.headers
        if status in {401, 403, 404, 410}:
            return Start(status)
        if status == 416 and _total(response) == 0:
            return Start(200, whole=True, total=0)
        if status not in {200, 206}:
            raise _refusal(response)
        if status == 206 and not headers.get("Content-Range", "").startswith("bytes 0-"):
            raise Failure("answers with another range than the one asked for", again=True)
        encoded = _must_decode(response, name)
        total = None if encoded else _total(response)
        data, ended = bytearray(), True
        for block in _blocks(response, policy, decode=encoded):
            data += block
            if len(data) > count or time.monotonic() > deadline:
                ended = False
                break
    if ended and total is not None and len(data) < min(total, count):
        what = f"the connection ended after {len(data):,} of {min(total, count):,} bytes"
        raise Failure(what, again=True)
    last = ended and (status == 200 or (len(data) < count and not encoded))
    whole = last if total is None else len(data) >= total
    etag, modified = headers.get("ETag") or None, headers.get("Last-Modified")
    media = headers.get("Content-Type", "")
    start = bytes(data[:count])
    return Start(200, start, whole and len(data) <= count, total, etag, modified, media)


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


def _open(
    session: requests.Session, url: str, extra: dict[str, str], policy: Policy
) -> requests.Response:
    """The answer after redirects. We follow them ourselves, so that every host gets its own headers."""
    timeout = (policy.connect_timeout, policy.read_timeout)
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
            what = f"no connection within {policy.connect_timeout:g} s"
            raise Failure(what, again=True) from error
        except requests.ReadTimeout as error:
            raise Failure(f"no answer for {policy.read_timeout:g} s", again=True) from error
        except _FATAL as error:
            raise Failure(_cause(error)) from error
        except requests.RequestException as error:
            raise Failure(_cause(error), again=True) from error
        target = session.get_redirect_target(response)
        if target is None:
            return response
        response.close()
        before, url = url, urljoin(url, target)
        secure = urlsplit(before).scheme == "https"
        if not is_http(url) or (secure and urlsplit(url).scheme != "https"):
            raise Failure("redirects to an address that is not safe to follow")
    raise Failure(f"redirects more than {policy.redirects} times")


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # With any other value requests adds what ~/.netrc says, in place of our header.
    return request


def _blocks(response: requests.Response, policy: Policy, *, decode: bool) -> Iterator[bytes]:
    # The caller counts for itself, and says how many bytes are missing.
    response.raw.enforce_content_length = False
    try:
        yield from response.raw.stream(policy.chunk, decode_content=decode)
    except urllib3.exceptions.ReadTimeoutError as error:
        raise Failure(f"no data for {policy.read_timeout:g} s", again=True) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Failure(f"the connection broke: {_cause(error)}", again=True) from error


def _must_decode(response: requests.Response, name: str) -> bool:
    """Whether the server compressed the file for the way, although we asked it not to.

    Some label a file that is itself a .gz as encoded; its bytes are then the ones sent.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    return encoding not in {"", "identity"} and not name.lower().endswith((".gz", ".tgz"))


def _origin(response: requests.Response, url: str, *, encoded: bool) -> Origin:
    if encoded:
        return Origin(url)
    etag = response.headers.get("ETag", "")
    return Origin(
        url,
        etag=etag if etag.startswith('"') else None,
        last_modified=response.headers.get("Last-Modified"),
        total=_total(response),
    )


def _total(response: requests.Response) -> int | None:
    """Bytes of the whole file by Content-Range or Content-Length."""
    if response.status_code in {206, 416}:
        found = re.search(r"/(\d+)\s*$", response.headers.get("Content-Range", ""))
    else:
        found = re.fullmatch(r"\s*(\d+)\s*", response.headers.get("Content-Length", ""))
    return int(found[1]) if found else None


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


def _refusal(response: requests.Response) -> Failure:
    status = response.status_code
    if status in {401, 403}:
        hub = _origin_of(response.url) == _origin_of(_HUB)
        how = "accept the terms on its page and set HF_TOKEN" if hub else "fetch it by hand"
        return Failure(f"HTTP {status}: needs a login or an accepted licence; {how}")
    if status in {404, 410}:
        return Failure(f"HTTP {status}: not there (any more)")
    again = status in _AGAIN or status >= 500
    wait = _retry_after(response.headers.get("Retry-After")) if again else None
    return Failure(f"HTTP {status} {response.reason or ''}".strip(), again=again, wait=wait)


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which is a number of them or a date."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}\s*", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _cause(error: BaseException) -> str:
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
