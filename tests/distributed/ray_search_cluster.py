"""Searches a store and an index on a Ray cluster of several nodes, all of them of this machine.

    python ray_search_cluster.py STORE INDEX QUERIES OUT NODES

A node is killed in the middle of the exact search, and another before the index's last step. Writes
what was found to OUT.npz and prints one JSON object.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from m2kr.distributed.ray_search import RayOwners
from m2kr.errors import CheckError
from m2kr.search.late.compressed import SearchSettings
from m2kr.search.late.index.files import IndexFiles
from m2kr.search.late.sharded import groups as sharded_groups
from m2kr.search.late.sharded import index as sharded_index
from m2kr.search.late.sharded import owners as sharded_owners
from m2kr.search.late.sharded.owners import OpenedStore, StoreShard
from m2kr.search.late.sharded.ranges import Part
from m2kr.search.late.store import TokenStore
from m2kr.search.topk import id_ranks

K = 20
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
# That a node is dead is noticed in seconds; that it is slow, in half a minute.
SOON = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}


class SlowStore(OpenedStore):
    """Says where it is searched, then takes its time."""

    def search(self, queries: Sequence[np.ndarray], k: int) -> Part:
        mark = Path(os.environ["MARKS"]) / f"at-{self._shard.span.first}"
        with mark.open("a") as file:
            file.write(ray.get_runtime_context().get_node_id() + "\n")
        time.sleep(1.5)
        return super().search(queries, k)


@dataclass(frozen=True)
class SlowShard:
    shard: StoreShard

    def open(self) -> SlowStore:
        return SlowStore(self.shard)


class Killing(RayOwners):
    """Loses a node before the last step."""

    cluster: Any
    victim: Any

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        if method == "final" and self.victim is not None:
            self.cluster.remove_node(self.victim, allow_graceful=False)
            self.victim = None
        return super().call(method, arguments)


def main(store: Path, index: Path, queries: Path, out: Path, nodes: int) -> dict[str, Any]:
    tokens, asked = TokenStore.open(store), TokenStore.open(queries)
    rows, ranks = asked.take(range(len(asked))), id_ranks(tokens.ids())
    cluster = Cluster(initialize_head=True, head_node_args=SMALL | {"_system_config": SOON})
    others = [cluster.add_node(**SMALL) for _ in range(nodes - 1)]
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        shards = sharded_owners.store_shards(tokens, nodes, threads=1)
        victim, marks = others.pop(), Path(os.environ["MARKS"])
        held: list[str] = []

        def kill() -> None:
            while not held:
                time.sleep(0.02)
                at = {mark.name: mark.read_text().split() for mark in marks.glob("at-*")}
                held.extend(name for name, by in at.items() if victim.node_id in by)
            cluster.remove_node(victim, allow_graceful=False)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        with RayOwners([SlowShard(each) for each in shards], cluster.address) as owners:
            numbers, scores = sharded_owners.search(owners, rows, K, ranks, batch=len(rows) // 2)
        thread.join(10)
        found = {"numbers": numbers, "scores": scores}
        at = {mark.name: mark.read_text().split() for mark in marks.glob("at-*")}

        files = IndexFiles.open(index)
        groups = sharded_groups.index_shards(files, nodes, threads=1)
        with Killing(groups, cluster.address) as killing:
            killing.cluster, killing.victim = cluster, others.pop()
            narrow, values, _ = sharded_index.search(
                killing, groups, files, rows, K, settings=SearchSettings(8, 90, 30)
            )
        np.savez(out, **found, index_numbers=narrow, index_scores=values)

        refused = ""
        other = StoreShard(shards[0].folder, shards[0].span, "0" * 64)
        try:
            with RayOwners([other], cluster.address) as owners:
                sharded_owners.search(owners, rows, K, ranks)
        except CheckError as error:
            refused = str(error)
        return {
            "killed in": held,
            "asked": {name: len(by) for name, by in at.items()},
            "nodes": len({node for by in at.values() for node in by}),
            "moved": [name for name, by in at.items() if victim.node_id in by and len(set(by)) > 1],
            "groups": len(groups),
            "refused": refused,
        }
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    *places, count = sys.argv[1:]
    print(json.dumps(main(*map(Path, places), int(count))))
