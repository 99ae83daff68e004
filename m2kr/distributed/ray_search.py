"""Shards of a search as actors of a Ray cluster: each opens its files once and answers batches.

All nodes must see the store or the index at the same path, as on a cluster's shared file system:
only queries and results travel. A shard whose node dies is opened anew by another node, which
answers the call that was lost; so the result is the same. A shard keeps nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType
from typing import Any, Self

from m2kr.distributed.ray_engine import RETRIES, RayExecutor, alive_nodes
from m2kr.errors import M2KRError, UsageError
from m2kr.search.late.sharded.owners import Shard


@dataclass(frozen=True, slots=True)
class Size:
    """Of a cluster.

    Attributes:
        nodes: Ids of those with cores.
        cpus: Cores of the smallest of them.
        gpus: Of all nodes.
    """

    nodes: tuple[str, ...]
    cpus: int
    gpus: int


def size(address: str) -> Size:
    """Connects to a cluster and counts what it has.

    Args:
        address: As `RayExecutor`.

    Raises:
        M2KRError: there is no such cluster.
        MissingError: Ray is not installed.
    """
    RayExecutor(address).connect()
    alive = alive_nodes()
    cores = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in alive}
    working = tuple(sorted(name for name, count in cores.items() if count))
    if not working:
        raise M2KRError(f"no node of the cluster at {address!r} has a core", where="Ray")
    gpus = sum(int(node["Resources"].get("GPU", 0)) for node in alive)
    return Size(working, min(cores[name] for name in working), gpus)


class RayOwners:
    """`Owners` whose shards are actors; use it in ``with``.

    Actors take turns among the nodes. They hold no core, so that those of a node that died always
    find room; how many threads one uses is in its shard. GPUs they do hold: a shard that loses its
    own waits until one is free.

    Args:
        shards: What each actor opens.
        address: Of the cluster, as `RayExecutor`.
        gpus: That each actor takes; it sees no others, so that its device is ``cuda``.

    Raises:
        M2KRError: there is no such cluster.
        MissingError: Ray is not installed.
        UsageError: the cluster has too few GPUs.
    """

    def __init__(self, shards: Sequence[Shard], address: str = "auto", *, gpus: int = 0) -> None:
        there = size(address)
        if gpus * len(shards) > there.gpus:
            raise UsageError(
                f"{len(shards)} shards need {gpus * len(shards)} GPUs, the cluster has {there.gpus}",
                fix="fewer shards: --jobs N   (or --device cpu)",
            )
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote: Any = ray.remote(_Owner)
        # A call is tried again until Ray has noticed that the node is dead: restarts are counted.
        again = {"max_restarts": RETRIES, "max_task_retries": -1}
        self._actors: list[Any] = []
        for shard, home in zip(shards, cycle(there.nodes), strict=False):
            # Ray spreads by resources held, and without GPUs none are. A soft home may be left.
            near = NodeAffinitySchedulingStrategy(home, soft=True)
            where = (
                {"num_gpus": gpus, "scheduling_strategy": "SPREAD"}
                if gpus
                else {"scheduling_strategy": near}
            )
            self._actors.append(remote.options(**again, **where).remote(shard))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._actors)

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Calls a method of every shard at once.

        Raises:
            M2KRError: a shard refused; or its nodes died, several times.
        """
        import ray

        # What all are given alike, such as the queries, is sent to each node once.
        sent = {id(given): ray.put(given) for given in arguments}
        futures = [
            actor.call.remote(method, sent[id(given)])
            for actor, given in zip(self._actors, arguments, strict=True)
        ]
        try:
            answers = ray.get(futures)
        except ray.exceptions.RayActorError as error:
            raise M2KRError(
                f"a shard was not searched: its node died, {RETRIES + 1} times",
                expected="nodes with memory for it; the cluster's log says why they died",
                fix="more shards, which are smaller: --jobs N",
            ) from error
        for answer in answers:
            if isinstance(answer, M2KRError):
                raise answer
        return answers

    def close(self) -> None:
        """Ends the actors."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


class _Owner:
    """A shard on a node, opened by the first call."""

    def __init__(self, shard: Shard) -> None:
        self._shard, self._opened = shard, None

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """The method's result; an error of ours as a value, so that Ray doesn't wrap it."""
        try:
            if self._opened is None:
                self._opened = self._shard.open()
            return getattr(self._opened, method)(*arguments)
        except M2KRError as error:
            return error
