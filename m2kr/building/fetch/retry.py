"""How patient requests are, and the one loop that makes them again."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient downloads are.

    Attributes:
        attempts: Failures in a row, without progress, after which a URL is given up.
        step: New bytes that count as progress.
        backoff: Seconds before the second attempt; doubles with every further one.
        backoff_cap: Longest such wait in seconds.
        retry_after_cap: Longest wait in seconds that a server may ask for by Retry-After.
        connect_timeout: Seconds to get a connection.
        read_timeout: Seconds without a byte after which a connection is stalled.
        slow_rate: Bytes a second below which a connection is given up after `slow_seconds`.
        slow_seconds: see ``slow_rate``.
        longest: Seconds that one file may take from one address, whatever it brings.
        hopeless: Seconds after which a server that can't be reached is given up, if none was before.
        unsized: Bytes of a file at most of which neither its builder nor its server says how large it is.
        redirects: Followed at most.
        chunk: Bytes read at a time.
        spare: Bytes that must stay free on the disk.
    """

    attempts: int = 5
    step: int = 1 << 18
    backoff: float = 1.0
    backoff_cap: float = 60.0
    retry_after_cap: float = 300.0
    connect_timeout: float = 20.0
    read_timeout: float = 60.0
    slow_rate: int = 1000
    slow_seconds: float = 120.0
    longest: float = 7 * 86400.0
    hopeless: float = 5.0
    unsized: int = 64 << 30
    redirects: int = 10
    chunk: int = 1 << 16
    spare: int = 256 << 20

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.backoff * 2.0 ** (failures - 1), self.backoff_cap)


class Failure(Exception):
    """One attempt at one URL failed; never leaves the engine.

    Args:
        reason: For the message to the user.
        again: The same URL may work later.
        wait: Seconds the server asks to wait.
        wrong: The content is not the expected one: worth one more attempt.
        unreachable: There was no connection at all.
        status: Of HTTP, where the server refuses the file for good.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: bool = False,
        wait: float | None = None,
        wrong: bool = False,
        unreachable: bool = False,
        status: int = 0,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.wait = wait
        self.wrong = wrong
        self.unreachable = unreachable
        self.status = status


class Stopped(Exception):
    """Work given up because something else failed or the user interrupted; never shown."""


def persist(
    attempt: Callable[[], T],
    policy: Policy,
    *,
    log: Callable[[str], object],
    stop: threading.Event | None = None,
    received: Callable[[], int] = lambda: 0,
    offline: Callable[[], bool] = lambda: False,
) -> T:
    """What an attempt gives, which is made again where a failure may pass, after a pause.

    Pauses double from one failure to the next, and are as long as a server asks for (Retry-After), up
    to a cap. An attempt that brought `Policy.step` bytes more than any before counts as the first.

    Args:
        attempt: Raises `Failure`.
        policy: How many attempts, how long the pauses, and for how long in all.
        log: Told why and when the next attempt is made.
        stop: Set to end it.
        received: Bytes that all attempts together have brought so far.
        offline: Whether no server at all answered yet: then one that can't be reached is given up soon.

    Raises:
        Failure: The last one; says how many attempts there were.
        Stopped: ``stop`` was set.
    """
    stop = stop or threading.Event()
    failures = wrong = 0
    farthest = received()
    begun = time.monotonic()
    while not stop.is_set():
        try:
            return attempt()
        except Failure as failure:
            wrong += failure.wrong
            if not (failure.again or failure.wrong) or wrong > 1:
                raise
            # A server without ranges makes every attempt begin at zero: only a new record is progress.
            progress = received() >= farthest + policy.step
            failures = 1 if progress else failures + 1
            farthest = received() if progress else farthest
            wait = max(policy.pause(failures), min(failure.wait or 0.0, policy.retry_after_cap))
            # Where nobody answered yet there is no network, and patience doesn't help.
            patience = policy.hopeless if failure.unreachable and offline() else policy.longest
            if failures >= policy.attempts or time.monotonic() + wait > begun + patience:
                reason = f"{failure.reason} ({failures} attempts)"
                raise Failure(reason, unreachable=failure.unreachable) from failure
            log(f"{failure.reason}; again in {wait:.3g} s")
            stop.wait(wait)
    raise Stopped
