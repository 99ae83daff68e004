"""The Triton kernels: on a GPU if there is one, else the same programs under Triton's interpreter."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import token_corpora

from m2kr.concurrency import workers
from m2kr.search.exact import (
    bounds,
    canonical,
    choose,
    gpu_fused,
    gpu_rounds,
    passes,
    reference,
    search,
)
from m2kr.search.exact.blocks import code_block
from m2kr.search.store.reader import ArraySource, Block

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if find_spec("triton") is None:
    pytest.skip("Triton isn't installed", allow_module_level=True)
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

SMALL = gpu_fused.TileShape(64, 16, 4, 2)


def checked(tokens, starts, lengths, asked, shape=SMALL):
    """Compares with exact sums within what `bounds` grants; gives the found ones."""
    queries, rows, dim = asked.shape
    found = gpu_fused.fused_maxsim(
        asked.view(-1, dim).to(DEVICE),
        queries,
        tokens.to(DEVICE),
        torch.as_tensor(starts).to(DEVICE),
        torch.as_tensor(lengths, dtype=torch.int32).to(DEVICE),
        shape,
    )
    found = found.cpu().double()
    assert found.shape == (queries, len(starts))
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        own = tokens[start : start + length].double()
        right = torch.matmul(asked.double(), own.T).amax(2).sum(1)
        big_a = asked.double().norm(dim=2).sum(1)
        spare = bounds.slack(dim, rows) * big_a * own.norm(dim=1).max()
        assert ((found[:, number] - right).abs() <= spare).all()
    return found


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(token_corpora.KINDS),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    gap=st.integers(0, 3),
    queries=st.integers(1, 4),
    parts=st.integers(1, 3),
)
def test_sums_of_maxima_for_any_lengths_places_and_rows(seed, kind, lengths, gap, queries, parts):
    rng = np.random.default_rng(seed)
    pool = kind(rng, np.array(lengths))
    spaced, starts = [], []
    for tokens in pool:
        # What lies between passages is none of theirs; it would be their maximum.
        spaced.append(np.full((gap, token_corpora.DIM), 60000, np.float16))
        starts.append(sum(map(len, spaced)))
        spaced.append(tokens)
    order = np.argsort([len(tokens) for tokens in pool], kind="stable")
    asked = rng.normal(size=(queries, parts * gpu_fused.PART, token_corpora.DIM)).astype(np.float16)
    asked[0, rng.integers(0, len(asked[0])) :] = 0
    checked(
        torch.from_numpy(np.concatenate(spaced)),
        np.array(starts)[order],
        np.array([len(tokens) for tokens in pool])[order],
        torch.from_numpy(asked),
    )


@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        *((SMALL, dim) for dim in (1, 16, 96, 256)),
        *((shape, dim) for shape in (*gpu_fused.SHAPES, SMALL) for dim in (7, 128)),
    ],
    ids=str,
)
def test_every_shape_and_dim(shape, dim):
    random = torch.Generator().manual_seed(1)
    lengths = np.array([1, 1, 2, 3, 5, 8, 13])
    tokens = torch.randn((int(lengths.sum()), dim), generator=random).half()
    asked = torch.randn((3, 96, dim), generator=random).half()
    if DEVICE == "cuda" and dim > 128 and shape.rows * shape.passages > 64 * 64:
        pytest.skip("too much shared memory")
    checked(tokens, np.cumsum(lengths) - lengths, lengths, asked, shape)


def test_passages_of_1_and_512_tokens_side_by_side():
    random = torch.Generator().manual_seed(2)
    lengths = np.array([1, 512, 3, 512])
    tokens = torch.randn((1028, 16), generator=random).half()
    checked(
        tokens,
        np.array([0, 1, 513, 516]),
        lengths,
        torch.randn((1, 32, 16), generator=random).half(),
    )


def test_nothing_to_multiply():
    rows = torch.ones((32, 16), dtype=torch.float16, device=DEVICE)
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert gpu_fused.fused_maxsim(rows, 1, rows, none, none.int(), SMALL).shape == (1, 0)
    assert gpu_fused.add_in_order(rows.double()[:, :0]).shape == (0,)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (320, 129), (0, 5), (33, 128)])
def test_sums_in_order_to_the_bit(rows, columns):
    values = np.random.default_rng(3).normal(size=(rows, columns)) * 1e3
    total = np.zeros(columns)
    for row in values:
        total += row
    found = gpu_fused.add_in_order(torch.from_numpy(values).to(DEVICE)).cpu().numpy()
    assert found.tobytes() == total.tobytes()


@pytest.mark.parametrize("kind", token_corpora.KINDS)
def test_search_equals_the_reference(kind):
    rng = np.random.default_rng(4)
    pool = kind(rng, rng.integers(1, 20, 40))
    pool[3] = pool[3][:0]
    queries, ranks = token_corpora.queries(rng, pool, 5), rng.permutation(40)
    source = ArraySource(np.concatenate(pool), np.cumsum([0, *map(len, pool)]))
    # One thread: the interpreter is not for several.
    numbers, scores, stats = search.search_exactly(
        queries, source, 7, ranks, passes=("fused",), device=DEVICE, threads=1
    )
    right = reference.search_by_reference(queries, source.vectors, source.offsets, 7, ranks)
    assert numbers.tolist() == right[0].tolist()
    assert scores.tobytes() == right[1].tobytes()
    assert stats.passes == ("fused", "float32")


@pytest.mark.parametrize("name", passes.FLAT)
@pytest.mark.parametrize("kind", token_corpora.KINDS)
def test_bounds_of_a_block_are_never_below_and_hardly_above(name, kind):
    rng = np.random.default_rng(5)
    pool = kind(rng, rng.integers(1, 20, 30))
    pool[3] = pool[3][:0]
    offsets = np.cumsum([0, *map(len, pool)])
    block = Block(0, np.concatenate(pool), offsets)
    queries = canonical.rounded_queries(token_corpora.queries(rng, pool, 6), token_corpora.DIM)
    queries = [query for query in queries if len(query.rows)]
    device = torch.device(choose.named(DEVICE))
    storage = torch.empty(block.tokens.shape, dtype=torch.float16, device=device)
    with workers(1) as one:
        columns = gpu_rounds.BatchedBlock(
            block, code_block(passes.PASSES[name], block, one, storage), np.arange(len(pool))
        )
        for part in gpu_rounds.group_queries(queries, 3, np.arange(len(pool)), device):
            upper = columns.upper(part).cpu().double().numpy()
            assert upper.shape == (len(part.queries), len(pool))
            for bound, query in zip(upper, part.queries, strict=True):
                for column, number in enumerate(columns.numbers):
                    score = reference.maxsim(query.rows, pool[number])
                    assert bound[column] >= score
                    if kind is token_corpora.ordinary and len(pool[number]):
                        spare = {"fp16": 0.0012, "fused": 0.0004}[name]
                        assert bound[column] <= score + spare * len(query.rows)


def test_it_is_chosen_where_it_works():
    assert choose.pass_works("fused", DEVICE)
    assert choose.on_a_gpu(DEVICE) == ("fused",)
    assert gpu_fused.fastest_shape(DEVICE, gpu_fused.MOST_DIM + 1) is None


def in_float16(maxsim):
    """Adds up in half the bits."""
    return lambda rows, queries, tokens, *rest: maxsim(rows, queries, tokens, *rest).half().float()


def without_the_last(maxsim):
    """Leaves out the last token of a passage."""

    def found(rows, queries, tokens, starts, lengths, shape):
        return maxsim(rows, queries, tokens, starts, (lengths - 1).clamp(min=1), shape)

    return found


@pytest.mark.parametrize("fault", [in_float16, without_the_last])
def test_one_that_is_wrong_is_left(monkeypatch, fault):
    gpu_fused.kernels_work.cache_clear()
    gpu_fused._shape.cache_clear()
    monkeypatch.setattr(gpu_fused, "fused_maxsim", fault(gpu_fused.fused_maxsim))
    try:
        assert not gpu_fused.kernels_work(DEVICE)
        assert choose.on_a_gpu(DEVICE) == ("fp16",)
    finally:
        gpu_fused.kernels_work.cache_clear()
        gpu_fused._shape.cache_clear()


@pytest.mark.slow
def test_it_compiles_for_gpus_that_are_not_here():
    """For A100 and H100: on tensor cores, fetching ahead, within shared memory and registers."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_fused.py"))],
        env={**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 2 * len(gpu_fused.SHAPES)
    for one in found:
        print(one)
        assert one["shared"] <= {80: 163 << 10, 90: 227 << 10}[one["capability"]]
        assert one["spilled"] == 0
        assert one["tensor cores"] >= 8
        assert one["fetched ahead"] >= 8
