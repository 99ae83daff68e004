"""Plans: bytes against stores and indexes really written, and counts."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.errors import UsageError
from m2kr.search.index.build import build_index
from m2kr.search.index.kmeans import Training
from m2kr.search.index.settings import BuildSettings, pool_of
from m2kr.search.plan import PoolSize, index_bytes, parse_count, plan_pool, store_bytes
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.writer import TokenWriter

SHAPES = [(400, 20, 32), (150, 70, 128)]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A store, and what was to be known before it was written."""
    passages, tokens, dim = request.param
    folder = tmp_path_factory.mktemp("plan")
    rng = np.random.default_rng(5)
    lengths = rng.integers(tokens // 2, tokens * 3 // 2, passages)
    ids = [f"passage/{number}" for number in range(passages)]
    with TokenWriter(folder / "store", dim=dim, meta={"checkpoint": "ab" * 32}) as writer:
        writer.append(ids, [rng.normal(size=(n, dim)) for n in lengths])
    mean = sum(map(len, ids)) / passages
    return folder, PoolSize(passages, float(lengths.mean()), dim, mean)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != ".lock")


def test_bytes_of_a_store(real) -> None:
    folder, pool = real
    assert TokenStore.open(folder / "store").tokens == pool.all_tokens
    assert store_bytes(pool) == pytest.approx(size(folder / "store"), rel=0.002)


@pytest.mark.parametrize("nbits", [2, 4, 8])
def test_bytes_of_an_index(real, nbits: int) -> None:
    folder, pool = real
    settings = BuildSettings("compressed", nbits, training=Training(iterations=1))
    source = pool_of(TokenStore.open(folder / "store"))
    files = build_index(source, folder / f"index{nbits}", settings)
    planned = plan_pool(pool)
    assert files.header.centroids == planned.centroids
    found = size(folder / f"index{nbits}")
    # At most that; less by what tokens of a passage share a centroid.
    assert found <= planned.index_bytes[nbits] * 1.001
    assert found >= planned.index_bytes[nbits] - 2 * pool.all_tokens - 2000


def test_a_plan_loads_no_torch() -> None:
    import subprocess

    script = (
        "import sys; from m2kr.search.plan import *;"
        "print(plan_pool(PoolSize(8_800_000, 80)).store_bytes);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == pytest.approx(180.3e9, rel=0.005)  # 8.8 M x 80 x 128 x 2, and ids


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8.8M", 8_800_000), ("400k", 400_000), ("12500", 12_500), ("1_000", 1000), ("12,500", 12_500),
        ("1.5B", 1_500_000_000), (" 0.5m ", 500_000), ("2.675K", 2675),
    ],
)  # fmt: skip
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    ["", "0", "-3", "1.5", "0.0001k", "k", "8.8 M", "1e6", "nan", "8..8M", "٣", "9" * 30, "5T"],
)
def test_no_counts(text: str) -> None:
    with pytest.raises(UsageError, match="no count"):
        parse_count(text)


@given(count=st.integers(1, 10**12), factor=st.sampled_from(["", "k", "M", "B"]))
def test_counts_are_exact(count: int, factor: str) -> None:
    digits = {"": 0, "k": 3, "M": 6, "B": 9}[factor]
    whole, part = divmod(count, 10**digits)
    text = f"{whole}.{part:0{digits}}{factor}" if digits else str(count)
    assert parse_count(text) == count


@given(text=st.text(max_size=12))
def test_any_text_is_a_count_or_refused(text: str) -> None:
    try:
        assert 1 <= parse_count(text) <= 10**12
    except UsageError as error:
        assert error.expected


@pytest.mark.parametrize(
    "wrong",
    [(0, 80, 128), (10, 0, 128), (10, 80, 0), (10, float("nan"), 128), (10, float("inf"), 128)],
)
def test_pools_that_make_no_sense(wrong: tuple[int, float, int]) -> None:
    with pytest.raises(UsageError, match="more than 0"):
        PoolSize(*wrong)
    with pytest.raises(UsageError, match="10\\^12 tokens"):
        PoolSize(10**11, 80)


def test_bits_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="5 bits"):
        index_bytes(PoolSize(10, 10), 5)
    assert set(plan_pool(PoolSize(10, 10, 2)).index_bytes) == {4, 8}
