"""2.8 million queries over 8.8 million passages open in seconds, in less than a gigabyte."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from m2kr.data.load import Split
from m2kr.data.records import Passages, Queries
from m2kr.training.mixture import Mixture
from m2kr.training.recipe import Data, Negatives, Recipe, Share

Column = Callable[[range], pa.Array]
QUERIES, PASSAGES, BATCH = 2_800_000, 8_800_000, 10_000


def table(path: Path, rows: int, columns: dict[str, Column]) -> Dataset:
    """A mapped table as sources have it; columns are functions of row numbers."""
    batches = (
        pa.record_batch({name: make(range(start, start + BATCH)) for name, make in columns.items()})
        for start in range(0, rows, BATCH)
    )
    first = next(batches)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    return Dataset.from_file(str(path))


def whole_split(folder: Path) -> Split:
    rng = np.random.default_rng(0)
    manifest = {
        "source": {"name": "whole", "config": "WHOLE", "task": "mixed"},
        "splits": {
            "train": {
                "queries": QUERIES,
                "passages": PASSAGES,
                "pool": "train_passages",
                "with_image": 0,
            }
        },
        "fingerprints": {"train": {"queries": "q", "pool": "p"}},
        "image_roots": [],
    }
    split = Split("whole", "train", folder, manifest)
    queries: dict[str, Column] = {
        "question_id": lambda rows: pa.array([f"train-{row}" for row in rows]),
        "question": lambda rows: pa.array([f"what is number {row}?" for row in rows]),
        "instruction": lambda rows: pa.array(["Find it:"] * len(rows)),
        "img_path": lambda rows: pa.array([None if row % 2 else f"{row}.jpg" for row in rows]),
        "pos_item_ids": lambda rows: pa.array(
            [[f"passage-{n}" for n in own] for own in rng.integers(PASSAGES, size=(len(rows), 2))]
        ),
    }
    passages: dict[str, Column] = {
        "passage_id": lambda rows: pa.array([f"passage-{row}" for row in rows]),
        "passage_content": lambda rows: pa.array([f"{row} " + "some words " * 30 for row in rows]),
    }
    rows = table(folder / "queries.arrow", QUERIES, queries)
    split.__dict__["queries_view"] = Queries(rows)
    pool = table(folder / "passages.arrow", PASSAGES, passages)
    split.__dict__["passages_view"] = Passages(pool)
    return split


@contextmanager
def own_memory() -> Iterator[list[int]]:
    """KiB of the process without mapped files, whose pages the system takes back, every 10 ms."""
    seen: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while True:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            seen.append(int(status.partition("RssAnon:")[2].split()[0]))
            if ended.wait(0.01):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("M2KR_WHOLE"), reason="M2KR_WHOLE=1 writes 4 GB")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_whole_source_opens_in_seconds(tmp_path: Path) -> None:
    split = whole_split(tmp_path)
    recipe = Recipe("x", data=Data((Share("whole", tasks=("IQ2T",)),)), negatives=Negatives(4))
    with own_memory() as before:
        pass
    start = time.process_time()
    with own_memory() as peak:
        made = Mixture(recipe, [split])
        opened = time.process_time() - start
        fingerprint = made.fingerprint
        hashed = time.process_time() - start - opened
        begun = time.process_time()
        for number in np.random.default_rng(1).integers(QUERIES // 2, size=2000):
            visit = made.visit(int(number))
            assert len({each.row for each in visit.passages}) == 5
        each = (time.process_time() - begun) / 2000
    used = max(peak) - max(before)
    print(
        f"opened in {opened:.1f} s, fingerprint {fingerprint[:8]} in {hashed:.1f} s, a visit in "
        f"{each * 1e6:.0f} us (of a processor), {used >> 10} MiB of its own"
    )
    assert made.facts()["sources"][0]["rows_visited"] == QUERIES // 2
    assert opened + hashed < 30
    assert used < 1 << 20
