"""Which address is asked next: hosts take turns, each within its budget.

Nothing here knows of connections or threads; one thread uses it, and says what the time is.
"""

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from m2kr.building.images.hosts import HostRule
from m2kr.building.images.web_backlog import Backlog, Item

# Seconds over which a budget of bytes counts.
_WINDOW = 10.0
# Hosts that are remembered before those are forgotten of which nothing needs to be known.
_SWEEP = 10_000


@dataclass(slots=True)
class _Host:
    rule: HostRule
    running: int = 0
    next_at: float = -math.inf  # by its number of requests
    paid_at: float = -math.inf  # by its bytes
    paused: float = -math.inf
    queued: bool = False
    delayed: int = 0
    strikes: int = 0
    refusals: int = 0
    closed: tuple[str, str] | None = None

    def ready_at(self) -> float:
        return max(self.next_at, self.paid_at, self.paused)

    def idle(self, now: float) -> bool:
        """Whether nothing needs to be known of it any longer."""
        busy = self.running or self.queued or self.delayed
        marked = self.strikes or self.refusals or self.closed
        return not busy and not marked and self.ready_at() <= now


@dataclass(slots=True)
class Schedule:
    """Items by host, in turns. ``host`` is what shares a budget; times are seconds of any clock."""

    _backlog: Backlog = field(default_factory=Backlog)
    _hosts: dict[str, _Host] = field(default_factory=dict)
    # (not before, number, host), at most one of each host
    _ready: list[tuple[float, int, str]] = field(default_factory=list)
    # (not before, number, host, item)
    _later: list[tuple[float, int, str, Item]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=itertools.count)
    _sweep_at: int = _SWEEP

    def add(
        self, host: str, rule: HostRule, item: Item, now: float, *, first: bool = False
    ) -> None:
        """One more item of a host that is not closed, at the end of its line or at the head."""
        if len(self._hosts) >= self._sweep_at:
            self._hosts = {key: own for key, own in self._hosts.items() if not own.idle(now)}
            self._sweep_at = max(_SWEEP, 2 * len(self._hosts))
        state = self._hosts.get(host) or self._hosts.setdefault(host, _Host(rule))
        if first:
            self._backlog.put_first(host, item)
        else:
            self._backlog.put(host, item)
        self._queue(host, state)

    def closed(self, host: str) -> tuple[str, str] | None:
        """Rule and detail of why a host is not asked any more; None if it is."""
        state = self._hosts.get(host)
        return state.closed if state else None

    def due(self, now: float) -> tuple[str, Item] | None:
        """The next item to be asked for; its host counts as running until `ended`."""
        while self._later and self._later[0][0] <= now:
            _, _, host, item = heapq.heappop(self._later)
            self._hosts[host].delayed -= 1
            self.first(host, item)
        while self._ready and self._ready[0][0] <= now:
            _, _, host = heapq.heappop(self._ready)
            state = self._hosts[host]
            state.queued = False
            if state.ready_at() > now:
                self._queue(host, state)
                continue
            taken = self._backlog.take(host)
            if taken is None:
                continue  # it was closed
            state.running += 1
            state.next_at = now + 1 / state.rule.budget.per_second
            self._queue(host, state)
            return host, taken
        return None

    def wake(self) -> float | None:
        """When something may be due, unless something ends before; None if nothing waits."""
        first = [heap[0][0] for heap in (self._ready, self._later) if heap]
        return min(first) if first else None

    def ended(self, host: str, received: int, now: float) -> None:
        """An item that was due is done, or will be given back; so many bytes came."""
        state = self._hosts[host]
        state.running -= 1
        cost = received / state.rule.budget.bytes_per_second
        # Up to a window's worth may come at once; beyond it the host is ahead of its budget.
        state.paid_at = max(state.paid_at, now - _WINDOW) + cost
        self._queue(host, state)

    def good(self, host: str) -> None:
        """It gave an answer as it should."""
        state = self._hosts[host]
        state.strikes = state.refusals = 0

    def strike(self, host: str) -> int:
        """It failed; returns how often in a row."""
        self._hosts[host].strikes += 1
        return self._hosts[host].strikes

    def strikes(self, host: str) -> int:
        """How often in a row it failed."""
        return self._hosts[host].strikes

    def refuse(self, host: str, now: float) -> int:
        """It wants to be left alone; returns how often in a row. During a pause nothing is counted."""
        state = self._hosts[host]
        state.refusals += now >= state.paused
        return state.refusals

    def pause(self, host: str, until: float) -> None:
        """Nothing is asked of it before."""
        state = self._hosts[host]
        state.paused = max(state.paused, until)

    def first(self, host: str, item: Item) -> None:
        """Puts an item that was due back, at the head of its host's line."""
        self._backlog.put_first(host, item)
        self._queue(host, self._hosts[host])

    def later(self, host: str, item: Item, at: float) -> None:
        """Puts an item that was due back, for later; others of its host go on."""
        self._hosts[host].delayed += 1
        heapq.heappush(self._later, (at, next(self._number), host, item))

    def close(self, host: str, why: tuple[str, str]) -> Iterator[Item]:
        """Gives up a host, and gives out all items of it."""
        self._hosts[host].closed = why
        self._hosts[host].delayed = 0
        mine = [entry for entry in self._later if entry[2] == host]
        if mine:
            self._later = [entry for entry in self._later if entry[2] != host]
            heapq.heapify(self._later)
        yield from (entry[3] for entry in mine)
        while (item := self._backlog.take(host)) is not None:
            yield item

    def end(self) -> None:
        """Removes what is on disk."""
        self._backlog.close()

    def _queue(self, host: str, state: _Host) -> None:
        room = state.running < state.rule.budget.connections
        if room and not state.queued and self._backlog.has(host):
            state.queued = True
            heapq.heappush(self._ready, (state.ready_at(), next(self._number), host))
