"""Exact search of a whole pool or of a range, on one device or on several of one process.

Each device has a range to itself, and shares nothing with the others but the queries. Results are
merged as those of any ranges are (`shards`), so they are the ones that a single device gives.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.concurrency import workers
from m2kr.errors import CheckError, InputError
from m2kr.progress import SILENT, Progress
from m2kr.ranking import id_ranks
from m2kr.search import shards
from m2kr.search.exact import canonical
from m2kr.search.exact import search as exact_search
from m2kr.search.exact.search import MEMORY, SearchStats
from m2kr.search.shards import PassageRange, RangeResult
from m2kr.search.store.reader import TokenStore, ids_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.search.store.reader import TokenSource


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


def search_devices(
    queries: "Sequence[NDArray[np.floating]]",
    source: "TokenSource",
    k: int,
    ranks: "NDArray[np.int64] | None" = None,
    *,
    device: str = "auto",
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> "tuple[NDArray[np.int64], NDArray[np.float64], SearchStats]":
    """`exact.search` on one device or several, with the same results.

    Args:
        queries: As there.
        source: As there.
        k: As there.
        ranks: As there.
        device: As there, or several with commas between, ``cuda:0,cuda:1``: each searches a range of
            the pool. The same one may occur more than once.
        memory: Shared out evenly on the host; each device takes its share of its own besides.
        threads: Shared out evenly, one a device at least.
        progress: As there.
        options: As there: passes, and check_seconds, which each device calls about its own range.

    Returns:
        As there; `SearchStats.device` lists the devices.
    """
    devices = [exact_search.device_name(name.strip()) for name in device.split(",")]
    if len(devices) == 1:
        return exact_search.search_exactly(
            *(queries, source, k, ranks),
            device=devices[0],
            memory=memory,
            threads=threads,
            progress=progress,
            **options,
        )
    import torch

    started, cpu = time.perf_counter(), time.process_time()
    if ranks is None:
        ranks = id_ranks(ids_of(source))
    if isinstance(source, TokenStore):
        spans = shards.ranges_of(source, len(devices))
    else:
        spans = shards.cut_ranges(source.offsets, len(devices))
    share = max(1, (threads or torch.get_num_threads()) // len(devices))
    # Refuses broken queries before any device starts.
    live = sum(len(query.rows) > 0 for query in canonical.rounded_queries(queries, source.dim))
    together = _Together(progress, live * (len(source.offsets) - 1))

    def one(number: int) -> tuple[RangeResult, SearchStats]:
        try:
            return search_range(
                *(queries, source, spans[number], k, ranks),
                memory=memory // len(devices),
                threads=share,
                device=devices[number],
                progress=together,
                **options,
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
    numbers, scores = shards.merge_results([part for part, _ in found], k, ranks)
    progress.done("exact search")
    stats = _added([stats for _, stats in found])
    stats.seconds = time.perf_counter() - started
    stats.cpu_seconds = time.process_time() - cpu
    return numbers, scores, stats


def search_range(
    queries: "Sequence[NDArray[np.floating]]",
    source: "TokenSource",
    span: PassageRange,
    k: int,
    ranks: "NDArray[np.int64] | None" = None,
    **options: Any,
) -> tuple[RangeResult, SearchStats]:
    """The exact best ``k`` passages of a range for every query, with canonical scores.

    Args:
        queries: As for `search_devices`.
        source: The whole pool.
        span: The range.
        k: Passages per query.
        ranks: Per passage of the whole pool the rank of its id; by default of the store's ids.
        options: Of `search_devices`: memory, threads, device, passes, progress.

    Raises:
        UsageError: the pool has no such range; and as `search_devices`.
        InputError: as `search_devices`.
        CheckError: as `search_devices`.
    """
    piece, first = shards.slice_of(source, span), span.first
    if ranks is None:
        ranks = id_ranks(ids_of(source).slice(first, len(span)))
    else:
        # Ranks are places among distinct ids, so those of a range count its own alone.
        ranks = np.unique(ranks[first : span.last], return_inverse=True)[1].astype(np.int64)
    try:
        numbers, scores, stats = search_devices(queries, piece, k, ranks, **options)
    except InputError as error:
        if not first or not (error.where or "").startswith("passage"):
            raise
        where = f"{error.where} of those from {first} on"
        raise InputError(error.what, where=where, expected=error.expected, fix=error.fix) from error
    return RangeResult(span, np.where(numbers >= 0, numbers + first, -1), scores), stats


@dataclass(frozen=True, slots=True)
class StoreRange:
    """What another machine must know to search a range of a token store; pickled.

    Attributes:
        folder: Of the store, at the same path everywhere.
        fingerprint: `shards.fingerprint_of` the store.
        span: The range.
        k: Passages a query.
        threads: As `search_devices`.
        device: As `search_devices`.
    """

    folder: Path
    fingerprint: str
    span: PassageRange
    k: int
    threads: int
    device: str


def search_store_range(piece: StoreRange, queries: "Sequence[NDArray[np.floating]]") -> RangeResult:
    """The exact best of a range.

    Raises:
        MissingError: the store isn't there.
        CheckError: it is another; and as `search_devices`.
    """
    store = TokenStore.open(piece.folder)
    seen = shards.fingerprint_of(store)
    if seen != piece.fingerprint:
        raise CheckError(
            "this is another store than the one that the search began with",
            where=str(piece.folder),
            expected=f"fingerprint {piece.fingerprint[:16]}, not {seen[:16]}",
            fix="let every node see the same files at this path, and none of them change",
        )
    result, _ = search_range(
        queries, store, piece.span, piece.k, threads=piece.threads, device=piece.device
    )
    return result


def _added(every: "Sequence[SearchStats]") -> SearchStats:
    """What all searches did; passes in the order in which the first device ran them."""
    names = dict.fromkeys(name for each in every for name in each.passes)
    return SearchStats(
        ",".join(each.device for each in every),
        tuple(names),
        sum(each.threads for each in every),
        sum(each.pairs for each in every),
        {name: sum(each.left.get(name, 0) for each in every) for name in names},
        sum(each.scored for each in every),
        bytes_read=sum(each.bytes_read for each in every),
    )
