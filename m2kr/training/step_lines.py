"""Lines that say how far training is, for where no bar is seen: a log file, a job of a cluster."""

import time
from collections.abc import Callable

_SECONDS = 30.0  # between two lines, and a tenth of the steps
_MOST_SECONDS = 600.0  # whatever a tenth of the steps takes


class StepLines:
    """Tells of the first step, the last one, and some between.

    Args:
        tell: Takes a line.
        first: Steps done before.
        steps: Of the whole run.
        queries: Of a step, of all processes.
    """

    def __init__(self, tell: Callable[[str], None], first: int, steps: int, queries: int) -> None:
        self._tell, self._first, self._steps, self._queries = tell, first, steps, queries
        self._told, self._then = first, time.monotonic()
        self._spent = self._lately = 0.0

    def step(self, done: int, loss: float, seconds: float) -> None:
        """A step is made in some seconds; what validation and saving take is not estimated."""
        self._spent += seconds
        self._lately += seconds
        now = time.monotonic()
        waited, new = now - self._then, done - self._told
        due = waited >= _SECONDS and (new * 10 >= self._steps or waited >= _MOST_SECONDS)
        if not (due or done in (self._first + 1, self._steps)):
            return
        rate = self._queries * new / max(self._lately, 1e-9)
        line = f"step {done:,} of {self._steps:,}: loss {loss:.3f}, {_short(rate)} queries/s"
        if done < self._steps:
            left = (self._steps - done) * self._spent / (done - self._first)
            line += f", about {duration(left)} left"
        self._told, self._then, self._lately = done, now, 0.0
        self._tell(line)


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """A time for people: ``40 s``, ``4 min``, ``2.5 hours``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} hours"
