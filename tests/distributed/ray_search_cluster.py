"""Searches a store on a Ray cluster of several nodes, all of them of this machine.

    python ray_search_cluster.py STORE QUERIES OUT NODES

A node is killed in the middle of the search. Writes what was found to OUT.npz and prints one JSON
object.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from m2kr.distributed import ray_engine
from m2kr.errors import CheckError
from m2kr.search.devices import StoreRange, search_store_range
from m2kr.search.shards import RangeResult
from m2kr.search.store.reader import TokenStore

K = 20
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
# That a node is dead is noticed in seconds; that it is slow, in half a minute.
SOON = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}


def slow(piece: StoreRange, queries: Sequence[np.ndarray]) -> RangeResult:
    """Says where it is searched, then takes its time."""
    mark = Path(os.environ["MARKS"]) / f"at-{piece.span.first}"
    with mark.open("a") as file:
        file.write(ray.get_runtime_context().get_node_id() + "\n")
    time.sleep(1.5)
    return search_store_range(piece, queries)


def of_another(piece: StoreRange, queries: Sequence[np.ndarray]) -> RangeResult:
    return search_store_range(replace(piece, fingerprint="0" * 64), queries)


def main(store: Path, queries: Path, out: Path, nodes: int) -> dict[str, Any]:
    asked = TokenStore.open(queries)
    cluster = Cluster(initialize_head=True, head_node_args=SMALL | {"_system_config": SOON})
    others = [cluster.add_node(**SMALL) for _ in range(nodes - 1)]
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    try:
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
        ray_engine.search_store_range = slow
        found = ray_engine.search_by_nodes(store, asked, K, address=cluster.address)
        thread.join(10)
        np.savez(out, numbers=found.rows, scores=found.scores)
        at = {mark.name: mark.read_text().split() for mark in marks.glob("at-*")}
        ray_engine.search_store_range = of_another
        refused = ""
        try:
            ray_engine.search_by_nodes(store, asked, K, address=cluster.address)
        except CheckError as error:
            refused = str(error)
        return {
            "killed in": held,
            "asked": {name: len(by) for name, by in at.items()},
            "nodes": len({node for by in at.values() for node in by}),
            "moved": [name for name, by in at.items() if victim.node_id in by and len(set(by)) > 1],
            "shards": found.stats["shards"],
            "refused": refused,
        }
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    *places, count = sys.argv[1:]
    print(json.dumps(main(*map(Path, places), int(count))))
