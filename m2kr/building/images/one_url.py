"""One attempt at one image by its address, and what came of it."""

import logging
import threading
import time
from dataclasses import dataclass

import requests

from m2kr.building.fetch.http import blocks, must_decode, open_url, refusal, total_of
from m2kr.building.fetch.retry import Failure
from m2kr.building.images.check import TOO_MANY_BYTES
from m2kr.building.images.hosts import Rules
from m2kr.building.images.web_guard import PrivateAddress, Redirected
from m2kr.data.images.decode import EMPTY, ENOUGH, NO_IMAGE, looks_like, may_be_image

log = logging.getLogger("m2kr.building.images")

GONE = "not there any more"
REFUSED = "refused by the server"
BUSY = "the server is too busy"
UNREACHED = "the server can't be reached"
PRIVATE = "a private address"
NO_ADDRESS = "no address that can be asked"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt: an image, another address, or a reason.

    Attributes:
        data: The image file.
        moved: The address that the server redirects to.
        rule: Why there is no image, one of a few texts for ledgers.
        detail: More about it.
        again: It may be had later.
        busy: The whole host wants to be left alone for a while.
        wait: For how many seconds, if it says so.
        status: Of HTTP; 0 if there was no answer. 200 if it did not come whole.
        received: Bytes of the body.
    """

    data: bytes = b""
    moved: str = ""
    rule: str = ""
    detail: str = ""
    again: bool = False
    busy: bool = False
    wait: float | None = None
    status: int = 0
    received: int = 0


def ask(session: requests.Session, url: str, rules: Rules, stop: threading.Event) -> Answer:
    """Asks once for an image. Whatever goes wrong is an answer.

    Args:
        session: Of `m2kr.building.images.web_guard.open_session`.
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
            fault = _body(response, data, rules, stop)
    except Redirected as redirected:
        return Answer(moved=redirected.target)
    except PrivateAddress as failure:
        return Answer(rule=PRIVATE, detail=failure.reason)
    except Failure as failure:
        return Answer(
            rule=UNREACHED,
            detail=failure.reason,
            again=failure.again,
            status=status,
            received=len(data),
        )
    except Exception as error:  # names that no look-up takes, answers that are no HTTP
        log.debug("%s", url, exc_info=True)
        return Answer(rule=NO_ADDRESS, detail=f"{type(error).__name__}: {error}"[:200])
    if fault is not None:
        rule, detail = fault
        return Answer(rule=rule, detail=detail, status=200, received=len(data))
    return Answer(bytes(data), status=200, received=len(data))


def _no_file(response: requests.Response) -> Answer:
    status = response.status_code
    failure = refusal(response)
    detail = f"HTTP {status} {response.reason or ''}".strip()[:200]
    if status in {404, 410}:
        return Answer(rule=GONE, detail=detail, status=status)
    if status in {429, 503}:
        return Answer(
            rule=BUSY, detail=detail, again=True, busy=True, wait=failure.wait, status=status
        )
    # A success that is none (204, 206 …) is as odd as a fault of the server.
    again = failure.again or status < 300
    rule = UNREACHED if again else REFUSED
    return Answer(rule=rule, detail=detail, again=again, status=status)


def _body(
    response: requests.Response, data: bytearray, rules: Rules, stop: threading.Event
) -> tuple[str, str] | None:
    """Fills ``data``; returns the rule and detail of what speaks against it.

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
    for block in blocks(response, rules.policy, decode=encoded):
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
    return None if may_be_image(data) else _no_image(response, data)


def _no_image(response: requests.Response, data: bytearray) -> tuple[str, str]:
    media = response.headers.get("Content-Type", "no type")[:80]
    return NO_IMAGE, f"{looks_like(bytes(data[:64]))}, sent as {media}"
