"""One attempt at one image by its address, and what came of it.

The addresses are those that strangers wrote: none leads into private networks, nothing is remembered
from one to the next, and redirects are the caller's to follow, under the rules of where they lead.
"""

import logging
import threading
import time
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin

import requests

from m2kr.building.fetch.addresses import PrivateAddress, mount
from m2kr.building.fetch.http import body_blocks, must_decode, open_url, refusal, total_of
from m2kr.building.fetch.retry import Failure
from m2kr.building.images.check import TOO_MANY_BYTES
from m2kr.building.images.hosts import Rules
from m2kr.data.images.decode import EMPTY, ENOUGH, NO_IMAGE, looks_like, may_be_image

log = logging.getLogger("m2kr.building.images")

GONE = "not there any more"
REFUSED = "refused by the server"
BUSY = "the server is too busy"
UNREACHED = "the server can't be reached"
PRIVATE = "a private address"
NO_ADDRESS = "no address that can be asked"
# Not to be had for good: remembered, and not asked for again.
FINAL = (GONE, REFUSED, EMPTY, NO_IMAGE, TOO_MANY_BYTES)


@dataclass(frozen=True, slots=True)
class UrlAnswer:
    """What came of an attempt: an image, another address, or a reason.

    Attributes:
        data: The image file.
        moved: The address that the server redirects to.
        rule: Why there is no image, one of a few texts for ledgers; `BUSY` is a wish of the whole host.
        detail: More about it.
        again: It may be had later.
        wait: For how many seconds a busy host wants to be left alone, if it says so.
        status: Of HTTP; 0 if there was no answer. 200 if it did not come whole.
        received: Bytes of the body.
    """

    data: bytes = b""
    moved: str = ""
    rule: str = ""
    detail: str = ""
    again: bool = False
    wait: float | None = None
    status: int = 0
    received: int = 0


class _Redirected(Exception):
    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


class ImageSession(requests.Session):
    """A session for one thread.

    Args:
        private: Addresses that are not public are asked, too.
    """

    def __init__(self, *, private: bool) -> None:
        super().__init__()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        mount(self, guarded=not private)

    def get_redirect_target(self, resp: Any) -> str | None:
        """Leaves redirects to the caller."""
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        resp.close()
        raise _Redirected(urljoin(resp.url, target))


def ask_for_image(
    session: ImageSession, url: str, rules: Rules, stop: threading.Event
) -> UrlAnswer:
    """Asks once for an image. Whatever goes wrong is an answer.

    Args:
        session: See there.
        url: An http(s) address.
        rules: Limits, and the User-Agent.
        stop: Set to end it.
    """
    data, status = bytearray(), 0
    try:
        with open_url(session, url, {"User-Agent": rules.user_agent}, rules.policy) as response:
            status = response.status_code
            if status != 200:
                return _no_file(response)
            rule, detail = _body(response, data, rules, stop)
    except _Redirected as redirected:
        return UrlAnswer(moved=redirected.target)
    except PrivateAddress as failure:
        return UrlAnswer(rule=PRIVATE, detail=failure.reason)
    except Failure as failure:
        rule, detail, again = UNREACHED, failure.reason, failure.again
        return UrlAnswer(b"", "", rule, detail, again, None, status, len(data))
    except Exception as error:  # names that no look-up takes, answers that are no HTTP
        log.debug("%s", url, exc_info=True)
        return UrlAnswer(rule=NO_ADDRESS, detail=f"{type(error).__name__}: {error}"[:200])
    image = b"" if rule else bytes(data)
    return UrlAnswer(image, rule=rule, detail=detail, status=200, received=len(data))


def _no_file(response: requests.Response) -> UrlAnswer:
    status = response.status_code
    failure = refusal(response)
    # A success that is none (204, 206 …) is as odd as a fault of the server.
    again = failure.again or status < 300
    rule = UNREACHED if again else REFUSED
    if status in {404, 410}:
        rule = GONE
    elif status in {429, 503}:
        rule = BUSY
    detail = f"HTTP {status} {response.reason or ''}".strip()[:200]
    return UrlAnswer(rule=rule, detail=detail, again=again, wait=failure.wait, status=status)


def _body(
    response: requests.Response, data: bytearray, rules: Rules, stop: threading.Event
) -> tuple[str, str]:
    """Fills ``data``; returns the rule and detail of what speaks against it, if anything does.

    Raises:
        Failure: it did not come whole.
    """
    encoded = must_decode(response, "")
    total = None if encoded else total_of(response)
    too_many = (TOO_MANY_BYTES, f"more than {rules.max_bytes:,} bytes")
    if total is not None and total > rules.max_bytes:
        return too_many
    deadline = time.monotonic() + rules.seconds
    judged = False
    for block in body_blocks(response, rules.policy, decode=encoded):
        if stop.is_set():
            raise Failure("stopped", again=True)
        data += block
        if not judged and len(data) >= ENOUGH:
            judged = True
            if not may_be_image(data):
                return _no_image(response, data)
        if len(data) > rules.max_bytes:
            return too_many
        if time.monotonic() > deadline:
            raise Failure(f"not whole after {rules.seconds:g} s", again=True)
    if total is not None and len(data) != total:
        raise Failure(f"the connection ended after {len(data):,} of {total:,} bytes", again=True)
    if not data:
        return EMPTY, "HTTP 200 and no byte"
    return ("", "") if may_be_image(data) else _no_image(response, data)


def _no_image(response: requests.Response, data: bytearray) -> tuple[str, str]:
    media = response.headers.get("Content-Type", "no type")[:80]
    return NO_IMAGE, f"{looks_like(bytes(data[:64]))}, sent as {media}"
