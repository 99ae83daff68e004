"""Hashing of shards beside their writing: the same in another process, and when that dies."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from m2kr import schema
from m2kr.building.hashing import ShardHasher, hash_shard
from m2kr.building.table import TableWriter
from m2kr.data.lookup import id_hash
from m2kr.fingerprint import pool_part


def write(folder: Path, rows: int, hasher: ShardHasher) -> list[Path]:
    cols = schema.columns("passages")
    writer = TableWriter(folder, cols, shard_rows=30, batch_rows=10, finished=hasher.add)
    writer.write_rows(
        {"passage_id": f"é{i}", "passage_content": "x" * (i % 7)} for i in range(rows)
    )
    return writer.close()


@pytest.mark.parametrize("rows", [0, 1, 29, 30, 31, 100])
def test_hashes_are_those_of_each_shard(tmp_path: Path, rows: int) -> None:
    hasher = ShardHasher()
    shards = write(tmp_path, rows, hasher)
    seen, alone = hasher.close(), [hash_shard(shard) for shard in shards]
    assert seen.facts == [each.facts for each in alone]
    assert [each.facts["file"] for each in alone] == [shard.name for shard in shards]
    ids = [f"é{i}" for i in range(rows)]
    assert seen.id_hashes().tolist() == [id_hash(i) for i in ids]
    whole = pa.table({"passage_id": ids, "passage_content": ["x" * (i % 7) for i in range(rows)]})
    whole = whole.cast(pa.schema([("passage_id", pa.string()), ("passage_content", pa.string())]))
    assert seen.fingerprint() == pool_part(whole)


def test_a_worker_that_dies_is_done_without(tmp_path: Path) -> None:
    hasher = ShardHasher()
    shards = write(tmp_path, 60, hasher)
    worker = hasher._worker
    if worker is None:
        pytest.skip("one core: nothing runs beside the writing")
    worker.kill()
    write(tmp_path / "more", 60, hasher)
    assert [facts["file"] for facts in hasher.close().facts] == [s.name for s in shards] * 2


@pytest.mark.slow
def test_a_script_without_a_main_guard_can_make_a_big_pool(tmp_path: Path) -> None:
    """What `multiprocessing` would run a second time."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys, m2kr\n"
        "from m2kr.building.table import TableWriter\n"
        "print('started', flush=True)\n"
        "TableWriter.__init__.__kwdefaults__['shard_rows'] = 10_000\n"
        "rows = ({'id': str(i), 'text': 'note'} for i in range(10_001))\n"
        "queries = [{'id': 'q', 'question': 'note?', 'positives': ['7']}]\n"
        "split = m2kr.from_records(rows, queries, data=sys.argv[1])\n"
        "print(len(split.passages), split.passage('10000')['passage_id'])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "data")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["started", "10001", "10000"]
