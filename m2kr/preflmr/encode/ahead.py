"""Work begun before its result is asked for, in order, with a bound on what is held at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(
    items: Iterable[Item],
    start: Callable[[Item], "Future[Made]"],
    *,
    room: int,
    size: Callable[[Item], int] = lambda _: 1,
) -> Iterator[tuple[Item, Made]]:
    """Items with what became of them, in order, while later items are being worked on.

    Args:
        items: Read as far ahead as there is room.
        start: Hands an item to an executor.
        room: Most that is held at a time, begun and finished items together; one item may exceed it.
        size: What an item counts for.

    Raises:
        Exception: What the work raised, at its item; later items are cancelled.
    """
    begun: deque[tuple[Item, Future[Made], int]] = deque()
    held = 0
    try:
        for item in items:
            needed = size(item)
            while begun and held + needed > room:
                first, future, freed = begun.popleft()
                held -= freed
                yield first, future.result()
            begun.append((item, start(item), needed))
            held += needed
        while begun:
            first, future, _ = begun.popleft()
            yield first, future.result()
    finally:
        for _, future, _ in begun:
            future.cancel()


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


@contextmanager
def threads(count: int, name: str, enter: Callable[[], None] | None = None) -> Iterator[Executor]:
    """Threads for as long as the context lasts; what they have not begun by then is cancelled.

    They are not waited for: an abandoned generator may be finalised in one of its own threads.

    Args:
        count: How many.
        name: Prefix of their names.
        enter: Called in each as it starts.
    """
    pool = ThreadPoolExecutor(count, name, initializer=enter)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
