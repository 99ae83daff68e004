"""Dense search with faiss: what it proposes, exact search's scores decide."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import InputError, UsageError
from m2kr.search import dense
from m2kr.search.dense_faiss import FaissIndex

pytest.importorskip("faiss", reason="faiss is not installed: pip install 'm2kr[faiss]'")


def corpus(seed: int, passages: int, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(12, dim)).astype(np.float32),
        rng.normal(size=(passages, dim)).astype(np.float32),
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    passages=st.integers(1, 200),
    k=st.integers(1, 60),
    similarity=st.sampled_from(["dot", "cosine"]),
    twins=st.booleans(),
)
def test_a_flat_index_gives_what_exact_search_gives(
    seed: int, passages: int, k: int, similarity: str, twins: bool
) -> None:
    queries, pool = corpus(seed, passages)
    ranks = np.random.default_rng(seed).permutation(passages)
    if twins:
        pool[passages // 2 :] = pool[: passages - passages // 2]
        ranks[passages // 2 :] = ranks[: passages - passages // 2]
        ranks = np.unique(ranks, return_inverse=True)[1]
    index = FaissIndex(pool, factory="Flat", similarity=similarity, memory=4096)
    found = index.search(queries, k, ranks)
    right = dense.search(queries, pool, k, ranks, similarity=similarity)
    if not twins:
        assert found[0].tolist() == right[0].tolist()
        assert found[1].tolist() == right[1].tolist()
    assert found[1][:, 0].tolist() == right[1][:, 0].tolist()


@pytest.mark.parametrize("factory", ["HNSW16", "IVF32,Flat", "IVF32,SQ8"])
def test_approximate_indexes_find_most_and_score_it_exactly(factory: str) -> None:
    queries, pool = corpus(7, 3000)
    ranks = np.arange(3000)
    index = FaissIndex(pool, factory=factory, effort=None if factory == "HNSW16" else 8)
    numbers, scores = index.search(queries, 10, ranks)
    right, _ = dense.search(queries, pool, 10, ranks)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(numbers, right, strict=True)]
    assert np.mean(shared) >= 5
    for query, row, values in zip(queries, numbers, scores, strict=True):
        same = dense.pair_scores(np.broadcast_to(query, (10, 16)), pool[row])
        assert values.tolist() == same.tolist()
        assert sorted(values, reverse=True) == values.tolist()


def test_more_effort_finds_more() -> None:
    queries, pool = corpus(3, 3000)
    right, _ = dense.search(queries, pool, 10, np.arange(3000))
    shares = []
    for effort in (1, 64):
        index = FaissIndex(pool, factory="IVF64,Flat", effort=effort)
        assert index.settings["effort"] == effort
        found, _ = index.search(queries, 10, np.arange(3000))
        shares.append(
            np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, right, strict=True)])
        )
    assert shares[0] < shares[1] == 10


def test_the_same_seed_gives_the_same_results() -> None:
    queries, pool = corpus(5, 2000)
    found = [
        FaissIndex(pool, factory="IVF16,PQ4x4", seed=1).search(queries, 5, np.arange(2000))[0]
        for _ in range(2)
    ]
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factory": "Nonsense8"}, "makes no index of 'Nonsense8'"),
        ({"factory": "IVF4096,Flat"}, "can't train"),
        ({"factory": "Flat", "effort": 3}, "knows no effort"),
        ({"similarity": "angle"}, "no similarity"),
    ],
)
def test_what_faiss_cannot_do_is_told(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FaissIndex(corpus(1, 100)[1], **options)


def test_a_vector_that_is_no_number_is_refused() -> None:
    pool = corpus(1, 50)[1]
    pool[3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        FaissIndex(pool)


def test_without_faiss_the_command_to_install_it_is_told() -> None:
    code = """
import sys
sys.modules["faiss"] = None
import numpy as np
from m2kr.errors import MissingError
from m2kr.search.dense_faiss import FaissIndex
try:
    FaissIndex(np.ones((3, 4), np.float32))
except MissingError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'm2kr[faiss]'" in done.stdout
