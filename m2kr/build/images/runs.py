"""Stretches of a remote archive, read by several connections and given out in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from m2kr.build.images.remote import RemoteParts

T = TypeVar("T")
JOBS = 8
_IN_FLIGHT = 64 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """A member that can't be had.

    Attributes:
        archive: Name of its archive.
        name: As it was asked for.
        rule: The kind of fault, for the ledger, such as ``not in the archive``.
        detail: More, if there is more to say.
    """

    archive: str
    name: str
    rule: str
    detail: str = ""


OnFault = Callable[[Fault], object]
Sink = Callable[[str, bytes], object]


def ignore(fault: Fault) -> None:
    """Nothing: who asks for a cost does not ask for faults."""


class Stretch:
    """An archive of which some bytes are here; others are fetched when they are asked for.

    Args:
        parts: The archive.
        start: Where the bytes that are here begin.
        data: They.
    """

    def __init__(self, parts: RemoteParts, start: int, data: bytes) -> None:
        self._parts, self._start, self._data = parts, start, data
        self.size = parts.size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end."""
        at = offset - self._start
        if not 0 <= at <= len(self._data):
            return self._parts.read(offset, size)
        here = self._data[at : at + size]
        if len(here) == size:
            return here
        return here + self._parts.read(offset + len(here), size - len(here))


@dataclass(frozen=True, slots=True)
class Run:
    """What one request reads.

    Attributes:
        start: First byte.
        end: Behind the last.
        first: Number of its first member.
        last: Behind that of its last.
        memory: Bytes it takes when unpacked.
    """

    start: int
    end: int
    first: int
    last: int
    memory: int


def read_runs(
    parts: RemoteParts,
    runs: Iterable[Run],
    take: Callable[[Run, Stretch], T],
    *,
    jobs: int = JOBS,
) -> Generator[T]:
    """What ``take`` makes of each run, in order; it works in threads.

    At most 64 MiB, or one run, are in memory. If the caller gives up or anything fails, the
    archive is stopped and can't be read any more.
    """

    def work(run: Run) -> T:
        return take(run, Stretch(parts, run.start, parts.read(run.start, run.end - run.start)))

    waiting: deque[tuple[Future[T], int]] = deque()
    held = 0
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            for run in runs:
                weight = run.end - run.start + run.memory
                while waiting and (held + weight > _IN_FLIGHT or len(waiting) >= 4 * jobs):
                    held -= waiting[0][1]
                    yield waiting.popleft()[0].result()
                waiting.append((pool.submit(work, run), weight))
                held += weight
            while waiting:
                yield waiting.popleft()[0].result()
        except BaseException:
            parts.stop()
            for future, _ in waiting:
                future.cancel()
            raise
