"""One small pool, its token store and an index of each kind."""

from pathlib import Path

import numpy as np
import pytest
from support.token_pools import passages, queries, store

from m2kr.search.index import official_train
from m2kr.search.index.build import build_index
from m2kr.search.index.settings import BuildSettings, pool_of
from m2kr.search.store.reader import TokenStore

LENGTHS = [*np.random.default_rng(4).integers(1, 14, 397).tolist(), 0, 0, 1]
SMALL = BuildSettings(centroids=128)


@pytest.fixture(scope="session")
def matrices() -> list[np.ndarray]:
    return passages(np.random.default_rng(1), LENGTHS)


@pytest.fixture(scope="session")
def asked(matrices: list[np.ndarray]) -> list[np.ndarray]:
    return queries(np.random.default_rng(2), matrices, 12)


@pytest.fixture(scope="session")
def token_store(matrices: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return store(tmp_path_factory.mktemp("store"), matrices)


@pytest.fixture(scope="session")
def index_folder(token_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of our kind, in three shards; not to be changed."""
    folder = tmp_path_factory.mktemp("index")
    build_index(pool_of(token_store), folder, SMALL, shard_passages=150)
    return folder


@pytest.fixture(scope="session")
def official_folder(token_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the official kind; not to be changed."""
    folder = tmp_path_factory.mktemp("official")
    build_index(
        pool_of(token_store), folder, official_train.official_build_settings(seed=1, centroids=128)
    )
    return folder
