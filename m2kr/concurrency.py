"""Work begun before its result is asked for, threads that each multiply alone, and true float32 products.

torch splits one product over all threads, which costs more than it gains for tiles that fit a core's
cache. In `workers` each thread takes tiles of its own.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from m2kr.errors import missing_dependency

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    items: Iterable[Item],
    start: Callable[[Item], Future[Result]],
    *,
    room: int,
    size: Callable[[Item], int] = lambda _: 1,
) -> Generator[tuple[Item, Result]]:
    """Items with what became of them, in order, while later items are being worked on.

    Args:
        items: Read as far ahead as there is room.
        start: Hands an item to an executor.
        room: Most that is held at a time, begun and finished items together; one item may exceed it.
        size: What an item counts for.

    Raises:
        Exception: What the work raised, at its item; later items are cancelled.
    """
    begun: deque[tuple[Item, Future[Result], int]] = deque()
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


def work_ahead(
    pieces: Iterator[Item], work: Callable[[Item], Result], *, workers: int = 2
) -> Generator[Result]:
    """Gives ``work(piece)`` of every piece, in order.

    One thread takes the pieces, others work on them; ``workers + 2`` are under way at most. An
    exception of ``pieces`` or ``work`` comes where its result would have come. When this generator
    is closed or dropped, its threads have ended.

    Args:
        pieces: What to work on; taken by one other thread only.
        work: Called by several threads; they gain where it leaves Python's lock.
        workers: How many threads work.
    """
    end = object()

    def take_and_work(taken: "Future[Any]") -> Any:
        piece = taken.result()
        return end if piece is end else work(piece)

    takers = ThreadPoolExecutor(1, "m2kr-ahead-take")
    pool = ThreadPoolExecutor(workers, "m2kr-ahead-work")

    def start(_: None) -> "Future[Any]":
        return pool.submit(take_and_work, takers.submit(next, pieces, end))

    results = ahead(itertools.repeat(None), start, room=workers + 2)
    try:
        for _, result in results:
            if result is end:
                return
            yield result
            del result
    finally:
        results.close()
        takers.shutdown(cancel_futures=True)
        pool.shutdown()


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one shorter."""
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
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


def spread(work: Callable[[Item], Result], pieces: Sequence[Item], device: str) -> list[Result]:
    """The result of each piece, in order; one after the other on an accelerator, which one thread feeds.

    A small network gains little from splitting each matrix product over the cores, and where other
    programs run as well, waiting for one another at every product makes it several times slower. So
    each core gets pieces of its own; the result then does not depend on the number of cores either.

    Args:
        work: Calls torch, which lets go of the interpreter's lock while it computes.
        pieces: The biggest first, so that no core ends long after the others.
        device: What torch computes on.
    """
    import torch

    count = torch.get_num_threads()
    if device != "cpu" or count == 1 or len(pieces) < 2:
        return [work(piece) for piece in pieces]
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, pieces))
    finally:
        # The number of threads is one setting for the whole process in parts of torch.
        torch.set_num_threads(count)


class Workers:
    """Runs functions on several threads at once.

    Attributes:
        threads: How many.
    """

    def __init__(self, pool: ThreadPoolExecutor, threads: int = 1) -> None:
        self._pool = pool
        self.threads = threads
        self._own = threading.local()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results in the order of the items; the first error that occurs is raised."""
        return list(self._pool.map(function, items))

    def scratch(self, size: int, dtype: "torch.dtype", device: "torch.device") -> "torch.Tensor":
        """At least ``size`` values that this thread may overwrite, the same ones each time.

        Fresh memory costs a page fault every 4 kB, as much as multiplying into it.
        """
        import torch

        kept: dict[str, Any] = self._own.__dict__
        key = f"{dtype} {device}"
        if key not in kept or len(kept[key]) < size:
            kept[key] = torch.empty(size, dtype=dtype, device=device)
        found: torch.Tensor = kept[key]
        return found


@contextmanager
def workers(threads: int) -> Iterator[Workers]:
    """Threads for the length of a ``with`` block, in which torch multiplies as `search.exact.bounds` assumes.

    The block sets torch's number of threads to one and turns reduced-precision products off (TF32,
    bfloat16 for float32); both are settings of the whole process, and set back after it. Autocasting is
    a thread's own and doesn't reach these threads.
    """
    import torch

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "m2kr-search", initializer=lambda: torch.set_num_threads(1))
    try:
        with full_precision():
            yield Workers(pool, threads)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """Turns reduced-precision products off for the length of a ``with`` block, in the whole process.

    Raises:
        MissingError: torch isn't installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_dependency("torch", "models", "late-interaction search") from error

    cuda = torch.backends.cuda.matmul
    cpu: Any = torch.backends.mkldnn
    settings: list[tuple[Any, str, Any]] = [(cuda, "allow_bf16_reduced_precision_reduction", False)]
    halves = ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation")
    settings += [(cuda, name, False) for name in halves if hasattr(cuda, name)]
    if hasattr(cuda, "fp32_precision"):
        settings += [(cuda, "fp32_precision", "ieee")]
        settings += [(cpu.matmul, "fp32_precision", "ieee")]
    else:  # before torch 2.9
        settings += [(cuda, "allow_tf32", False)]
    before = [getattr(place, name) for place, name, _ in settings]
    legacy = None if hasattr(cuda, "fp32_precision") else torch.get_float32_matmul_precision()
    try:
        if legacy is not None:
            torch.set_float32_matmul_precision("highest")
        for place, name, value in settings:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(settings, before, strict=True):
            setattr(place, name, value)
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)
