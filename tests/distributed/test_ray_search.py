"""Search on simulated nodes finds what one process finds, whatever dies."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from support.token_pools import passages, queries, store

from m2kr.errors import CheckError, MissingError
from m2kr.ranking import id_ranks
from m2kr.search import shards
from m2kr.search.devices import StoreRange, search_store_range
from m2kr.search.exact import search
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.writer import TokenWriter

PROGRAM = Path(__file__).with_name("ray_search_cluster.py")
TESTS = Path(__file__).parent.parent


def pieces_of(tokens: TokenStore, count: int, k: int = 30) -> list[StoreRange]:
    told = shards.fingerprint_of(tokens)
    spans = shards.ranges_of(tokens, count)
    return [StoreRange(tokens.folder, told, span, k, 1, "cpu") for span in spans]


@pytest.mark.parametrize("count", [1, 3, 8, 60])
def test_what_the_nodes_find_is_what_exact_search_finds(tmp_path: Path, count: int) -> None:
    """Empty and equal passages, ids that occur twice, and a query without rows among them."""
    rng = np.random.default_rng(1)
    pool = passages(rng, [*rng.integers(1, 14, 47).tolist(), 0, 0, 1])
    pool[3] = pool[45]
    tokens = store(tmp_path / "store", pool, [f"p{number % 40:04}" for number in range(50)])
    rows = [*queries(rng, pool, 9), np.zeros((3, 32), np.float32)]
    parts = [search_store_range(piece, rows) for piece in pieces_of(tokens, count)]
    numbers, scores = shards.merge_results(parts, 30, id_ranks(tokens.ids()))
    right, bits, _ = search.search_exactly(rows, tokens, 30)
    assert numbers.tolist() == right.tolist()
    assert scores.tobytes() == bits.tobytes()


def test_a_node_that_sees_another_store_is_refused(tmp_path: Path) -> None:
    pool = passages(np.random.default_rng(3), [2, 4, 3])
    tokens = store(tmp_path / "store", pool)
    piece = pieces_of(tokens, 2)[0]
    with TokenWriter(tokens.folder, dim=32, meta=dict(tokens.meta)) as writer:
        writer.append(["new"], [pool[0]])
    with pytest.raises(CheckError, match="another store"):
        search_store_range(piece, [])
    shutil.rmtree(tokens.folder)
    with pytest.raises(MissingError, match="no token store"):
        search_store_range(piece, [])


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
    (tmp_path / "marks").mkdir()
    done = subprocess.run(
        [
            *(sys.executable, PROGRAM, tokens.folder, asked.folder, tmp_path / "found.npz", "3"),
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
    # Three ranges were searched, and the one whose node died once more by another.
    assert told["killed in"] and told["moved"], told
    assert sorted(told["asked"].values()) == [1, 1, 2], told
    assert told["asked"][told["moved"][0]] == 2, told
    assert told["nodes"] == told["shards"] == 3, told
    assert "another store" in told["refused"]
    rows = asked.take(range(len(asked)))
    with np.load(tmp_path / "found.npz") as found:
        numbers, scores, _ = search.search_exactly(rows, tokens, 20)
        assert found["numbers"].tolist() == numbers.tolist()
        assert found["scores"].tobytes() == scores.tobytes()


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
