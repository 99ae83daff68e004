"""Exact search gives what the reference gives, to the bit: on hostile pools, on every path."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import token_corpora
from support.progress import Recorder

from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.search import devices
from m2kr.search.exact import blocks, choose, cpu_fused, passes, reference, search
from m2kr.search.exact.reference import EMPTY
from m2kr.search.store.mapped import file_of
from m2kr.search.store.reader import ArraySource
from m2kr.search.store.writer import TokenWriter

FUSED = [("fused-int8",), ("fused-int16",), ("fused-int8", "fused-int16")]
PATHS = [
    *(FUSED if cpu_fused.kernel() else []),
    ("bf16",),
    ("int8",),
    ("int8", "bf16"),
    ("float32",),
]


def flat(pool, dim=token_corpora.DIM):
    offsets = np.cumsum([0, *map(len, pool)])
    return ArraySource(np.concatenate([np.zeros((0, dim), np.float16), *pool]), offsets)


def same(queries, pool, k, ranks=None, **options):
    """Searches both ways, compares bits, gives what was found."""
    source = flat(pool)
    ranks = np.arange(len(pool)) if ranks is None else ranks
    numbers, scores, stats = search.search_exactly(queries, source, k, ranks, threads=2, **options)
    right = reference.search_by_reference(queries, source.vectors, source.offsets, k, ranks)
    assert numbers.tolist() == right[0].tolist()
    assert scores.tobytes() == right[1].tobytes()
    return numbers, scores, stats


@pytest.mark.parametrize("names", PATHS, ids="+".join)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(token_corpora.KINDS),
    count=st.integers(1, 60),
    longest=st.sampled_from([1, 3, 12, 40]),
    k=st.sampled_from([1, 5, 20, 100]),
    block=st.sampled_from([64, 300, 4096]),
)
def test_equals_the_reference_on_hostile_pools(names, seed, kind, count, longest, k, block):
    rng = np.random.default_rng(seed)
    pool, ranks, queries = token_corpora.hostile(rng, kind, count, longest)
    with pytest.MonkeyPatch.context() as patch:
        # Small blocks and tiles, so that a small pool has many.
        patch.setattr(search, "TILE_TOKENS", block)
        patch.setattr(blocks, "TILE_TOKENS", max(block // 4, 1))
        patch.setattr(blocks, "GROUP_ROWS", 12)
        same(queries, pool, k, ranks, passes=names, memory=1)


@pytest.mark.parametrize("names", PATHS, ids="+".join)
def test_equals_the_reference_at_128_dimensions_and_512_tokens(names):
    rng = np.random.default_rng(1)
    pool = [
        token_corpora.unit(rng.normal(size=(n, 128))).astype(np.float16)
        for n in [*rng.integers(1, 60, 150), 512, 300, 511]
    ]
    queries = [
        token_corpora.unit(rng.normal(size=(n, 128))).astype(np.float32) for n in (1, 32, 70)
    ]
    queries[1][:20] = pool[-1][:20]
    source = flat(pool, 128)
    ranks = rng.permutation(len(pool))
    numbers, scores, stats = search.search_exactly(
        queries, source, 10, ranks, passes=names, threads=2
    )
    right = reference.search_by_reference(queries, source.vectors, source.offsets, 10, ranks)
    assert numbers.tolist() == right[0].tolist()
    assert scores.tobytes() == right[1].tobytes()
    assert 10 * len(queries) <= stats.scored < stats.pairs


def test_more_than_there_is_gives_all_and_empty_passages_come_last():
    rng = np.random.default_rng(2)
    pool = token_corpora.negative(rng, [3, 0, 2, 0])
    numbers, scores, _ = same([np.ones((2, token_corpora.DIM))], pool, 9, passes=("bf16",))
    assert numbers.shape == (1, 4)
    assert numbers[0, 2:].tolist() == [1, 3]
    assert scores[0, 2:].tolist() == [2 * EMPTY, 2 * EMPTY]


def test_queries_that_are_all_masked_rank_by_id():
    rng = np.random.default_rng(3)
    pool = token_corpora.ordinary(rng, [3, 2, 4])
    blank, one = np.zeros((2, token_corpora.DIM)), np.ones((1, token_corpora.DIM))
    numbers, scores, _ = same([blank, one, blank[:0]], pool, 2, np.array([2, 0, 1]))
    assert numbers[[0, 2]].tolist() == [[1, 2], [1, 2]]
    assert scores[[0, 2]].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("queries", "pool"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_do_is_done(queries, pool):
    rng = np.random.default_rng(4)
    rows = [np.ones((2, token_corpora.DIM))] * queries
    numbers, scores, _ = search.search_exactly(
        rows, flat(token_corpora.ordinary(rng, [2] * pool)), 2, np.arange(pool)
    )
    assert numbers.shape == scores.shape == (queries, min(2, pool))


def test_a_store_is_searched_by_its_ids_and_equals_the_array(tmp_path):
    rng = np.random.default_rng(5)
    pool = token_corpora.duplicates(rng, rng.integers(1, 9, 40))
    ids = [f"p{i}" for i in rng.permutation(40)]
    with TokenWriter(tmp_path, dim=token_corpora.DIM, shard_bytes=700) as writer:
        writer.append(ids, pool)
        store = writer.close()
    queries = token_corpora.queries(rng, pool, 4)
    numbers, scores, stats = search.search_exactly(queries, store, 7)
    ranks = np.argsort(np.argsort(ids))
    right = reference.search_by_reference(queries, flat(pool).vectors, flat(pool).offsets, 7, ranks)
    assert numbers.tolist() == right[0].tolist()
    assert scores.tobytes() == right[1].tobytes()
    assert stats.bytes_read >= store.tokens * store.dim


def test_a_flipped_byte_is_never_scored(tmp_path):
    rng = np.random.default_rng(6)
    with TokenWriter(tmp_path, dim=token_corpora.DIM) as writer:
        writer.append(list("abcdef"), token_corpora.ordinary(rng, [3] * 6))
        store = writer.close()
    path = tmp_path / "tokens-00000.f16"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckError, match="passage 1 differs"):
        search.search_exactly([np.ones((1, token_corpora.DIM))], store, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("names", PATHS, ids="+".join)
def test_values_that_are_not_finite_are_refused(value, names):
    pool = token_corpora.ordinary(np.random.default_rng(7), [3, 3, 2])
    query = np.ones((2, token_corpora.DIM), np.float32)
    with pytest.raises(InputError, match="query 1"):
        search.search_exactly([query, query * value], flat(pool), 1, np.arange(3))
    pool[1][2, 5] = value
    with pytest.raises(InputError, match="passage 1: "):
        search.search_exactly([query], flat(pool), 1, np.arange(3), passes=names)


def test_calls_that_make_no_sense_are_refused():
    source = flat(token_corpora.ordinary(np.random.default_rng(8), [3, 3]))
    query, ranks = [np.ones((1, token_corpora.DIM))], np.arange(2)
    for options in ({"passes": ["fp8"]}, {"device": "abacus"}, {"passes": []}):
        with pytest.raises(UsageError):
            search.search_exactly(query, source, 1, ranks, **options)
    with pytest.raises(UsageError, match="k is 0"):
        search.search_exactly(query, source, 0, ranks)
    with pytest.raises(UsageError, match="ranks"):
        search.search_exactly(query, source, 1)
    with pytest.raises(InputError, match="query 0"):
        search.search_exactly([np.ones((1, 3))], source, 1, ranks)


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingError, match="torch"):
        search.search_exactly([], flat([]), 1, np.arange(0))


def test_a_memory_mapped_array_is_read_from_its_file(tmp_path):
    rng = np.random.default_rng(9)
    pool = token_corpora.ordinary(rng, rng.integers(0, 9, 30))
    source = flat(pool)
    np.save(tmp_path / "vectors.npy", source.vectors)
    mapped = ArraySource(np.load(tmp_path / "vectors.npy", mmap_mode="r"), source.offsets)
    assert file_of(mapped.vectors) is not None
    assert mapped.read(3, 20).tolist() == source.read(3, 20).tolist()
    part = ArraySource(mapped.vectors[source.offsets[2] :], source.offsets[2:] - source.offsets[2])
    assert file_of(part.vectors) is None
    assert part.read(1, 18).tolist() == source.read(3, 20).tolist()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_settings_of_the_process_do_not_matter_and_stay(threads):
    rng = np.random.default_rng(10)
    pool = token_corpora.near_ties(rng, [6] * 50)
    queries, source = token_corpora.queries(rng, pool, 6), flat(pool)
    right = reference.search_by_reference(queries, source.vectors, source.offsets, 9, np.arange(50))
    before = torch.get_num_threads()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            numbers, scores, _ = search.search_exactly(
                queries, source, 9, np.arange(50), threads=threads, passes=("float32",)
            )
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.get_num_threads() == before
    assert numbers.tolist() == right[0].tolist()
    assert scores.tobytes() == right[1].tobytes()


def test_progress_counts_every_pair_once(monkeypatch):
    monkeypatch.setattr(search, "TILE_TOKENS", 30)
    rng = np.random.default_rng(11)
    pool, told = token_corpora.ordinary(rng, [7] * 20), Recorder()
    queries = [np.ones((1, token_corpora.DIM))] * 3
    _, _, stats = search.search_exactly(
        queries, flat(pool), 2, np.arange(20), memory=1, progress=told
    )
    assert told.calls[0] == ("start", "exact search", 60)
    assert told.advanced() == stats.pairs == 60
    assert len([1 for what, _, _ in told.calls if what == "advance"]) > 3
    assert told.calls[-1] == ("done", "exact search", 0)


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_the_time_is_estimated_once_after_the_first_of_several_blocks(monkeypatch, device):
    pool = token_corpora.ordinary(np.random.default_rng(5), [4] * 60)
    queries, ranks = [np.ones((2, token_corpora.DIM))], np.arange(60)
    told, options = [], {"device": device, "memory": 1, "check_seconds": lambda s: told.append(s)}
    right = devices.search_devices(queries, flat(pool), 5, ranks, **options)[0]
    assert told == []  # one block a device: it is done before anything is known
    monkeypatch.setattr(search, "TILE_TOKENS", 40)
    assert (
        devices.search_devices(queries, flat(pool), 5, ranks, **options)[0].tolist()
        == right.tolist()
    )
    assert len(told) == device.count("cpu")
    assert all(seconds > 0 for seconds in told)
    # Empty passages first: nothing to divide by.
    devices.search_devices(queries, flat([pool[0][:0]] * 30 + pool), 5, np.arange(90), **options)

    def stop(seconds):
        raise UsageError("too long")

    with pytest.raises(UsageError, match="too long"):
        devices.search_devices(queries, flat(pool), 5, ranks, **options | {"check_seconds": stop})


@pytest.mark.parametrize("failure", ["gone", "wrong"])
def test_a_pass_that_fails_its_trial_is_replaced_and_results_stay(monkeypatch, failure):
    """``torch._int_mm`` is private: it may vanish, or give something else."""

    def wrong(left, right, *, out):
        out.copy_(left.float() @ right.float() * 0.98)

    monkeypatch.setenv("M2KR_KERNEL", "torch")
    if failure == "gone":
        monkeypatch.delattr(torch, "_int_mm")
    else:
        monkeypatch.setattr(torch, "_int_mm", wrong)
    assert not choose.pass_works("int8", "cpu")
    assert choose.pass_works("float32", "cpu")
    choose.pipeline.cache_clear()
    try:
        rng = np.random.default_rng(12)
        pool = token_corpora.ordinary(rng, rng.integers(1, 9, 60))
        _, _, stats = same(token_corpora.queries(rng, pool, 5), pool, 8)
        assert "int8" not in stats.passes
    finally:
        choose.pipeline.cache_clear()


def test_a_float32_that_is_not_one_stops_the_search(monkeypatch):
    class Rough(passes.Pass):
        def widen(self, maxima):
            return maxima.bfloat16().float() * 0.99

    monkeypatch.setitem(passes.PASSES, "float32", Rough())
    choose.pipeline.cache_clear()
    try:
        with pytest.raises(CheckError, match="float32 products on cpu are wrong"):
            choose.pipeline("cpu")
    finally:
        choose.pipeline.cache_clear()


def test_little_is_left_for_the_canonical_scorer():
    """With unit vectors of 128 dimensions, few of 1,000 passages reach the canonical scorer."""
    rng = np.random.default_rng(13)
    pool = [token_corpora.unit(rng.normal(size=(20, 128))).astype(np.float16) for _ in range(1000)]
    queries = [token_corpora.unit(rng.normal(size=(32, 128))) for _ in range(4)]
    left = {}
    for names in PATHS:
        _, _, stats = search.search_exactly(
            queries, flat(pool, 128), 5, np.arange(1000), passes=names
        )
        left[names] = stats.left[names[0]] / 4
        # The kernel has no last pass in float32.
        assert stats.scored / 4 <= (8 if names[0] in passes.PASSES else 250)
    assert left["float32",] <= left["bf16",] <= left["int8",] < 1000
