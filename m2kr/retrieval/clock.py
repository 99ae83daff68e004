"""What work takes: the time that passes, and the processors' time."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of work, or the clocks' state, of which two give a difference.

    Attributes:
        wall: That passed.
        cpu: Of processors, in all threads of this process and in its children that have ended.
    """

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


def now() -> Spent:
    """The clocks' state."""
    times = os.times()
    # Of its own time Python knows nanoseconds, of children's the kernel's ticks.
    cpu = time.process_time() + times.children_user + times.children_system
    return Spent(time.perf_counter(), cpu)


_loads = Spent()
_depth = threading.local()


@contextmanager
def loading() -> Iterator[None]:
    """Counts what is done inside as loading (of weights), whatever stage it happens in."""
    global _loads
    outer = getattr(_depth, "inside", False)
    began, _depth.inside = now(), True
    try:
        yield
    finally:
        _depth.inside = outer
        if not outer:
            _loads += now() - began


def loads() -> Spent:
    """All that was spent on loading in this process."""
    return _loads
