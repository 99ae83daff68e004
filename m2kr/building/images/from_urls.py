"""Images from where the web has them, one address at a time, into a store."""

import hashlib
import logging
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sized

from m2kr.building.fetch.http import is_http
from m2kr.building.formats.limits import is_safe
from m2kr.building.images.check import TOO_MANY_BYTES
from m2kr.building.images.hosts import Rules, contact_needed
from m2kr.building.images.members import Fault, Fetched, OnFault
from m2kr.building.images.one_url import (
    BUSY,
    GONE,
    NO_ADDRESS,
    PRIVATE,
    REFUSED,
    UNREACHED,
    Answer,
    ask,
)
from m2kr.building.images.shard_writer import Store
from m2kr.building.images.web_backlog import Item
from m2kr.building.images.web_failures import Failures
from m2kr.building.images.web_guard import may_follow, open_session
from m2kr.building.images.web_schedule import Schedule
from m2kr.data.images.decode import EMPTY, NO_IMAGE
from m2kr.errors import InputError
from m2kr.progress import SILENT, Progress

log = logging.getLogger("m2kr.building.images")

UNSAFE = "unsafe name"
# Not to be had for good: remembered, and not asked for again.
FINAL = (GONE, REFUSED, EMPTY, NO_IMAGE, TOO_MANY_BYTES)
RULES = (*FINAL, BUSY, UNREACHED, PRIVATE, NO_ADDRESS, UNSAFE)
JOBS = 16
_AT_ONCE = 256  # addresses read at a time
_TASK = "images from the web"


def md5_name(url: str, ending: str = ".jpg") -> str:
    """The name that WIT's images have: the md5 of the address, in hex, and an ending.

    Args:
        url: The address, exactly as the data has it.
        ending: The authors converted all images to JPEG; readers go by the content, not the name.
    """
    return hashlib.md5(url.encode(), usedforsecurity=False).hexdigest() + ending


def fetch_urls(
    wanted: Mapping[str, str] | Iterable[tuple[str, str]],
    store: Store,
    on_fault: OnFault,
    *,
    rules: Rules | None = None,
    jobs: int = JOBS,
    progress: Progress = SILENT,
) -> Fetched:
    """Fetches what the store hasn't got. After a kill, the same call goes on where it was.

    Every host is asked within its budget and left alone for as long as it asks for (``Retry-After``);
    the hosts take turns, so that slow ones hold up none but themselves. Addresses that turned out to
    have no image are kept in ``failed-urls.jsonl`` in the store and not asked again; what failed for
    the time being is asked again by the next call. The images are not decoded here, only looked at
    for how they begin: `m2kr.building.images.check` is for that.

    In memory are ``jobs`` images at most, some items of each host, and 200 bytes for each host that
    failed. Addresses that wait are on disk, in a temporary file of the system.

    Args:
        wanted: Name in the store to address, or such pairs; taken as they are needed.
        store: Open for writing.
        on_fault: Told of each name that can't be had: ``archive`` is the host, ``rule`` one of `RULES`.
        rules: Contact, budgets, limits.
        jobs: Connections in all.
        progress: Told of each image.

    Raises:
        UsageError: a host requires a contact and none is given. What came until then stays.
        M2KRError: the store can't be written.
    """
    run = _Run(store, on_fault, rules or Rules(), jobs, progress)
    pairs = wanted.items() if isinstance(wanted, Mapping) else wanted
    run.progress.start(_TASK, len(wanted) if isinstance(wanted, Sized) else None, "images")
    with Failures(store.folder, FINAL, forget=run.rules.retry_failed) as failures:
        done = run.all(iter(pairs), failures)
    store.commit()
    run.progress.done(_TASK)
    log.info("%d images added, %d can't be had", done.added, done.faults)
    return done


class _Run:
    """One call: this thread decides what is asked, others ask."""

    def __init__(
        self, store: Store, on_fault: OnFault, rules: Rules, jobs: int, progress: Progress
    ) -> None:
        self.store, self.on_fault, self.rules, self.progress = store, on_fault, rules, progress
        self._schedule = Schedule()
        self._tasks: queue.SimpleQueue[tuple[str, Item] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[str, Item, Answer]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._jobs, self._threads, self._running = max(1, jobs), 0, 0
        self._there = self._added = self._faults = self._received = 0

    def all(self, pairs: Iterator[tuple[str, str]], failures: Failures) -> Fetched:
        """Everything."""
        self._failures = failures
        more = True
        try:
            while True:
                while self._running < self._jobs and (due := self._schedule.due(time.monotonic())):
                    self._send(*due)
                free = self._running < self._jobs
                wake = self._schedule.wake()
                if not more and not self._running and wake is None:
                    break
                wait: float | None = None
                if more and free:
                    more = self._read(pairs)
                    wait = 0.0
                elif free and wake is not None:
                    wait = max(0.0, wake - time.monotonic())
                self._take(wait)
        finally:
            # Not waited for: one may be in a connection that takes long. They are daemons.
            self._stop.set()
            for _ in range(self._threads):
                self._tasks.put(None)
            self._schedule.end()
        return Fetched(self._there, self._added, self._faults, self._received)

    def _read(self, pairs: Iterator[tuple[str, str]]) -> bool:
        """Takes some more in; False if there are none."""
        for _ in range(_AT_ONCE):
            pair = next(pairs, None)
            if pair is None:
                return False
            self._want(*pair)
        return True

    def _want(self, name: str, url: str) -> None:
        if self.store.has(name):
            self._there += 1
            self.progress.advance(_TASK, 1)
            return
        item = Item(name, url, [])
        if not is_safe(name):
            self._fault(item, UNSAFE, "no path below an image root")
        elif not is_http(url) or not _is_text(url):
            self._fault(item, NO_ADDRESS, f"{url[:200]!r}")
        elif rule := self._failures.rule_of(url):
            self._fault(item, rule, "found in an earlier run")
        else:
            _, own = self.rules.of(url)
            if self.rules.lacks_contact(own):
                raise contact_needed(own, url)
            item.places = list(own.addresses(url, self.rules.thumb_width))
            self._add(item)

    def _add(self, item: Item, *, first: bool = False) -> None:
        """Puts an item in the line of the host that it is asked of now."""
        host, rule = self.rules.of(item.places[0])
        if not self._gone_with(host, item):
            self._schedule.add(host, rule, item, time.monotonic(), first=first)

    def _send(self, host: str, item: Item) -> None:
        if self._running == self._threads:
            self._threads += 1
            threading.Thread(target=self._work, name="m2kr-web", daemon=True).start()
        self._running += 1
        self._tasks.put((host, item))

    def _work(self) -> None:
        with open_session(private=self.rules.private) as session:
            while (task := self._tasks.get()) is not None:
                host, item = task
                answer = ask(session, item.places[0], self.rules, self._stop)
                self._answers.put((host, item, answer))

    def _take(self, wait: float | None) -> None:
        """Waits for an answer so long, or for however long it takes, and deals with all that are there."""
        try:
            answer = self._answers.get(timeout=wait) if wait != 0 else self._answers.get_nowait()
            while True:
                self._deal(*answer)
                answer = self._answers.get_nowait()
        except queue.Empty:
            return

    def _deal(self, host: str, item: Item, answer: Answer) -> None:
        self._running -= 1
        self._received += answer.received
        self._schedule.ended(host, answer.received, time.monotonic())
        _, rule = self.rules.of(item.places[0])
        if answer.busy:
            self._leave_alone(host, item, answer)
        elif answer.again or (answer.status == 403 and rule.contact):
            # A host that wants a contact refuses the client by 403, not the file.
            self._try_again(host, item, answer)
        else:
            self._schedule.good(host)
            if answer.moved:
                self._move(item, answer.moved)
            elif answer.data:
                self._keep(item, answer.data)
            elif answer.status and len(item.places) > 1:
                self._next_place(item)
            else:
                self._fault(item, answer.rule, answer.detail)
                if answer.rule in FINAL:
                    self._failures.add(item.url, answer.rule, answer.detail)

    def _leave_alone(self, host: str, item: Item, answer: Answer) -> None:
        """The host wants a pause; all its images wait."""
        times = self._schedule.refuse(host, time.monotonic())
        wait = max(self._backoff(times), answer.wait or 0.0)
        if wait > self.rules.longest_pause:
            self._close(host, item, BUSY, f"{answer.detail}; asks to wait for {wait:,.0f} s")
        elif times >= self.rules.strikes:
            self._close(host, item, BUSY, f"{answer.detail}, {times} times in a row")
        elif not self._gone_with(host, item):
            log.info("%s: %s; again in %.3g s", host, answer.detail, wait)
            self._schedule.pause(host, time.monotonic() + wait)
            self._schedule.first(host, item)

    def _try_again(self, host: str, item: Item, answer: Answer) -> None:
        """This image failed for now."""
        # A host that answers may have one bad image: that is one failure, however often it is tried.
        repeated = item.tries and answer.status
        times = self._schedule.strikes(host) if repeated else self._schedule.strike(host)
        item.tries += 1
        if times >= self.rules.strikes:
            detail = f"{answer.detail}; given up after {times} failures in a row"
            self._close(host, item, answer.rule, detail)
        elif self._gone_with(host, item):
            pass
        elif item.tries < self.rules.policy.attempts and answer.status != 403:
            self._schedule.later(host, item, time.monotonic() + self._backoff(item.tries))
        elif len(item.places) > 1:
            self._next_place(item)
        else:
            self._fault(item, answer.rule, answer.detail)

    def _backoff(self, times: int) -> float:
        spread = random.uniform(0.5, 1.0)  # noqa: S311 - to spread, not to hide
        return self.rules.policy.pause(times) * spread

    def _gone_with(self, host: str, item: Item) -> bool:
        """Whether a host was given up, and the item with it."""
        why = self._schedule.closed(host)
        if why is not None:
            self._fault(item, *why)
        return why is not None

    def _close(self, host: str, item: Item, rule: str, detail: str) -> None:
        """Leaves a host, with all that waits for it, for the next run."""
        if self._gone_with(host, item):
            return
        log.warning("%s: %s", host, detail)
        self._fault(item, rule, detail)
        for each in self._schedule.close(host, (rule, detail)):
            self._fault(each, rule, detail)

    def _next_place(self, item: Item) -> None:
        self._add(Item(item.name, item.url, item.places[1:]), first=True)

    def _move(self, item: Item, target: str) -> None:
        """Follows a redirect, under the rules of where it leads."""
        hops = item.hops + 1
        if hops > self.rules.policy.redirects:
            self._fault(item, REFUSED, f"redirects more than {hops - 1} times")
        elif not may_follow(item.places[0], target):
            self._fault(item, REFUSED, "redirects to an address that is not safe to follow")
        elif self.rules.lacks_contact(rule := self.rules.of(target)[1]):
            self._fault(item, REFUSED, f"redirects to {rule.domain}, which requires a contact")
        else:
            self._add(Item(item.name, item.url, [target, *item.places[1:]], 0, hops), first=True)

    def _keep(self, item: Item, data: bytes) -> None:
        try:
            new = self.store.add(item.name, data)
        except InputError as error:
            self._fault(item, UNSAFE, error.what)
            return
        self._added += new
        self._there += not new
        self.progress.advance(_TASK, 1)

    def _fault(self, item: Item, rule: str, detail: str) -> None:
        self._faults += 1
        self.progress.advance(_TASK, 1)
        host = self.rules.of(item.url)[0] if is_http(item.url) else ""
        self.on_fault(Fault(host, item.name, rule, detail))


def _is_text(url: str) -> bool:
    """Whether it can be stored: no half of a surrogate pair."""
    try:
        url.encode()
    except UnicodeEncodeError:
        return False
    return True
