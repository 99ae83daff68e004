"""Builds on a Ray cluster of several nodes, all of them processes of this machine.

    python ray_cluster.py ROOT NODES kill BASE    builds wit from a server's files; a node is killed
    python ray_cluster.py ROOT NODES speed -      times a CPU-bound source: one process, then the nodes

Prints one JSON object.
"""

import hashlib
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster
from support.upstream_fixture import Served

from m2kr.building.build import build
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.distributed.ray_engine import RayExecutor
from m2kr.sources import Source

PARTS = 8
ROUNDS = 100_000
OPTIONS = {"valid_queries": "3", "test_queries": "3"}


class Busy(Builder):
    """A source whose parts are all arithmetic."""

    source = Source(
        name="busy",
        config="BUSY",
        title="A busy toy",
        task="I2T",
        pools={"test": "test_passages"},
        headline="hit_rate@5",
        licence="CC0-1.0",
        comparable="a toy",
    )

    def parts(self, options: Mapping[str, str], splits: Sequence[str]) -> list[str]:
        return [f"p{number}" for number in range(PARTS)]

    def make_part(self, ctx: BuildContext, name: str) -> Iterator[pa.RecordBatch]:
        texts = []
        for row in range(40):
            text = f"{name} {row}".encode()
            for _ in range(ROUNDS):
                text = hashlib.sha256(text).hexdigest().encode()
            texts.append(text.decode())
        yield pa.record_batch({"text": texts})

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        for name in self.parts({}, ()):
            for batch in ctx.part(name):
                for row, text in enumerate(batch.column("text").to_pylist()):
                    yield {"passage_id": f"{name}-{row}", "passage_content": text}

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        yield {
            "question_id": "q",
            "question": "",
            "instruction": "Find it: ",
            "pos_item_ids": ["p0-0"],
        }


class SlowWit(Served):
    """WIT from a server's files, each part slow enough to be killed in; says who makes it."""

    def make_part(self, ctx: BuildContext, name: str) -> Iterator[pa.RecordBatch]:
        if ray.is_initialized():
            mark = ctx.files[next(iter(ctx.files))].parent / f"at-{name}"
            with mark.open("a") as file:
                file.write(ray.get_runtime_context().get_node_id() + "\n")
            time.sleep(1.5)
        yield from self.real.make_part(ctx, name)


def main(root: Path, nodes: int, what: str, base: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if what == "speed":
        for name, jobs in (("one", 1), ("jobs", 2)):
            found[name] = timed(root / name, jobs=jobs)
    else:
        build(SlowWit("wit", base), root / "one", options=OPTIONS)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **_SMALL})
    others = [cluster.add_node(num_cpus=1, **_SMALL) for _ in range(nodes - 1)]
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    executor = RayExecutor(cluster.address)
    try:
        if what == "speed":
            # Workers are started beforehand: on a cluster they are there.
            ray.get([ray.remote(num_cpus=1)(warm).remote() for _ in range(2 * nodes)])
            found["ray"] = timed(root / "ray", executor=executor)
            return found
        victim = others[-1]
        marks = root / "ray" / "downloads" / "wit"
        held: list[str] = []

        def kill() -> None:
            while not held:
                time.sleep(0.02)
                at = {mark.name: mark.read_text().split() for mark in marks.glob("at-*")}
                held.extend(name for name, by in at.items() if victim.node_id in by)
            cluster.remove_node(victim, allow_graceful=False)

        threading.Thread(target=kill, daemon=True).start()
        build(SlowWit("wit", base), root / "ray", options=OPTIONS, executor=executor)
        makers = (marks / held[0]).read_text().split()
        return {
            "killed in": held[0],
            "made by others": makers[-1] != victim.node_id,
            "times": len(makers),
        }
    finally:
        ray.shutdown()
        cluster.shutdown()


def warm() -> str:
    from m2kr.building import jobs

    time.sleep(0.5)  # long enough for every node to get some
    return jobs.__name__


def timed(root: Path, **how: Any) -> float:
    start = time.perf_counter()
    build(Busy(), root, **how)
    return time.perf_counter() - start


_SMALL = {"object_store_memory": 100 << 20}

if __name__ == "__main__":
    where, count, at, task = sys.argv[1:]
    print(json.dumps(main(Path(where), int(count), at, task)))
