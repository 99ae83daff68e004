"""Search on simulated nodes finds what one process finds, whatever dies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from late_pools import passages, queries, store

from m2kr.search.late import compressed, exact
from m2kr.search.late.compressed import CompressedIndex, SearchSettings
from m2kr.search.late.index.build import BuildSettings, build, pool_of
from m2kr.search.late.index.files import IndexFiles

PROGRAM = Path(__file__).with_name("ray_search_cluster.py")
TESTS = Path(__file__).parent.parent


CLUSTERS = pytest.mark.skipif(sys.platform != "linux", reason="Ray's test clusters need Linux")


@pytest.mark.slow
@CLUSTERS
def test_nodes_that_die_change_no_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pool = passages(rng, rng.integers(1, 14, 600).tolist())
    pool[7], pool[450] = pool[590], pool[590]  # ties between shards
    tokens = store(tmp_path / "store", pool, [f"p{number % 580:04}" for number in range(600)])
    rows = queries(rng, pool, 8)
    asked = store(tmp_path / "queries", rows)
    build(pool_of(tokens), tmp_path / "index", BuildSettings(centroids=128), shard_passages=100)
    (tmp_path / "marks").mkdir()
    done = subprocess.run(
        [
            *(sys.executable, PROGRAM, tokens.folder, tmp_path / "index", asked.folder),
            *(tmp_path / "found.npz", "3"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ
        | {
            "PYTHONPATH": str(TESTS),
            "RAY_USAGE_STATS_ENABLED": "0",
            "MARKS": str(tmp_path / "marks"),
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    # Three shards answered two batches each, and the one that died was asked once more.
    assert told["killed in"] and told["moved"], told
    assert min(told["asked"].values()) == 2, told
    assert told["asked"][told["moved"][0]] == 3, told
    assert told["nodes"] == 3, told
    assert told["groups"] == 3
    assert "another store or index" in told["refused"]
    rows = asked.take(range(len(asked)))
    with np.load(tmp_path / "found.npz") as found:
        numbers, scores, _ = exact.search(rows, tokens, 20)
        assert found["numbers"].tolist() == numbers.tolist()
        assert found["scores"].tobytes() == scores.tobytes()
        index = CompressedIndex(IndexFiles.open(tmp_path / "index"))
        numbers, scores, _ = compressed.search(rows, index, 20, settings=SearchSettings(8, 90, 30))
        assert found["index_numbers"].tolist() == numbers.tolist()
        assert found["index_scores"].tobytes() == scores.tobytes()


@pytest.mark.slow
@CLUSTERS
def test_the_command_writes_the_same_run(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    pool = passages(rng, rng.integers(1, 9, 200).tolist())
    tokens, asked = store(tmp_path / "store", pool), store(tmp_path / "q", queries(rng, pool, 4))
    words = ("index", "search", tokens.folder, asked.folder, "-k", 10)
    cli(*words, "--out", tmp_path / "one.parquet")
    ray = ("--engine", "ray", "--address", "local", "--jobs", 2)
    told = json.loads(cli(*words, *ray, "--out", tmp_path / "ray.parquet", "--json").stdout)
    assert told["shards"] == 2
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    refused = cli(*words, *ray, "--device", "cuda", code=2).stderr
    assert "the cluster has 0" in refused
