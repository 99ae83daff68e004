"""Shards that are opened by path and asked in batches: exact search, and the compressed index."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from late_pools import passages, queries, store

from m2kr.errors import CheckError, M2KRError, MissingError, UsageError
from m2kr.search.late import compressed, exact
from m2kr.search.late.compressed import CompressedIndex, SearchSettings
from m2kr.search.late.index import kmeans
from m2kr.search.late.index.build import BuildSettings, build, pool_of
from m2kr.search.late.index.files import IndexFiles
from m2kr.search.late.sharded import groups as sharded_groups
from m2kr.search.late.sharded import index as sharded_index
from m2kr.search.late.sharded import owners as sharded_owners
from m2kr.search.late.sharded.owners import Local
from m2kr.search.late.store import TokenStore
from m2kr.search.late.store_writer import TokenWriter
from m2kr.search.topk import id_ranks

PASSAGES = 700


@pytest.fixture(scope="module")
def pool() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    found = passages(rng, [*rng.integers(1, 14, PASSAGES - 3).tolist(), 0, 0, 1])
    for number in range(0, PASSAGES, 40):  # ties between far shards
        found[number] = found[PASSAGES - 1 - number]
    return found


@pytest.fixture(scope="module")
def asked(pool: list[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [*queries(rng, pool, 9), np.zeros((3, 32), np.float32)]


@pytest.fixture(scope="module")
def tokens(pool: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Some ids occur twice, far apart."""
    names = [f"p{number % (PASSAGES - 20):04}" for number in range(PASSAGES)]
    return store(tmp_path_factory.mktemp("store"), pool, names)


@pytest.fixture(scope="module")
def index(tokens: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> IndexFiles:
    folder = tmp_path_factory.mktemp("index")
    build(pool_of(tokens), folder, BuildSettings(centroids=128), shard_passages=110)
    return IndexFiles.open(folder)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_owners_find_what_exact_search_finds(
    tokens: TokenStore, asked: list[np.ndarray], count: int
) -> None:
    shards = sharded_owners.store_shards(tokens, count, threads=1)
    assert len(shards) == count
    found = sharded_owners.search(Local(shards), asked, 30, id_ranks(tokens.ids()), batch=4)
    numbers, scores, _ = exact.search(asked, tokens, 30)
    assert found[0].tolist() == numbers.tolist()
    assert found[1].tobytes() == scores.tobytes()


def test_more_shards_than_passages_and_no_queries(tmp_path: Path) -> None:
    small = store(tmp_path, passages(np.random.default_rng(3), [2, 4]))
    shards = sharded_owners.store_shards(small, 9)
    assert len(shards) == 2
    numbers, scores = sharded_owners.search(Local(shards), [], 5, id_ranks(small.ids()))
    assert numbers.shape == scores.shape == (0, 2)


WIDTHS = [
    SearchSettings(8, 60, 12),
    SearchSettings(3, 200, 25),
    SearchSettings(8, 30, 30),  # the second step is skipped
    SearchSettings(8, 5000, 20),  # the first
    SearchSettings(8, 5000, 5000),  # both
]


@pytest.mark.parametrize("widths", WIDTHS, ids=lambda each: f"{each.candidates}-{each.scored}")
@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("stored", [False, True])
def test_an_index_in_shards_finds_what_the_whole_one_finds(
    index: IndexFiles,
    tokens: TokenStore,
    asked: list[np.ndarray],
    widths: SearchSettings,
    count: int,
    stored: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharded_index, "LOOKS", 4 * 3 * 128 * 128)  # batches of four queries
    folder = tokens.folder if stored else None
    shards = sharded_groups.index_shards(index, count, store=folder, threads=1)
    assert len(shards) == min(count, 7)
    numbers, scores, used = sharded_index.search(
        Local(shards), shards, index, asked, 10, settings=widths
    )
    assert used.scored >= 10
    right, bits, _ = compressed.search(
        asked, CompressedIndex(index), 10, settings=widths, store=tokens if stored else None
    )
    assert numbers.tolist() == right.tolist()
    assert scores.tobytes() == bits.tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_choosing_depends_on_no_other_passage(
    index: IndexFiles,
    asked: list[np.ndarray],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shards choose as one does in either arithmetic, whichever is this machine's."""
    monkeypatch.setattr(kmeans, "product_dtype", lambda: dtype)
    widths = SearchSettings(8, 300, 20)
    shards = sharded_groups.index_shards(index, 7, threads=1)
    owners = Local(shards)
    assert owners.call("arithmetic", [()] * len(owners)) == [str(dtype)] * len(owners)
    found = sharded_index.search(owners, shards, index, asked, 20, settings=widths)
    right = compressed.search(asked, CompressedIndex(index), 20, settings=widths)
    assert found[0].tolist() == right[0].tolist()
    assert found[1].tobytes() == right[1].tobytes()


def test_another_store_or_index_is_refused(
    tokens: TokenStore, index: IndexFiles, pool: list[np.ndarray], tmp_path: Path
) -> None:
    shutil.copytree(tokens.folder, tmp_path / "copy")
    copied = TokenStore.open(tmp_path / "copy")
    shards = sharded_owners.store_shards(copied, 2)
    assert shards[0].fingerprint == sharded_owners.store_shards(tokens, 2)[0].fingerprint
    with TokenWriter(copied.folder, dim=32, meta=dict(copied.meta)) as writer:
        writer.append(["new"], [pool[0]])
    with pytest.raises(CheckError, match="another store or index"):
        Local(shards)
    shutil.rmtree(copied.folder)
    with pytest.raises(MissingError, match="no token store"):
        Local(shards)
    with pytest.raises(UsageError, match="other passages"):
        Local(sharded_groups.index_shards(index, 2, store=store(tmp_path / "x", pool[:9]).folder))


def test_machines_of_two_kinds_are_refused(index: IndexFiles, asked: list[np.ndarray]) -> None:
    shards = sharded_groups.index_shards(index, 2)

    class Mixed(Local):
        def call(self, method, arguments):  # type: ignore[no-untyped-def]
            return ["torch.bfloat16", "torch.float32"]

    with pytest.raises(M2KRError, match="multiply in"):
        sharded_index.search(Mixed(shards), shards, index, asked, 5)
