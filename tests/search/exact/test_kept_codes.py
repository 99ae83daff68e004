"""Codes kept beside a token store: made once, believed only while they are right, and never needed."""

import json
import logging

import numpy as np
import pytest
from support import token_corpora

from m2kr.errors import CheckError
from m2kr.ranking import id_ranks
from m2kr.search import devices, shards
from m2kr.search.exact import cpu_fused, reference, search
from m2kr.search.exact.kept_codes import code_file_names
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.writer import TokenWriter

pytestmark = pytest.mark.skipif(
    not cpu_fused.kernel(), reason="no kernel is compiled for this machine"
)


def write(folder, pool, names=None, shard_bytes=1 << 30):
    with TokenWriter(folder, dim=token_corpora.DIM, shard_bytes=shard_bytes) as writer:
        writer.append(
            names or [f"p{i:04}" for i in range(writer.passages, writer.passages + len(pool))], pool
        )
        return writer.close()


def pool_of(seed, count=300, kind=token_corpora.ordinary):
    rng = np.random.default_rng(seed)
    return kind(rng, rng.integers(1, 12, count))


QUERIES = token_corpora.queries(np.random.default_rng(1), pool_of(1), 5)


def found(store, pool, **options):
    """Searches, compares with the reference, gives the bytes that were read."""
    flat, offsets = np.concatenate(pool), np.cumsum([0, *map(len, pool)])
    numbers, scores, stats = devices.search_devices(QUERIES, store, 9, device="cpu", **options)
    right = reference.search_by_reference(QUERIES, flat, offsets, 9, id_ranks(store.ids()))
    assert numbers.tolist() == right[0].tolist()
    assert scores.tobytes() == right[1].tobytes()
    return stats.bytes_read


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("codes-*")}


def test_codes_are_made_once_and_then_little_else_is_read(tmp_path):
    pool = pool_of(2)
    store = write(tmp_path, pool, shard_bytes=20_000)
    assert len(store.shards) > 2
    found(store, pool)
    made = files(tmp_path)
    assert sorted(made) == sorted(n for s in store.shards for n in code_file_names(s.number))
    tokens = list(tmp_path.glob("tokens-*"))
    read = found(TokenStore.open(tmp_path), pool)
    assert files(tmp_path) == made
    size = sum(path.stat().st_size for path in tokens)
    assert store.tokens * store.dim <= read < store.tokens * store.dim + size // 2
    assert not list(tmp_path.glob(".*tmp*"))


@pytest.mark.parametrize("kind", token_corpora.KINDS)
@pytest.mark.parametrize("memory", [1, 1 << 28])
def test_results_are_the_reference_s_with_few_or_many_blocks(tmp_path, kind, memory, monkeypatch):
    monkeypatch.setattr(search, "TILE_TOKENS", 60)
    rng = np.random.default_rng(3)
    pool = kind(rng, rng.integers(1, 12, 90))
    pool[4] = pool[5] = pool[4][:0]
    store = write(tmp_path, pool, shard_bytes=3_000)
    for _ in range(2):
        found(store, pool, memory=memory, threads=3)


def test_a_flipped_byte_of_the_codes_has_them_made_again(tmp_path, caplog):
    pool = pool_of(4)
    store = write(tmp_path, pool)
    found(store, pool)
    path = tmp_path / code_file_names(0)[0]
    right = path.read_bytes()
    path.write_bytes(bytes([right[0] ^ 64]) + right[1:])
    with caplog.at_level(logging.WARNING):
        found(store, pool)
    assert "not those that were written" in caplog.text
    assert path.read_bytes() == right


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "{",
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace('"crc32": [', '"crc32": [7,'),
        lambda text: json.dumps(json.loads(text) | {"tokens": "0" * 64}),
    ],
)
def test_a_record_that_is_not_right_has_them_made_again(tmp_path, change):
    pool = pool_of(5)
    store = write(tmp_path, pool)
    found(store, pool)
    record = tmp_path / code_file_names(0)[1]
    right = record.read_text()
    record.write_text(change(right))
    found(store, pool)
    assert record.read_text() == right


def test_what_is_appended_is_coded_alone(tmp_path):
    pool, more = pool_of(6), pool_of(7, 50)
    found(write(tmp_path, pool), pool)
    before = files(tmp_path)
    found(write(tmp_path, more), pool + more)
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before)


def test_another_store_in_the_same_folder_has_codes_of_its_own(tmp_path):
    found(write(tmp_path, pool_of(8)), pool_of(8))
    codes = {name: (tmp_path / name).read_bytes() for name in code_file_names(0)}
    for path in tmp_path.iterdir():
        path.unlink()
    # As many tokens, so that the codes' file would fit.
    pool = [-tokens for tokens in pool_of(8)]
    store = write(tmp_path, pool)
    for name, content in codes.items():
        (tmp_path / name).write_bytes(content)
    found(store, pool)
    assert (tmp_path / code_file_names(0)[0]).read_bytes() != codes[code_file_names(0)[0]]


def test_where_they_can_t_be_written_search_goes_on(tmp_path):
    pool = pool_of(9)
    store = write(tmp_path, pool)
    (tmp_path / code_file_names(0)[0]).mkdir()
    (tmp_path / code_file_names(0)[0] / "in the way").touch()
    size = store.tokens * store.dim * 2
    assert found(store, pool) == found(store, pool) == size
    assert not (tmp_path / code_file_names(0)[1]).exists()


def test_torch_keeps_no_codes(tmp_path, monkeypatch):
    monkeypatch.setenv("M2KR_KERNEL", "torch")
    found(write(tmp_path, pool_of(10)), pool_of(10))
    assert not files(tmp_path)


def test_a_byte_of_the_store_that_changes_later_is_never_scored(tmp_path):
    pool = pool_of(11)
    store = write(tmp_path, pool)
    query = [pool[7].astype(np.float32)]
    assert search.search_exactly(query, store, 1)[0].tolist() == [[7]]
    path = tmp_path / "tokens-00000.f16"
    content = bytearray(path.read_bytes())
    content[int(store.offsets[7]) * store.dim * 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckError, match="passage 7 differs"):
        search.search_exactly(query, store, 1)


def test_ranges_use_the_codes_of_their_shards_alone(tmp_path):
    pool = pool_of(13)
    store = write(tmp_path, pool, shard_bytes=15_000)
    span = shards.ranges_of(store, 3)[1]
    part = devices.search_range(QUERIES, store, span, 9)[0]
    assert 0 < len(files(tmp_path)) < 2 * len(store.shards)
    flat, offsets = np.concatenate(pool), np.cumsum([0, *map(len, pool)])
    right = reference.search_by_reference(
        QUERIES, flat, offsets[span.first : span.last + 1], 9, np.arange(len(span))
    )
    assert part.numbers.tolist() == (right[0] + span.first).tolist()
    assert part.scores.tobytes() == right[1].tobytes()
    found(store, pool, threads=2)
    numbers = devices.search_devices(QUERIES, store, 9, device="cpu,cpu")[0]
    assert numbers.tolist() == devices.search_devices(QUERIES, store, 9)[0].tolist()
