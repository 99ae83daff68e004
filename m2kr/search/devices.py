"""Exact search on several devices of one process: each has a range of the pool to itself.

Devices share nothing but the queries. Results are merged as those of any ranges are (`shards`), so
they are the ones that a single device gives.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from m2kr.concurrency import workers
from m2kr.search import shards
from m2kr.search.exact import canonical
from m2kr.search.exact.search import Stats
from m2kr.search.store.reader import TokenStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from m2kr.progress import Progress
    from m2kr.search.sources import TokenSource


class _Stopped(Exception):
    """Another device's search has failed."""


class _Together:
    """One progress of several searches, each of which tells of its own; it can stop them."""

    def __init__(self, told: "Progress", total: int) -> None:
        self._told, self._total, self._lock = told, total, threading.Lock()
        self._started = False
        self.stopped = False

    def start(self, name: str, total: int | None, unit: str = "B") -> None:  # noqa: ARG002
        """The first search to begin tells of all; its own total is a share."""
        with self._lock:
            if not self._started:
                self._told.start(name, self._total, unit)
            self._started = True

    def advance(self, name: str, n: int) -> None:
        """Passes it on."""
        if self.stopped:
            raise _Stopped
        with self._lock:
            self._told.advance(name, n)

    def done(self, name: str) -> None:
        """Nothing: the others may not be done."""


def search(
    queries: "Sequence[NDArray[np.floating]]",
    source: "TokenSource",
    k: int,
    ranks: "NDArray[np.int64]",
    devices: "Sequence[str]",
    memory: int,
    threads: int | None,
    passes: "Sequence[str] | None",
    progress: "Progress",
    check_seconds: "Callable[[float], None] | None" = None,
) -> "tuple[NDArray[np.int64], NDArray[np.float64], Stats]":
    """`exact.search` on a list of devices; the same device may occur more than once.

    Args:
        queries: As there.
        source: As there.
        k: As there.
        ranks: As there.
        devices: Their names, each of which is there.
        memory: Shared out evenly on the host; each device takes its share of its own besides.
        threads: Shared out evenly, one a device at least.
        passes: As there.
        progress: As there.
        check_seconds: As there; called by each device, whose own range it is about.

    Returns:
        As there; `Stats.device` lists the devices.
    """
    import torch

    started, cpu = time.perf_counter(), time.process_time()
    if isinstance(source, TokenStore):
        spans = shards.spans(source, len(devices))
    else:
        spans = shards.cut(source.offsets, len(devices))
    share = max(1, (threads or torch.get_num_threads()) // len(devices))
    # Refuses broken queries before any device starts.
    live = sum(len(query.rows) > 0 for query in canonical.rounded(queries, source.dim))
    together = _Together(progress, live * (len(source.offsets) - 1))

    def one(number: int) -> tuple[shards.Part, Stats]:
        try:
            return shards.search_shard(
                queries,
                source,
                spans[number],
                k,
                ranks,
                memory=memory // len(devices),
                threads=share,
                device=devices[number],
                passes=passes,
                progress=together,
                check_seconds=check_seconds,
            )
        except _Stopped:
            raise
        except BaseException:
            together.stopped = True
            raise

    # What `concurrency` sets is the process's. Set here already, it stays set until the last device has
    # finished, whichever that is.
    with workers(1), ThreadPoolExecutor(len(devices), "m2kr-device") as pool:
        futures = [pool.submit(one, number) for number in range(len(devices))]
        try:
            errors = [error for future in futures if (error := future.exception())]
        except BaseException:
            together.stopped = True
            raise
    for error in sorted(errors, key=lambda each: isinstance(each, _Stopped)):
        raise error
    found = [future.result() for future in futures]
    numbers, scores = shards.merge([part for part, _ in found], k, ranks)
    progress.done("exact search")
    stats = _added([stats for _, stats in found])
    stats.seconds = time.perf_counter() - started
    stats.cpu_seconds = time.process_time() - cpu
    return numbers, scores, stats


def _added(every: "Sequence[Stats]") -> Stats:
    """What all searches did; passes in the order in which the first device ran them."""
    names = dict.fromkeys(name for each in every for name in each.passes)
    return Stats(
        ",".join(each.device for each in every),
        tuple(names),
        sum(each.threads for each in every),
        sum(each.pairs for each in every),
        {name: sum(each.left.get(name, 0) for each in every) for name in names},
        sum(each.scored for each in every),
        bytes_read=sum(each.bytes_read for each in every),
    )
