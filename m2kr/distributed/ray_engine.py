"""What is shared out to a Ray cluster: a build's parts and tables, ranges of an exact search.

All nodes must see the data root, the upstream files and token stores at the same paths, as on a
cluster's shared file system: tasks pass no data, they read and write there. A task whose node dies is
done again elsewhere; that of a build goes on from the last whole shard.
"""

import importlib.util
import logging
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.building.jobs import Job, perform
from m2kr.building.parts import Stats
from m2kr.errors import M2KRError, MissingError, UsageError, missing_dependency
from m2kr.progress import SILENT, Progress
from m2kr.ranking import id_ranks
from m2kr.search import shards
from m2kr.search.devices import StoreRange, search_store_range
from m2kr.search.dispatch import SearchResult, check_options, exact_how, is_store, time_per_query
from m2kr.search.index.format import INDEX
from m2kr.search.store.reader import TokenStore

RETRIES = 5  # of a task whose node died
_CONNECT = 10.0  # seconds for a cluster's head to answer
_LOOK = 60.0  # seconds for a node to look at the data root
_PROBES = ".cache/ray"
_SEARCH = "sharded search"


@dataclass(frozen=True, slots=True)
class Size:
    """Of a cluster.

    Attributes:
        nodes: Those with cores.
        cpus: Cores of the smallest of them.
        gpus: Of all nodes.
    """

    nodes: int
    cpus: int
    gpus: int


class RayCluster:
    """A cluster, and the one way in which its nodes share anything out: `map`.

    Args:
        address: Of the cluster: ``HOST:PORT``, ``auto`` for the one that this machine belongs to, or
            ``local`` for one of this machine's cores alone.

    Raises:
        MissingError: Ray is not installed.
    """

    def __init__(self, address: str = "auto") -> None:
        if importlib.util.find_spec("ray") is None:
            raise missing_dependency("ray", "ray", "--engine ray")
        self._address = address

    def connect(self) -> None:
        """Joins the cluster, unless this process has.

        Raises:
            M2KRError: no cluster is there.
        """
        import ray

        if ray.is_initialized():
            return
        try:
            host, _, port = self._address.removeprefix("ray://").rpartition(":")
            if port.isdecimal():
                # Ray itself keeps trying a dead address for many minutes.
                socket.create_connection((host, int(port)), _CONNECT).close()
            # Ray puts the folder that it is called in on its workers' path, before all else.
            with chdir(Path(sys.executable).anchor):
                ray.init(
                    address=self._address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if self._address == "local" else None,
                )
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            raise M2KRError(
                f"no Ray cluster is at {self._address!r}: {str(error).splitlines()[0]}",
                expected="HOST:PORT of a running cluster, auto, or local",
                fix="ray start --head   (or --address local)",
            ) from error

    def size(self) -> Size:
        """Connects, and counts what the cluster has.

        Raises:
            M2KRError: there is no such cluster, or it has no core.
        """
        self.connect()
        alive = _alive_nodes()
        cores = [cores for node in alive if (cores := int(node["Resources"].get("CPU", 0)))]
        if not cores:
            raise M2KRError(f"no node of the cluster at {self._address!r} has a core", where="Ray")
        gpus = sum(int(node["Resources"].get("GPU", 0)) for node in alive)
        return Size(len(cores), min(cores), gpus)

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[Any],
        *common: Any,
        names: Sequence[str],
        cpus: float = 1,
        gpus: int = 0,
    ) -> Iterator[Any]:
        """Calls a function with every item, each as a task; yields the results in the items' order.

        A task whose node dies is done again elsewhere. If one fails, or the results are no longer
        wanted, the others are ended.

        Args:
            function: Of an item and ``common``.
            items: Pickled.
            common: Further arguments of every call; sent to each node once.
            names: What each item is called where its task fails.
            cpus: Cores that a task takes.
            gpus: GPUs that a task takes; it sees no others.

        Raises:
            M2KRError: the function raised it; there is no such cluster; or a task's nodes died.
        """
        self.connect()
        import ray

        remote = ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False
        )(function)
        sent = [ray.put(argument) for argument in common]
        pending = deque(
            (name, remote.remote(item, *sent)) for name, item in zip(names, items, strict=True)
        )
        try:
            while pending:
                result = _result(*pending[0])
                pending.popleft()
                yield result
        finally:
            for _, future in pending:
                with suppress(Exception):
                    ray.cancel(future, force=True)


class RayExecutor:
    """Makes what needs nothing of each other on the nodes of a cluster.

    Args:
        address: As `RayCluster`.

    Raises:
        MissingError: Ray is not installed.
    """

    def __init__(self, address: str = "auto") -> None:
        self._cluster = RayCluster(address)

    def prepare(self, root: Path) -> None:
        """Connects, and checks that every node sees the data root.

        Raises:
            M2KRError: there is no such cluster.
            MissingError: a node does not see the data root.
        """
        self._cluster.connect()
        folder = root.absolute() / _PROBES
        folder.mkdir(parents=True, exist_ok=True)
        token = folder / uuid.uuid4().hex
        atomic.write_text(token, token.name)
        try:
            blind = _blind_nodes(token)
        finally:
            token.unlink()
        if blind:
            raise MissingError(
                f"{len(blind)} of the cluster's nodes can't see the data root: {', '.join(blind[:5])}",
                where=str(root.absolute()),
                expected="a folder that all nodes see at this path, such as on a shared file system",
                fix="--data FOLDER on a shared file system; or --shard I/N and m2kr merge",
            )

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Stats]:
        """Performs every job; the results are in the jobs' order."""
        results = self._cluster.map(perform, jobs, names=[job.name for job in jobs])
        done = []
        for job in jobs:
            progress.start(job.name, None, "rows")
            done.append(next(results))
            progress.done(job.name)
        return done


def search_by_nodes(
    folder: Path,
    queries: TokenStore,
    k: int,
    *,
    store: TokenStore | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    address: str = "auto",
    jobs: int | None = None,
) -> SearchResult:
    """What `dispatch.search_folder` finds in a token store, by the nodes of a cluster.

    Each searches a range of it, and only queries and results travel. A range whose node dies is searched
    by another, so the result is the same.

    Args:
        folder: The token store.
        queries: As there.
        k: As there.
        store: None: a token store has no other one.
        threads: Of each range; by default the nodes' cores are shared out.
        device: Of each range; ``auto`` is CUDA if there are GPUs for all of them.
        progress: Told of the ranges that are done.
        address: Of the cluster, as `RayCluster`.
        jobs: Ranges, at most; by default one a node.

    Raises:
        UsageError: it is an index, or a device is asked for that no node has.
        M2KRError: as `RayCluster.map` and `exact.search`.
    """
    check_options(folder, store, "auto")
    queries.require_whole()
    if not is_store(folder) and (folder / INDEX.header).is_file():
        raise UsageError(
            "an index is searched by one process",
            where=str(folder),
            fix="--engine local; or search the token store, exactly, by the cluster",
        )
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"a shard has one device of its node's, not '{device}'",
            fix="--device cuda --jobs N, with as many shards as GPUs",
        )
    pool = TokenStore.open(folder)
    pool.require_whole()
    cluster = RayCluster(address)
    there = cluster.size()
    count = jobs or there.nodes
    if device == "auto":
        device = "cuda" if there.gpus >= count else "cpu"
    if device == "cuda" and not there.gpus:
        raise UsageError("--device cuda needs GPUs, the cluster has 0", fix="--device cpu")
    threads = threads or max(1, there.cpus * there.nodes // max(count, there.nodes))
    fingerprint = shards.fingerprint_of(pool)
    pieces = [
        StoreRange(pool.folder.absolute(), fingerprint, span, k, threads, device)
        for span in shards.ranges_of(pool, min(count, max(1, len(pool))))
    ]
    start, cpu = time.perf_counter(), time.process_time()
    progress.start(_SEARCH, len(pieces), "shards")
    running = cluster.map(
        search_store_range,
        pieces,
        queries.take(range(len(queries))),
        names=[f"the search of {piece.span}" for piece in pieces],
        # More cores than any node has would be waited for in vain.
        cpus=0 if device == "cuda" else min(threads, there.cpus),
        gpus=int(device == "cuda"),
    )
    results = []
    for result in running:
        results.append(result)
        progress.advance(_SEARCH, 1)
    ids = pool.ids()
    numbers, scores = shards.merge_results(results, k, id_ranks(ids))
    progress.done(_SEARCH)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    stats = {"shards": len(pieces), **time_per_query(seconds, cpu, len(queries))}
    return SearchResult(numbers, scores, ids, exact_how(k), stats)


def _result(name: str, future: Any) -> Any:
    import ray

    try:
        return ray.get(future)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, M2KRError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise M2KRError(
            f"{name} was not finished: its node died, {RETRIES + 1} times",
            expected="nodes with memory for it; the cluster's log says why they died",
            fix="run the same command again: what is complete is kept",
        ) from error


def _alive_nodes() -> list[dict[str, Any]]:
    """The cluster's living nodes as Ray describes them."""
    import ray

    every: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call] # Ray has no types
    return [node for node in every if node["Alive"]]


def _seen(token: str) -> bool:
    path = Path(token)
    return path.is_file() and path.read_text(encoding="utf-8") == path.name


def _blind_nodes(token: Path) -> list[str]:
    """Addresses of the nodes that can't read a file."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in _alive_nodes() if node["Resources"].get("CPU")]
    looks = {
        node["NodeManagerAddress"]: ray.remote(num_cpus=0, max_retries=0)(_seen)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(str(token))
        for node in nodes
    }
    blind = []
    for address, look in looks.items():
        try:
            sees = ray.get(look, timeout=_LOOK)
        except ray.exceptions.RayError:
            continue  # it died: nothing will be asked of it
        if not sees:
            blind.append(address)
    return blind
