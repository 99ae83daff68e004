"""What one step on a big passage pool costs, in a process of its own so that its peak is its own.

    python pool_cost.py STEP FOLDER ROWS

Prints one JSON object. Steps: ``write`` (the same batches through our writer and through a bare
pyarrow IPC stream), ``build_pool`` (the whole engine), ``open_pool`` (1,000 passages by id),
``beir_file`` and ``beir`` (corpus.jsonl into a dict of dicts, BEIR's way).
"""

import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from m2kr.building.build import build
from m2kr.building.spec import BuildContext, Builder
from m2kr.building.table import SHARD_ROWS, TableWriter
from m2kr.evaluation.result import peak_memory
from m2kr.schema import BATCH_ROWS, arrow_schema, columns
from m2kr.sources import Source

COLUMNS = columns("passages")
LOOKUPS = 1_000


def batches(rows: int) -> Iterator[pa.RecordBatch]:
    """Passages with MS MARCO's lengths: about 335 characters, from 60 to over 900."""
    words = np.array(["tin", "solsol", "paxpaxpax", "re", "fluxflux", "omomom", "lex"])
    rng = np.random.default_rng(0)
    filler = " ".join(rng.choice(words, 400_000))
    schema = arrow_schema(COLUMNS)
    for start in range(0, rows, BATCH_ROWS):
        n = min(BATCH_ROWS, rows - start)
        lengths = np.clip(rng.gamma(5.0, 67.0, n).astype(int), 60, 1_200)
        places = rng.integers(0, len(filler) - 1_300, n)
        texts = [filler[p : p + m] for p, m in zip(places, lengths, strict=True)]
        empty = pa.nulls(n, pa.string())
        ids = pa.array([str(i) for i in range(start, start + n)])
        language = pa.array(["en"] * n)
        arrays = [ids, pa.array(texts), language, empty, empty, empty]
        yield pa.record_batch(arrays, schema=schema)


class PoolBuilder(Builder):
    """The generated pool and one query, as a source."""

    source = Source("pool", "POOL", "generated", "Q2T", {"test": "test_passages"}, "mrr@10", "CC0")

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[pa.RecordBatch]:
        return batches(self.rows)

    def queries(self, ctx: BuildContext, split: str) -> list[dict]:
        return [{"question_id": "q", "question": "tin?", "pos_item_ids": ["7"]}]


def write(folder: Path, rows: int) -> dict:
    """Ours and a bare stream turn by turn, a shard each, both synced: the disk's moods hit both."""
    seconds = {"ours": 0.0, "bare": 0.0}
    writer = TableWriter(folder / "ours", COLUMNS)
    with (folder / "bare.arrow").open("wb") as file:
        stream = pa.ipc.new_stream(file, writer.schema)
        pending = batches(rows)
        while turn := list(itertools.islice(pending, SHARD_ROWS // BATCH_ROWS)):
            start = time.perf_counter()
            for batch in turn:
                writer.write_batch(batch)
            if writer.rows == rows:
                writer.close()
            middle = time.perf_counter()
            for batch in turn:
                stream.write_batch(batch)
            if writer.rows == rows:
                stream.close()
            file.flush()
            os.fsync(file.fileno())
            seconds["ours"] += middle - start
            seconds["bare"] += time.perf_counter() - middle
    return seconds


def build_pool(folder: Path, rows: int) -> dict:
    start = time.perf_counter()
    build(PoolBuilder(rows), folder)
    return {"seconds": time.perf_counter() - start}


def wanted(rows: int) -> list[str]:
    draw = random.Random(1)
    return [str(draw.randrange(rows)) for _ in range(LOOKUPS)]


def open_pool(folder: Path, rows: int) -> dict:
    import datasets  # noqa: F401 - counted as an import, not as opening

    import m2kr.data.load
    import m2kr.data.lookup
    import m2kr.data.records

    imports, start = peak_memory(), time.perf_counter()
    split = m2kr.load("pool", data=folder)
    found = [split.passage(i) for i in wanted(rows)]
    seconds = time.perf_counter() - start
    if [p["passage_id"] for p in found] != wanted(rows):
        raise SystemExit("wrong passages")
    return {"seconds": seconds, "over_imports": peak_memory() - imports}


def beir_file(folder: Path, rows: int) -> dict:
    with (folder / "corpus.jsonl").open("w") as file:
        for batch in batches(rows):
            ids, texts = batch.column(0).to_pylist(), batch.column(1).to_pylist()
            for i, text in zip(ids, texts, strict=True):
                file.write(json.dumps({"_id": i, "title": "", "text": text}) + "\n")
    return {}


def beir(folder: Path, rows: int) -> dict:
    imports, start = peak_memory(), time.perf_counter()
    corpus: dict[str, dict] = {}
    with (folder / "corpus.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            corpus[row["_id"]] = {"text": row["text"], "title": row["title"]}
    texts = [corpus[i]["text"] for i in wanted(rows)]
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "over_imports": peak_memory() - imports, "read": len(texts)}


if __name__ == "__main__":
    step, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    steps = {f.__name__: f for f in (write, open_pool, beir_file, beir, build_pool)}
    print(json.dumps(steps[step](where, count) | {"peak": peak_memory()}))
