"""Work begun before its result is asked for."""

import threading
import time
from collections.abc import Iterator

import pytest

from m2kr.concurrency import work_ahead


def test_work_ahead_is_in_order_bounded_and_raises_in_its_place() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(1_000):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        time.sleep(0.002 * (i % 3 == 0))
        return 10 // (50 - i)

    results = work_ahead(numbers(), work)
    found = [next(results)]
    time.sleep(0.05)
    assert len(taken) <= 6
    with pytest.raises(ZeroDivisionError):
        for result in results:
            found.append(result)  # noqa: PERF402 - what comes before the error counts
    assert found == [10 // (50 - i) for i in range(50)]
    assert not any(t.name.startswith("m2kr-ahead") for t in threading.enumerate())
