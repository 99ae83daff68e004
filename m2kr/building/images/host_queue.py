"""Which address is asked next: images wait in their host's line, and hosts take turns.

What waits and what has failed for good lies in one temporary database. Nothing here knows of
connections or threads; one thread uses it, and says what the time is, in seconds of any clock.
"""

import heapq
import itertools
import math
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from m2kr.building.images.hosts import HostRule
from m2kr.building.images.one_url import FINAL
from m2kr.errors import plainly
from m2kr.hashes import name_digest

FAILED = "failed-urls.jsonl"
FIRST = -1.0  # in place of a time: before all others of the same host
_WINDOW = 10.0  # seconds over which a budget of bytes counts
# Hosts that are remembered before those are forgotten of which nothing needs to be known.
_SWEEP = 10_000
_LINE = 1 << 16


@dataclass(slots=True)
class WebImage:
    """An image to be fetched."""

    name: str  # in the store
    url: str  # as the data has it
    places: list[str]  # addresses to try, the next one first
    tries: int = 0  # failures at that one
    hops: int = 0  # redirects followed


@dataclass(slots=True)
class Host:
    """What shares a budget, and how it stands."""

    name: str
    rule: HostRule
    waiting: int = 0  # images in its line
    running: int = 0  # images that it is being asked for
    next_at: float = -math.inf  # when it may be asked again, by its number of requests
    paid_at: float = -math.inf  # the same by its bytes
    paused: float = -math.inf  # the same by its own wish
    turn: float = math.inf  # when it is looked at next
    failures: int = 0  # in a row
    closed: tuple[str, str] | None = None  # rule and detail of why it is not asked any more

    @property
    def ready_at(self) -> float:
        """When it may be asked."""
        return max(self.next_at, self.paid_at, self.paused)

    def forgettable(self, now: float) -> bool:
        """Whether nothing needs to be known of it any longer."""
        used = self.waiting or self.running or self.failures or self.closed
        return not used and self.ready_at <= now


class HostQueue:
    """Images by host, in turns, and the addresses that are known to have no image.

    The latter are kept in a file of JSON lines beside the shards of a store, only appended to; a line
    that a kill tore is cut off by the next run. The store's own lock guards it.

    Args:
        folder: The store's.
        forget: Addresses known to have no image are asked again (and stay in the file).

    Raises:
        M2KRError: the file can't be read or written.
    """

    def __init__(self, folder: Path, *, forget: bool = False) -> None:
        self._hosts: dict[str, Host] = {}
        # (not before, number, host): of those of one host the one at its `turn` counts.
        self._turns: list[tuple[float, int, Host]] = []
        self._numbers = itertools.count()
        self._sweep_at = _SWEEP
        # No name: a file that the system removes, also after a kill.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE image (host TEXT, at REAL, n INTEGER, row BLOB, PRIMARY KEY (host, at, n))"
            " WITHOUT ROWID;"
            "CREATE TABLE failed (url BLOB, rule TEXT, PRIMARY KEY (url, rule)) WITHOUT ROWID;"
        )
        self._file, self._forget = folder / FAILED, forget
        with plainly(self._file):
            self._load()

    def host(self, name: str, rule: HostRule, now: float) -> Host:
        """How a host stands."""
        if len(self._hosts) >= self._sweep_at:
            self._hosts = {key: own for key, own in self._hosts.items() if not own.forgettable(now)}
            self._sweep_at = max(_SWEEP, 2 * len(self._hosts))
        return self._hosts.get(name) or self._hosts.setdefault(name, Host(name, rule))

    def put(self, host: Host, image: WebImage, at: float = 0.0) -> None:
        """One more in the line of a host that is not closed; not to be asked for before ``at``."""
        row = (host.name, at, next(self._numbers), orjson.dumps(image))
        self._db.execute("INSERT INTO image VALUES (?, ?, ?, ?)", row)
        host.waiting += 1
        self._line_up(host)

    def due(self, now: float) -> tuple[Host, WebImage] | None:
        """The next image to be asked for; its host counts as running until `ended`."""
        while (turn := self.wake()) is not None and turn <= now:
            host = heapq.heappop(self._turns)[2]
            host.turn = math.inf
            first = "SELECT at, n, row FROM image WHERE host = ? ORDER BY at, n LIMIT 1"
            at, number, row = self._db.execute(first, (host.name,)).fetchone()
            if max(at, host.ready_at) > now:
                self._line_up(host, at)
                continue
            key = (host.name, at, number)
            self._db.execute("DELETE FROM image WHERE host = ? AND at = ? AND n = ?", key)
            host.waiting -= 1
            host.running += 1
            host.next_at = now + 1 / host.rule.per_second
            self._line_up(host)
            return host, WebImage(**orjson.loads(row))
        return None

    def wake(self) -> float | None:
        """When something may be due, unless something ends before; None if nothing waits."""
        while self._turns and self._turns[0][0] != self._turns[0][2].turn:
            heapq.heappop(self._turns)
        return self._turns[0][0] if self._turns else None

    def ended(self, host: Host, received: int, now: float) -> None:
        """An image that was due is done, or will be put back; so many bytes came."""
        host.running -= 1
        # Up to a window's worth may come at once; beyond it the host is ahead of its budget.
        host.paid_at = max(host.paid_at, now - _WINDOW) + received / host.rule.bytes_per_second
        self._line_up(host)

    def close(self, host: Host, why: tuple[str, str]) -> Iterator[WebImage]:
        """Gives up a host, and gives out all that wait in its line."""
        host.closed, host.waiting, host.turn = why, 0, math.inf
        for (row,) in self._db.execute("SELECT row FROM image WHERE host = ?", (host.name,)):
            yield WebImage(**orjson.loads(row))
        self._db.execute("DELETE FROM image WHERE host = ?", (host.name,))

    def _line_up(self, host: Host, not_before: float = -math.inf) -> None:
        at = max(host.ready_at, not_before)
        if host.waiting and host.running < host.rule.connections and at < host.turn:
            host.turn = at
            heapq.heappush(self._turns, (at, next(self._numbers), host))

    def failure(self, url: str) -> str | None:
        """Why an address has no image, if an earlier run found that."""
        known = "SELECT rule FROM failed WHERE url = ?"
        row = None if self._forget else self._db.execute(known, (name_digest(url),)).fetchone()
        return row and str(row[0])

    def failed(self, url: str, rule: str, detail: str) -> None:
        """Remembers that an address has no image."""
        if self._is_new(url, rule):
            row = {"url": url, "rule": rule, "detail": detail}
            with plainly(self._file), self._file.open("ab") as file:
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def end(self) -> None:
        """Removes the database."""
        self._db.close()

    def _load(self) -> None:
        if not self._file.exists():
            return
        with self._file.open("r+b") as file:
            whole = 0
            while line := file.readline(_LINE):
                if line.endswith(b"\n"):
                    whole = file.tell()
                    with suppress(ValueError, KeyError, TypeError, AttributeError):
                        row = orjson.loads(line)
                        if row["rule"] in FINAL:
                            self._is_new(row["url"], row["rule"])
            file.truncate(whole)

    def _is_new(self, url: str, rule: str) -> bool:
        """Whether a failure is a new one."""
        new = self._db.execute(
            "INSERT OR IGNORE INTO failed VALUES (?, ?)", (name_digest(url), rule)
        )
        return new.rowcount == 1
