"""A look at upstream: is every file there, as large as published, and are its first rows as parsed here?

One request a file, for its first MB; nothing is kept.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Literal

from m2kr.build.download import http
from m2kr.build.download.connection import is_http
from m2kr.build.download.job import Failure, Policy
from m2kr.build.download.transfer import is_local
from m2kr.build.probing.parse import rows_in
from m2kr.build.probing.unpack import Drift
from m2kr.build.spec import Asset

log = logging.getLogger("m2kr.build.probing.probe")

HEAD_BYTES = 1 << 20
PATIENCE = Policy(
    attempts=2, backoff=1.0, retry_after_cap=5.0, connect_timeout=10.0, read_timeout=20.0
)
# A slow server's first bytes are parsed as far as they came by then.
SECONDS = 40.0

Status = Literal["ok", "drift", "gated", "unreachable", "manual", "package"]
FINE = frozenset({"ok", "manual", "package"})
_GRAVE: tuple[Status, ...] = ("drift", "gated", "unreachable")
_PAGE = (b"<!doctype html", b"<html")


@dataclass(frozen=True, slots=True)
class Probed:
    """What one file is like upstream.

    Attributes:
        name: Of the asset.
        url: The address that was asked; None if there is none.
        status: ``ok``; ``drift`` (not what the builders expect); ``gated`` (a login or an accepted
            licence is needed); ``unreachable``; ``manual`` (no URL) and ``package`` (no network).
        size: Bytes of the whole file, if the server says so.
        etag: As the server says.
        last_modified: As the server says.
        rows: Parsed ones; None where nobody knows what they look like.
        problem: What is wrong, with what was expected; of an ``ok`` file a remark.
    """

    name: str
    url: str | None
    status: Status
    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    rows: int | None = None
    problem: str = ""

    @property
    def fine(self) -> bool:
        """Nothing is to be done about it."""
        return self.status in FINE


def probe(
    assets: Sequence[Asset],
    *,
    policy: Policy = PATIENCE,
    jobs: int = 4,
    done: Callable[[Probed], None] | None = None,
) -> list[Probed]:
    """Looks at the first MB of every asset. What is wrong is told, never raised.

    Args:
        assets: The files.
        policy: Timeouts and attempts.
        jobs: Files asked for at once.
        done: Told of each as it comes, by several threads.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(max(1, min(jobs, len(assets)))) as pool:
        try:
            return list(pool.map(partial(_one, policy, stop, done), assets))
        except BaseException:
            stop.set()
            raise


def _one(
    policy: Policy, stop: threading.Event, done: Callable[[Probed], None] | None, asset: Asset
) -> Probed:
    found = _from_mirrors(asset, policy, stop)
    if done is not None:
        done(found)
    return found


def _from_mirrors(asset: Asset, policy: Policy, stop: threading.Event) -> Probed:
    """The first address that is as it should be; else the worst of what was seen."""
    if not asset.urls:
        return Probed(asset.name, None, "manual", asset.size, problem=asset.manual)
    urls = [url for url in asset.urls if not is_local(url)]
    if not urls:
        return Probed(asset.name, asset.urls[0], "package", asset.size)
    failed: list[Probed] = []
    for url in urls:
        found = _from_one(asset, url, policy, stop)
        if found.status == "ok":
            remarks = [*(f"not from {f.url}: {f.problem}" for f in failed), found.problem]
            return replace(found, problem="; ".join(filter(None, remarks)))
        log.info("%s: %s: %s", asset.name, url, found.problem)
        failed.append(found)
    worst = min(failed, key=lambda each: _GRAVE.index(each.status))
    others = [f"{f.url}: {f.problem}" for f in failed if f is not worst]
    return replace(worst, problem="; ".join([worst.problem, *others]))


def _from_one(asset: Asset, url: str, policy: Policy, stop: threading.Event) -> Probed:
    if not is_http(url):
        return Probed(asset.name, url, "unreachable", problem="no address that is opened here")
    attempt = 1
    while True:
        try:
            start = http.start_of(url, asset.name, HEAD_BYTES, policy, seconds=SECONDS)
            return _judged(asset, url, start)
        except Failure as failure:
            if not failure.again or attempt >= policy.attempts or stop.is_set():
                tried = f" ({attempt} attempts)" if attempt > 1 else ""
                return Probed(asset.name, url, "unreachable", problem=failure.reason + tried)
            wait = min(policy.backoff * 2 ** (attempt - 1), policy.backoff_cap)
            stop.wait(max(wait, min(failure.wait or 0.0, policy.retry_after_cap)))
            attempt += 1


def _judged(asset: Asset, url: str, start: http.Start) -> Probed:
    """What the server's answer says of a file."""
    if start.status in {401, 403}:
        gate = asset.gate or "needs a login or an accepted licence (HF_TOKEN, for the hub)"
        return Probed(asset.name, url, "gated", problem=f"HTTP {start.status}: {gate}")
    if start.status in {404, 410}:
        return Probed(asset.name, url, "drift", problem=f"gone (HTTP {start.status})")
    size = len(start.data) if start.whole and start.total is None else start.total
    rows, remark = None, ""
    problems = [_size_problem(asset, start, size)]
    if not start.data:
        problems.append("an empty file")
    elif _is_page(asset.name, start):
        problems.append(f"a web page instead of the file: {_title(start.data)}")
    else:
        try:
            seen = rows_in(start.data, asset.name, asset.shape, whole=start.whole)
            if seen is not None:
                rows, remark = seen.rows, seen.note
        except Drift as drift:
            problems.append(str(drift))
        if start.whole and not any(problems):
            problems.append(_hash_problem(asset, start.data))
    problem = "; ".join(filter(None, problems))
    status: Status = "drift" if problem else "ok"
    facts = (size, start.etag, start.last_modified, rows, problem or remark)
    return Probed(asset.name, url, status, *facts)


def _size_problem(asset: Asset, start: http.Start, size: int | None) -> str:
    if asset.size is None or asset.size == size:
        return ""
    if size is not None:
        return f"{size:,} bytes instead of {asset.size:,}"
    over = len(start.data) > asset.size
    return f"more than the expected {asset.size:,} bytes" if over else ""


def _hash_problem(asset: Asset, data: bytes) -> str:
    """Of a file that is small enough to be here as a whole."""
    if asset.sha256 and hashlib.sha256(data).hexdigest() != asset.sha256.lower():
        return f"another content than that of the published sha256 {asset.sha256}"
    if asset.md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != asset.md5.lower():
        return f"another content than that of the published md5 {asset.md5}"
    return ""


def _is_page(name: str, start: http.Start) -> bool:
    if PurePosixPath(name).suffix.lower() in {".html", ".htm", ".xhtml"}:
        return False
    text = start.data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    said = start.media.lower().startswith("text/html") and text.startswith(b"<")
    return text.startswith(_PAGE) or said


def _title(page: bytes) -> str:
    """A few words of a web page, for people."""
    text = page[:4096].decode("utf-8", "replace")
    _, _, after = text.partition("<title>")
    words = " ".join((after.partition("</title>")[0] or text).split())[:80]
    return repr(words)
