"""Images from where the web has them, one address at a time, into a store."""

import logging
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from urllib.parse import urlsplit

from m2kr.building.fetch.http import is_http
from m2kr.building.formats.limits import is_safe
from m2kr.building.images.host_queue import FIRST, Host, HostQueue, WebImage
from m2kr.building.images.hosts import Rules
from m2kr.building.images.one_url import (
    BUSY,
    FINAL,
    NO_ADDRESS,
    REFUSED,
    ImageSession,
    UrlAnswer,
    ask_for_image,
)
from m2kr.building.images.outcome import FetchCounts, OnFault, UnavailableImage
from m2kr.building.images.shard_writer import ShardWriter
from m2kr.errors import InputError, UsageError
from m2kr.progress import SILENT, Progress

log = logging.getLogger("m2kr.building.images")

UNSAFE = "unsafe name"
_AT_ONCE = 256  # addresses read at a time
_TASK = "images from the web"


def fetch_urls(
    wanted: Mapping[str, str] | Iterable[tuple[str, str]],
    store: ShardWriter,
    on_fault: OnFault,
    *,
    rules: Rules | None = None,
    jobs: int = 16,
    progress: Progress = SILENT,
) -> FetchCounts:
    """Fetches what the store hasn't got. After a kill, the same call goes on where it was.

    Every host is asked within its budget and left alone for as long as it asks for (``Retry-After``);
    the hosts take turns, so that slow ones hold up none but themselves. Addresses that turned out to
    have no image are kept in ``failed-urls.jsonl`` in the store and not asked again; what failed for
    the time being is asked again by the next call. The images are not decoded here, only looked at
    for how they begin: `m2kr.building.images.check` is for that.

    In memory are ``jobs`` images at most, and 200 bytes for each host that failed. Addresses that wait
    are on disk, in a temporary file of the system.

    Args:
        wanted: Name in the store to address, or such pairs; taken as they are needed.
        store: Open for writing.
        on_fault: Told of each name that can't be had: ``archive`` is the host, ``rule`` one of a few.
        rules: Contact, budgets, limits.
        jobs: Connections in all.
        progress: Told of each image.

    Raises:
        UsageError: a host requires a contact and none is given. What came until then stays.
        M2KRError: the store can't be written.
    """
    pairs = wanted.items() if isinstance(wanted, Mapping) else wanted
    progress.start(_TASK, len(wanted) if isinstance(wanted, Sized) else None, "images")
    crawl = _Crawl(store, on_fault, rules or Rules(), jobs, progress)
    done = crawl.run(iter(pairs))
    store.commit()
    progress.done(_TASK)
    log.info("%d images added, %d can't be had", done.added, done.faults)
    return done


class _Crawl:
    """One call: this thread decides what is asked, others ask."""

    def __init__(
        self, store: ShardWriter, on_fault: OnFault, rules: Rules, jobs: int, progress: Progress
    ) -> None:
        self.store, self.on_fault, self.rules, self.progress = store, on_fault, rules, progress
        self._queue = HostQueue(store.folder, forget=rules.retry_failed)
        self._tasks: queue.SimpleQueue[tuple[Host, WebImage] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Host, WebImage, UrlAnswer]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._jobs, self._threads, self._running = max(1, jobs), 0, 0
        self._there = self._added = self._faults = self._received = 0

    def run(self, pairs: Iterator[tuple[str, str]]) -> FetchCounts:
        more = True
        try:
            while True:
                while self._running < self._jobs and (due := self._queue.due(time.monotonic())):
                    self._send(*due)
                free = self._running < self._jobs
                wake = self._queue.wake()
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
            self._queue.end()
        return FetchCounts(self._there, self._added, self._faults, self._received)

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
        image = WebImage(name, url, [url])
        if not is_safe(name):
            self._fault(image, UNSAFE, "no path below an image root")
        elif not _can_be_asked(url):
            self._fault(image, NO_ADDRESS, f"{url[:200]!r}")
        elif rule := self._queue.failure(url):
            self._fault(image, rule, "found in an earlier run")
        else:
            _, host_rule = self.rules.of(url)
            if self.rules.lacks_contact(host_rule):
                raise UsageError(
                    f"{host_rule.domain} requires a contact in the User-Agent of programs that fetch "
                    "from it, and refuses others",
                    where=url[:300],
                    expected=f"an e-mail address or web page of yours ({host_rule.policy})",
                    fix="--contact you@example.org",
                )
            if host_rule.addresses:
                image.places = list(host_rule.addresses(url, self.rules.thumb_width))
            self._put(image)

    def _put(self, image: WebImage, at: float = 0.0) -> None:
        """Puts an image in the line of the host that it is asked of now."""
        host = self._queue.host(*self.rules.of(image.places[0]), time.monotonic())
        if host.closed:
            self._fault(image, *host.closed)
        else:
            self._queue.put(host, image, at)

    def _send(self, host: Host, image: WebImage) -> None:
        if self._running == self._threads:
            self._threads += 1
            threading.Thread(target=self._work, name="m2kr-web", daemon=True).start()
        self._running += 1
        self._tasks.put((host, image))

    def _work(self) -> None:
        with ImageSession(private=self.rules.private) as session:
            while (task := self._tasks.get()) is not None:
                host, image = task
                answer = ask_for_image(session, image.places[0], self.rules, self._stop)
                self._answers.put((host, image, answer))

    def _take(self, wait: float | None) -> None:
        """Waits for an answer so long, or for however long it takes, and handles all that are there."""
        try:
            answer = self._answers.get(timeout=wait) if wait != 0 else self._answers.get_nowait()
            while True:
                self._handle_answer(*answer)
                answer = self._answers.get_nowait()
        except queue.Empty:
            return

    def _handle_answer(self, host: Host, image: WebImage, answer: UrlAnswer) -> None:
        now = time.monotonic()
        self._running -= 1
        self._received += answer.received
        self._queue.ended(host, answer.received, now)
        if answer.again or (answer.status == 403 and host.rule.contact):
            # A host that wants a contact refuses the client by 403, not the file.
            self._try_again(host, image, answer, now)
            return
        host.failures = 0
        if answer.moved:
            self._move(image, answer.moved)
        elif answer.data:
            self._keep(image, answer.data)
        elif not (answer.status and self._next_place(image)):
            self._fault(image, answer.rule, answer.detail)
            if answer.rule in FINAL:
                self._queue.failed(image.url, answer.rule, answer.detail)

    def _try_again(self, host: Host, image: WebImage, answer: UrlAnswer, now: float) -> None:
        """The image failed for now, or its host wants a pause, for which all its images wait."""
        busy = answer.rule == BUSY
        # What was on its way when a pause began is no new failure, nor is one bad image of a host that
        # answers, however often it is tried.
        host.failures += now >= host.paused if busy else not (image.tries and answer.status)
        image.tries += not busy
        wait = self.rules.policy.pause(host.failures if busy else image.tries)
        wait *= random.uniform(0.5, 1.0)  # noqa: S311 - to spread, not to hide
        if busy:
            wait = max(wait, answer.wait or 0.0)
        if busy and wait > self.rules.longest_pause:
            self._close(host, image, answer, f"asks to wait for {wait:,.0f} s")
        elif host.failures >= self.rules.strikes:
            self._close(host, image, answer, f"given up after {host.failures} failures in a row")
        elif busy:
            log.info("%s: %s; again in %.3g s", host.name, answer.detail, wait)
            host.paused = max(host.paused, now + wait)
            self._put(image, FIRST)
        elif image.tries < self.rules.policy.attempts and answer.status != 403:
            self._put(image, now + wait)
        elif not self._next_place(image):
            self._fault(image, answer.rule, answer.detail)

    def _close(self, host: Host, image: WebImage, answer: UrlAnswer, why: str) -> None:
        """Leaves a host, with all that waits for it, for the next run."""
        if host.closed is None:
            reason = answer.rule, f"{answer.detail}; {why}"
            log.warning("%s: %s", host.name, reason[1])
            for waiting in self._queue.close(host, reason):
                self._fault(waiting, *reason)
        assert host.closed is not None
        self._fault(image, *host.closed)

    def _next_place(self, image: WebImage) -> bool:
        """Whether there is another place to look for an image; it is put in the line there."""
        if len(image.places) == 1:
            return False
        self._put(WebImage(image.name, image.url, image.places[1:]), FIRST)
        return True

    def _move(self, image: WebImage, target: str) -> None:
        """Follows a redirect, under the rules of where it leads."""
        hops = image.hops + 1
        if hops > self.rules.policy.redirects:
            self._fault(image, REFUSED, f"redirects more than {hops - 1} times")
        elif not may_follow(image.places[0], target):
            self._fault(image, REFUSED, "redirects to an address that is not safe to follow")
        elif self.rules.lacks_contact(rule := self.rules.of(target)[1]):
            self._fault(image, REFUSED, f"redirects to {rule.domain}, which requires a contact")
        else:
            places = [target, *image.places[1:]]
            self._put(WebImage(image.name, image.url, places, 0, hops), FIRST)

    def _keep(self, image: WebImage, data: bytes) -> None:
        try:
            new = self.store.add(image.name, data)
        except InputError as error:
            self._fault(image, UNSAFE, error.what)
            return
        self._added += new
        self._there += not new
        self.progress.advance(_TASK, 1)

    def _fault(self, image: WebImage, rule: str, detail: str) -> None:
        self._faults += 1
        self.progress.advance(_TASK, 1)
        host = self.rules.of(image.url)[0] if is_http(image.url) else ""
        self.on_fault(UnavailableImage(host, image.name, rule, detail))


def may_follow(before: str, target: str) -> bool:
    """Whether a redirect is followed: to addresses that we open, and never out of https."""
    secure = urlsplit(before).scheme == "https"
    return _can_be_asked(target) and not (secure and urlsplit(target).scheme != "https")


def _can_be_asked(url: str) -> bool:
    """Whether it is an address of http(s), and text: no half of a surrogate pair."""
    return is_http(url) and not any("\ud800" <= letter <= "\udfff" for letter in url)
