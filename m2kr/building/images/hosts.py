"""What fetching images one by one owes to the servers it asks, and what it takes from them."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import requests

from m2kr._version import __version__
from m2kr.building.fetch.retry import Policy
from m2kr.building.images import wikimedia
from m2kr.errors import UsageError


@dataclass(frozen=True, slots=True)
class Budget:
    """What one host is asked for at most.

    Attributes:
        connections: At a time.
        per_second: Requests; no bursts.
        bytes_per_second: Of bodies, over some seconds.

    Raises:
        UsageError: nothing could be asked for.
    """

    connections: int = 2
    per_second: float = 4.0
    bytes_per_second: float = math.inf

    def __post_init__(self) -> None:
        if self.connections < 1 or not self.per_second > 0 or not self.bytes_per_second > 0:
            raise UsageError("a budget of nothing", expected="numbers above 0")


def as_it_is(url: str, width: int | None) -> tuple[str, ...]:  # noqa: ARG001
    """An image is where the data says, in one size."""
    return (url,)


@dataclass(frozen=True, slots=True)
class HostRule:
    """Rules of one operator.

    Attributes:
        domain: Its domain; all hosts below share one budget. Empty: each host has its own.
        budget: See there.
        contact: A contact in the User-Agent is required.
        policy: Where the operator says so.
        addresses: The places to look for an image, in order, by its address and the wanted width.
    """

    domain: str = ""
    budget: Budget = field(default_factory=Budget)
    contact: bool = False
    policy: str = ""
    addresses: Callable[[str, int | None], tuple[str, ...]] = as_it_is

    def covers(self, host: str) -> bool:
        """Whether a host is the operator's."""
        return host == self.domain or host.endswith(f".{self.domain}")


# Their robot policy, as renewed in 2025: for media files at most 2 connections and 25 Mbit/s over 10
# seconds. It names no number of requests for these. 2 a second is ours: it is 7,200 an hour, and
# thumbnails of the standard widths come from a cache.
WIKIMEDIA = HostRule(
    wikimedia.DOMAIN,
    Budget(connections=2, per_second=2.0, bytes_per_second=25e6 / 8),
    contact=True,
    policy="https://foundation.wikimedia.org/wiki/Policy:Wikimedia_Foundation_User-Agent_Policy",
    addresses=wikimedia.addresses,
)
# Many hosts of old data sets are gone: less patient than with one large file.
PATIENCE = Policy(
    attempts=4, backoff=1.0, backoff_cap=60.0, connect_timeout=10, read_timeout=30, redirects=5
)


@dataclass(frozen=True, slots=True)
class Rules:
    """How images are fetched by their addresses.

    Attributes:
        contact: An e-mail address or a web page of yours, for the User-Agent.
        thumb_width: Pixels; where a host has thumbnails, one no less wide is preferred. None: the
            originals.
        retry_failed: Ask again for what was not to be had for good in an earlier run.
        private: Addresses that are not public (a loopback, a local network) are asked, too.
        max_bytes: Of one image.
        seconds: For one image, once it is asked for.
        longest_pause: Seconds that a host may ask us to wait; one that wants more is left for the
            next run.
        strikes: Failures in a row after which a host is left for the next run.
        policy: Timeouts, attempts and redirects. A Retry-After is never cut short, whatever it says.
        other: The rule of hosts that have no special one.
        special: The others.

    Raises:
        UsageError: the contact is none, or the width no thumbnail's.
    """

    contact: str | None = None
    thumb_width: int | None = None
    retry_failed: bool = False
    private: bool = False
    max_bytes: int = 64 << 20
    seconds: float = 300.0
    longest_pause: float = 900.0
    strikes: int = 8
    policy: Policy = PATIENCE
    other: HostRule = field(default_factory=HostRule)
    special: tuple[HostRule, ...] = (WIKIMEDIA,)

    def __post_init__(self) -> None:
        if self.thumb_width is not None:
            wikimedia.standard_width(self.thumb_width)
        if self.contact is not None and not re.fullmatch(
            r"[!-~]+@[!-~]+\.[!-~]+|https?://[!-~]+", self.contact
        ):
            raise UsageError(
                f"{self.contact[:100]!r} is no way to reach you",
                expected="an e-mail address, or the http(s) address of a page about you",
                fix="--contact you@example.org",
            )

    def of(self, url: str) -> tuple[str, HostRule]:
        """Who shares a budget with the host of a URL, and the rule."""
        host = (urlsplit(url).hostname or "").lower().rstrip(".")
        for rule in self.special:
            if rule.covers(host):
                return rule.domain, rule
        return host, self.other

    def lacks_contact(self, rule: HostRule) -> bool:
        """Whether a host may not be asked, for want of a contact."""
        return rule.contact and self.contact is None

    @property
    def user_agent(self) -> str:
        """Who we say we are."""
        contact = f" ({self.contact})" if self.contact else ""
        return f"m2kr/{__version__}{contact} requests/{requests.__version__}"


def contact_needed(rule: HostRule, url: str) -> UsageError:
    """The error for a host that may not be asked without a contact."""
    return UsageError(
        f"{rule.domain} requires a contact in the User-Agent of programs that fetch from it, and "
        "refuses others",
        where=url[:300],
        expected=f"an e-mail address or web page of yours ({rule.policy})",
        fix="--contact you@example.org",
    )
