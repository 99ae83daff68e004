import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr import ranking
from m2kr.errors import InputError, UsageError
from m2kr.ranking import id_ranks
from m2kr.search.exact import dense


def naive(queries, passages, ranks, k, similarity="dot"):
    """Pair by pair, no blocks, no float32: score descending, rank ascending."""
    found = []
    for query in queries:
        scores = []
        for passage in passages:
            score = dense.pair_scores(query[None], passage[None])[0]
            if similarity == "cosine":
                scale = dense.lengths(query[None])[0] * dense.lengths(passage[None])[0]
                score = score / scale if scale else 0.0
            scores.append(score)
        best = {}
        for row in sorted(range(len(passages)), key=lambda r: (-scores[r], ranks[r], r)):
            best.setdefault(ranks[row], (row, scores[row]))
        found.append(list(best.values())[:k])
    return found


vectors = st.sampled_from([-2.0, -1.0, 0.0, 1e-3, 1.0, 1.0 + 2**-20, 3.0, 1e-30])


@st.composite
def problems(draw):
    dim = draw(st.integers(1, 5))
    rows = st.lists(vectors, min_size=dim, max_size=dim)
    passages = draw(st.lists(rows, min_size=1, max_size=20))
    queries = draw(st.lists(rows, min_size=1, max_size=4))
    ranks = draw(st.lists(st.integers(0, 25), min_size=len(passages), max_size=len(passages)))
    _, ranks = np.unique(ranks, return_inverse=True)
    return np.array(queries, np.float32), np.array(passages, np.float32), ranks


@pytest.fixture(autouse=True, scope="module")
def sort_often():
    """Small problems would never fill the buffer; so let the known floor matter in them too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_SPARE_PAIRS", 1)
        yield


@settings(max_examples=150, deadline=None)
@given(
    problem=problems(),
    k=st.integers(1, 8),
    similarity=st.sampled_from(["dot", "cosine"]),
    memory=st.sampled_from([1, 500, 3000, 1 << 20]),
)
def test_equals_the_pairwise_search_whatever_the_blocks(problem, k, similarity, memory):
    queries, passages, ranks = problem
    rows, scores = dense.search_dense(
        queries, passages, k, ranks, similarity=similarity, memory=memory
    )
    for query, expected in enumerate(naive(queries, passages, ranks, k, similarity)):
        # A zero query ties with everything; of rows that share an id the first is given.
        assert rows[query].tolist() == [row for row, _ in expected]
        assert scores[query].tolist() == [score for _, score in expected]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    memory=st.sampled_from([20_000, 60_000, 200_000, 1 << 22, 1 << 28]),
    similarity=st.sampled_from(["dot", "cosine"]),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_ids_order_and_bits_do_not_depend_on_the_blocks(seed, memory, similarity, dtype):
    rng = np.random.default_rng(seed)
    # Near-copies whose float32 products differ in the last bits only, and true copies.
    base = rng.normal(size=(40, 96))
    passages = np.repeat(base, 20, 0) * (1 + 1e-7 * rng.integers(0, 3, (800, 1)))
    passages = rng.permutation(passages).astype(dtype)
    queries, ranks = rng.normal(size=(7, 96)).astype(dtype), rng.permutation(800)
    one = dense.search_dense(queries, passages, 30, ranks, similarity=similarity)
    other = dense.search_dense(queries, passages, 30, ranks, similarity=similarity, memory=memory)
    assert one[0].tolist() == other[0].tolist()
    assert one[1].tobytes() == other[1].tobytes()


def test_a_row_scores_the_same_wherever_it_lies():
    rng = np.random.default_rng(0)
    queries, passages = rng.normal(size=(2, 3, 77)).astype(np.float32)
    apart = [dense.pair_scores(q[None], p[None])[0] for q, p in zip(queries, passages, strict=True)]
    many = dense.pair_scores(np.tile(queries, (500, 1)), np.tile(passages, (500, 1)))
    assert many.tolist() == apart * 500


def test_canonical_scores_are_right():
    rng = np.random.default_rng(1)
    queries, passages = rng.normal(size=(2, 50, 129)).astype(np.float32)
    exact = (queries.astype(np.longdouble) * passages.astype(np.longdouble)).sum(1)
    assert np.allclose(
        dense.pair_scores(queries, passages), exact.astype(float), rtol=0, atol=1e-13
    )


def test_zero_queries_follow_the_tie_rule_and_zero_passages_score_zero():
    ranks = id_ranks(pa.array(["d", "a", "c", "b"]))
    passages = np.array([[1, 0], [0, 0], [-1, 0], [0, 0]], np.float32)
    queries = np.array([[0, 0], [1, 0]], np.float32)
    for similarity in ("dot", "cosine"):
        rows, scores = dense.search_dense(queries, passages, 3, ranks, similarity=similarity)
        assert rows.tolist() == [[1, 3, 2], [0, 1, 3]]
        assert scores.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_a_pool_of_one_text_is_ranked_by_id():
    passages = np.tile(np.random.default_rng(2).normal(size=(1, 33)), (5000, 1)).astype(np.float32)
    ranks = np.random.default_rng(3).permutation(5000)
    rows, scores = dense.search_dense(passages[:2], passages, 10, ranks, memory=100_000)
    assert ranks[rows].tolist() == [list(range(10))] * 2
    assert len(np.unique(scores)) == 1


def test_k_beyond_the_pool_gives_the_pool():
    passages = np.eye(3, dtype=np.float32)
    rows, _ = dense.search_dense(passages[:1], passages, 500, np.arange(3))
    assert rows.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_bad_vectors_are_refused(bad):
    passages = np.array([[1.0, 0.0], [bad, 0.0]], np.float32)
    with pytest.raises(InputError, match="passage vector"):
        dense.search_dense(np.ones((1, 2), np.float32), passages, 1, np.arange(2))


def test_an_unknown_similarity_is_refused():
    one = np.ones((1, 2), np.float32)
    with pytest.raises(UsageError, match="euclid"):
        dense.search_dense(one, one, 1, np.arange(1), similarity="euclid")


def test_memory_is_bounded(tmp_path):
    """200,000 x 64 floats (51 MB) searched with a budget of 24 MB: measured in a fresh process."""
    code = f"""
        import numpy as np
        from m2kr.evaluation.result import peak_memory
        from m2kr.search.exact import dense
        path = {str(tmp_path / "pool.npy")!r}
        pool = np.lib.format.open_memmap(path, "w+", np.float32, (200_000, 64))
        rng = np.random.default_rng(0)
        for at in range(0, 200_000, 10_000):
            pool[at:at + 10_000] = rng.normal(size=(10_000, 64))
        pool.flush(); del pool
        pool, ranks = np.load(path, mmap_mode="r"), np.arange(200_000)
        queries = rng.normal(size=(300, 64)).astype(np.float32)
        dense.search_dense(queries[:1], pool, 100, ranks, memory=1 << 20)  # maps the pool, warms BLAS
        before = peak_memory()
        rows, scores = dense.search_dense(queries, pool, 100, ranks, memory=24 << 20)
        after = peak_memory()
        exact = queries[:3].astype(float) @ pool.T.astype(float)
        assert (np.argsort(-exact, 1)[:, :100] == rows[:3]).all()
        print(after - before)
    """
    grown = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert int(grown.stdout) < 64 << 20
