"""Work on a sequence, done by threads ahead of the one who wants the results, in order."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    pieces: Iterator[T], work: Callable[[T], R], *, workers: int = 2, waiting: int = 2
) -> Iterator[R]:
    """Gives ``work(piece)`` of every piece, in order.

    One thread takes the pieces, others work on them; ``workers + waiting`` are under way at most. An
    exception of ``pieces`` or ``work`` comes where its result would have come. When this generator
    is closed or dropped, its threads have ended.

    Args:
        pieces: What to work on; taken by one other thread only.
        work: Called by several threads; they gain where it leaves Python's lock.
        workers: How many threads work.
        waiting: How many results may wait for the consumer.
    """
    room = threading.Semaphore(workers + waiting)
    stop = threading.Event()
    tasks: SimpleQueue[tuple[Future[R], T] | None] = SimpleQueue()
    results: SimpleQueue[Future[R] | None] = SimpleQueue()

    def feed() -> None:
        while room.acquire() and not stop.is_set():
            future: Future[R] = Future()
            try:
                piece = next(pieces)
            except StopIteration:
                break
            except BaseException as error:  # noqa: BLE001 - raised again by the consumer
                future.set_exception(error)
                results.put(future)
                break
            results.put(future)
            tasks.put((future, piece))
            del piece, future
        for _ in range(workers):
            tasks.put(None)
        results.put(None)

    def labour() -> None:
        while (task := tasks.get()) is not None and not stop.is_set():
            future, piece = task
            try:
                future.set_result(work(piece))
            except BaseException as error:  # noqa: BLE001 - raised again by the consumer
                future.set_exception(error)
            del task, future, piece

    # Daemons: a program that ends in the middle must not wait for them.
    threads = [
        threading.Thread(target=target, name=f"m2kr-ahead-{target.__name__}", daemon=True)
        for target in (feed, *[labour] * workers)
    ]
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        while (future := results.get()) is not None:
            result = future.result()
            del future
            room.release()
            yield result
            del result
    finally:
        stop.set()
        room.release()
        for thread in started:
            thread.join()
