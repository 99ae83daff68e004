"""What fetching images one by one owes to the servers it asks, and what it takes from them.

Sources for Wikimedia: mediawiki.org, "Common thumbnail sizes" (since 2025 their servers refuse other
widths, now with HTTP 400); MediaWiki's rules for the names of thumbnails, which for file names of more
than 160 bytes leave the name out. Thumbnails may also come from ``thumb.wikimedia.org``, by a redirect.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit

import requests

from m2kr._version import __version__
from m2kr.building.fetch.retry import Policy
from m2kr.errors import UsageError

_WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)
_LONG_NAME = 160  # bytes
_FILE = re.compile(
    r"(?P<site>/[a-z]+/[a-z-]+)(?P<thumb>/thumb)?"
    r"(?P<place>/[0-9a-f]/[0-9a-f]{2}/)(?P<name>[^/]+)(?(thumb)/(?P<form>[^/]+))"
)
# Ending of a file -> what its thumbnails' names have before the width, and at the end.
_FORMS = (
    dict.fromkeys(("jpg", "jpeg", "png", "gif"), ("", ""))
    | dict.fromkeys(("webp", "bmp", "svg", "xcf"), ("", ".png"))
    | dict.fromkeys(("tif", "tiff"), ("lossy-page1-", ".jpg"))
    | dict.fromkeys(("pdf", "djvu"), ("page1-", ".jpg"))
)
# No reader of images opens these themselves.
_DRAWINGS = {"svg", "xcf", "pdf", "djvu"}


@dataclass(frozen=True, slots=True)
class HostRule:
    """Rules of one operator, and what its hosts are asked for at most.

    Attributes:
        domain: Its domain; all hosts below share one budget. Empty: each host has its own.
        connections: At a time.
        per_second: Requests; no bursts.
        bytes_per_second: Of bodies, over some seconds.
        contact: A contact in the User-Agent is required.
        policy: Where the operator says so.
        addresses: The places to look for an image, in order, by its address and the wanted width;
            None where it has one size alone.

    Raises:
        UsageError: nothing could be asked for.
    """

    domain: str = ""
    connections: int = 2
    per_second: float = 4.0
    bytes_per_second: float = math.inf
    contact: bool = False
    policy: str = ""
    addresses: Callable[[str, int | None], tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        if self.connections < 1 or not self.per_second > 0 or not self.bytes_per_second > 0:
            raise UsageError("a budget of nothing", expected="numbers above 0")


def thumbnail_width(width: int) -> int:
    """The smallest width that Wikimedia's thumbnails have and that is no less than asked for.

    Raises:
        UsageError: there is none.
    """
    for standard in _WIDTHS:
        if 0 < width <= standard:
            return standard
    raise UsageError(
        f"Wikimedia has no thumbnails {width} pixels wide",
        expected=f"1 to {_WIDTHS[-1]}; the next of {', '.join(map(str, _WIDTHS))} is taken",
    )


def wikimedia_addresses(url: str, width: int | None) -> tuple[str, ...]:
    """Where to look for an image of Wikimedia, in order.

    Args:
        url: Its address in the data, of a file or a thumbnail.
        width: Wanted, in pixels; None for what the data has. Drawings (SVG, PDF …) are taken as
            thumbnails in any case, of 500 pixels if nothing else is asked for.

    Returns:
        The thumbnail's, if one is to be had, and the file's, if readers of images open such files.
    """
    host = (urlsplit(url).hostname or "").lower()
    if url.startswith("http:") and f".{host}".endswith(".wikimedia.org"):
        url = f"https:{url.removeprefix('http:')}"  # to which they redirect every time
    parts = urlsplit(url)
    match = _FILE.fullmatch(parts.path)
    if match is None:
        return (url,)
    site, place, name = match["site"], match["place"], match["name"]
    file = f"{parts.scheme}://{parts.netloc}{site}{place}{name}"
    ending = name.rpartition(".")[2].lower()
    drawing = ending in _DRAWINGS
    if width is None and match["thumb"]:
        # Old data has thumbnails of widths that are no longer served.
        own = re.search(r"(?:^|-)(\d{1,4})px-", match["form"])
        width = int(own[1]) if own and 0 < int(own[1]) <= _WIDTHS[-1] else None
    if ending not in _FORMS or (width is None and not drawing):
        return (file,)
    before, after = _FORMS[ending]
    short = f"thumbnail.{ending}" if len(unquote_to_bytes(name)) > _LONG_NAME else name
    form = f"{before}{thumbnail_width(width or 500)}px-{short}{after}"
    thumbnail = f"{parts.scheme}://{parts.netloc}{site}/thumb{place}{name}/{form}"
    return (thumbnail,) if drawing else (thumbnail, file)


# Their robot policy, as renewed in 2025: for media files at most 2 connections and 25 Mbit/s over 10
# seconds. It names no number of requests for these. 2 a second is ours: it is 7,200 an hour, and
# thumbnails of the standard widths come from a cache.
WIKIMEDIA = HostRule(
    "wikimedia.org",
    connections=2,
    per_second=2.0,
    bytes_per_second=25e6 / 8,
    contact=True,
    policy="https://foundation.wikimedia.org/wiki/Policy:Wikimedia_Foundation_User-Agent_Policy",
    addresses=wikimedia_addresses,
)
# Many hosts of old data sets are gone: less patient than with one large file.
_PATIENCE = Policy(attempts=4, connect_timeout=10, read_timeout=30, redirects=5)


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
    policy: Policy = _PATIENCE
    other: HostRule = field(default_factory=HostRule)
    special: tuple[HostRule, ...] = (WIKIMEDIA,)

    def __post_init__(self) -> None:
        if self.thumb_width is not None:
            thumbnail_width(self.thumb_width)
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
            if f".{host}".endswith(f".{rule.domain}"):
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
