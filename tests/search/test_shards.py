"""Ranges of a pool, searched alone and merged, give the very bits of one search of all of it."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import token_corpora
from support.progress import Recorder
from support.token_pools import passages, queries, store

from m2kr.errors import CheckError, InputError, UsageError
from m2kr.search import devices, shards
from m2kr.search.shards import PassageRange, RangeResult
from m2kr.search.store.reader import ArraySource, TokenStore
from m2kr.search.store.writer import TokenWriter

Matrices = list[np.ndarray]


def flat(pool: Matrices) -> ArraySource:
    offsets = np.cumsum([0, *map(len, pool)])
    return ArraySource(
        np.concatenate([np.zeros((0, token_corpora.DIM), np.float16), *pool]), offsets
    )


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(token_corpora.KINDS),
    count=st.integers(0, 40),
    longest=st.sampled_from([1, 3, 12]),
    k=st.sampled_from([1, 3, 10, 60]),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    copies=st.booleans(),
)
def test_any_split_merges_to_the_bits_of_one_search(
    seed: int,
    kind: Callable[..., Matrices],
    count: int,
    longest: int,
    k: int,
    cuts: list[int],
    copies: bool,
) -> None:
    rng = np.random.default_rng(seed)
    pool = kind(rng, rng.integers(1, longest + 1, count)) if count else []
    for number in np.flatnonzero(rng.random(count) < 0.1):
        pool[number] = pool[number][:0]
    names = rng.integers(0, max(1, count // 2), count) if copies else rng.permutation(count)
    ranks = np.unique(names, return_inverse=True)[1].astype(np.int64)
    asked = token_corpora.queries(rng, pool or [np.ones((1, token_corpora.DIM))], 4)
    bounds = sorted([0, count, *(min(each, count) for each in cuts)])
    source = flat(pool)
    parts = [
        devices.search_range(
            asked, source, PassageRange(*span), k, ranks, threads=1, passes=("float32",)
        )[0]
        for span in pairwise(bounds)
    ]
    numbers, scores = shards.merge_results(
        [parts[i] for i in rng.permutation(len(parts))], k, ranks
    )
    right, bits, _ = devices.search_devices(asked, source, k, ranks, threads=1, passes=("float32",))
    assert numbers.tolist() == right.tolist()
    assert scores.tobytes() == bits.tobytes()
    # By ids alone, as from run files: the same ids in the same order.
    ids = pa.array([f"{rank:03}" for rank in ranks], pa.string())
    named = []
    for part in parts:
        at = np.nonzero(part.numbers >= 0)
        named.append((at[0], ids.take(pa.array(part.numbers[at])), part.scores[at]))
    column, rows, values = shards.merge_parts(named, len(asked), k)
    assert values.tobytes() == bits.tobytes()
    found = column.take(pa.array(rows.reshape(-1))).to_pylist()
    assert found == ids.take(pa.array(right.reshape(-1))).to_pylist()


@settings(max_examples=100)
@given(
    lengths=st.lists(st.integers(0, 30), max_size=60),
    count=st.integers(1, 9),
    edges=st.lists(st.integers(0, 60), max_size=4),
)
def test_ranges_hold_every_passage_once_and_about_equal_tokens(
    lengths: list[int], count: int, edges: list[int]
) -> None:
    offsets = np.cumsum([0, *lengths])
    places = [edge for edge in edges if edge <= len(lengths)]
    found = shards.cut_ranges(offsets, count, places)
    assert len(found) == count
    assert found[0].first == 0
    assert found[-1].last == len(lengths)
    assert all(a.last == b.first for a, b in pairwise(found))
    shards.check_cover(found, len(lengths))
    for span in found:
        tokens = int(offsets[span.last] - offsets[span.first])
        # A cut moves by half a passage, or to a shard that is an eighth of a range away.
        assert tokens <= offsets[-1] / count * 1.25 + max(lengths, default=0) + 1


def test_ranges_begin_with_shards_that_are_fine_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pool = token_corpora.ordinary(rng, [4] * 100)
    with TokenWriter(tmp_path, dim=token_corpora.DIM, shard_bytes=9 * 4 * 32) as writer:
        for number, tokens in enumerate(pool):
            writer.append([f"p{number}"], [tokens])
    source = TokenStore.open(tmp_path)
    assert [shard.passages for shard in source.shards] == [9] * 11 + [1]
    assert [span.first for span in shards.ranges_of(source, 3)] == [0, 36, 63]
    # Twelve ranges of 8.3 passages can't all begin where shards of 9 do.
    sizes = [len(span) for span in shards.ranges_of(source, 12)]
    assert sum(sizes) == 100
    assert 7 <= min(sizes) <= max(sizes) <= 10


@pytest.mark.parametrize("several", ["cpu,cpu", "cpu, cpu ,cpu", "cpu,auto"])
def test_a_list_of_devices_finds_the_same(several: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    pool = passages(rng, rng.integers(0, 9, 300).tolist())
    names = [f"p{number % 280:03}" for number in rng.permutation(300)]
    source = store(tmp_path, pool, names)
    asked = [*queries(rng, pool, 5), np.zeros((2, 32), np.float32)]
    told = Recorder()
    threads = torch.get_num_threads()
    numbers, scores, stats = devices.search_devices(
        asked, source, 20, device=several, progress=told
    )
    assert torch.get_num_threads() == threads
    right, bits, one = devices.search_devices(asked, source, 20)
    assert numbers.tolist() == right.tolist()
    assert scores.tobytes() == bits.tobytes()
    assert stats.device == ",".join(["cpu"] * (several.count(",") + 1))
    assert stats.pairs == one.pairs
    assert min(stats.bytes_read, one.bytes_read) >= source.tokens * source.dim
    assert told.calls[0] == ("start", "exact search", 5 * 300)
    assert told.advanced() == 5 * 300
    assert [call for call in told.calls if call[0] != "advance"][1:] == [
        ("done", "exact search", 0)
    ]


def test_a_device_that_is_not_there_or_fails_is_told() -> None:
    rng = np.random.default_rng(3)
    pool = token_corpora.ordinary(rng, [4] * 40)
    asked, ranks = [np.ones((2, token_corpora.DIM))], np.arange(40)
    for wrong in ("cpu,tpu", "cpu,", ","):
        with pytest.raises(UsageError, match="there is no device"):
            devices.search_devices(asked, flat(pool), 3, ranks, device=wrong)
    pool[33][1, 2] = np.nan
    with pytest.raises(InputError, match="NaN") as error:
        devices.search_devices(asked, flat(pool), 3, ranks, device="cpu,cpu", memory=1)
    assert error.value.where == "passage 13 of those from 20 on"


def test_parts_that_do_not_fit_are_refused() -> None:
    none = np.zeros((1, 0), np.int64), np.zeros((1, 0))
    ranks = np.arange(10)
    for spans, told in (
        ([(0, 4), (6, 10)], "no part holds passages 4 to 5"),
        ([(0, 4)], "no part holds passages 4 to 9"),
        ([(0, 6), (5, 10)], "passages 5 to 9 overlap"),
    ):
        with pytest.raises(CheckError, match=told):
            shards.merge_results(
                [RangeResult(PassageRange(*span), *none) for span in spans], 3, ranks
            )
    two = np.zeros((2, 0), np.int64), np.zeros((2, 0))
    with pytest.raises(UsageError, match="of \\[1, 2\\] queries"):
        shards.merge_results(
            [RangeResult(PassageRange(0, 5), *none), RangeResult(PassageRange(5, 10), *two)],
            3,
            ranks,
        )
    with pytest.raises(UsageError, match="were asked for"):
        devices.search_range([], flat([]), PassageRange(0, 1), 3, np.arange(0))
    with pytest.raises(UsageError, match="into 0 ranges"):
        shards.cut_ranges(np.array([0, 3]), 0)


def test_a_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    pool = passages(np.random.default_rng(4), [3, 2, 5])
    one, same = store(tmp_path / "a", pool), store(tmp_path / "b", pool)
    assert shards.fingerprint_of(one) == shards.fingerprint_of(same)
    others = [
        store(tmp_path / "c", pool, ["p0", "p1", "p3"]),
        store(tmp_path / "d", pool[::-1]),
        store(tmp_path / "a", pool[:1]),  # grown
    ]
    assert len({shards.fingerprint_of(each) for each in [one, *others]}) == 4
