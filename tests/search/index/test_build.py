"""Building, finishing and adding to indexes, and finding what was changed in them."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.token_pools import DIM, ids, passages, pool, store

from m2kr import locks
from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.search import dispatch
from m2kr.search.hub import contents_of
from m2kr.search.index import compressed, official_train
from m2kr.search.index.build import add_passages, build_index
from m2kr.search.index.codec import OfficialCodec, ScaledCodec
from m2kr.search.index.files import IndexFiles
from m2kr.search.index.format import EXPECTED, INDEX, index_file_names
from m2kr.search.index.ivf import InvertedLists
from m2kr.search.index.kmeans import Training
from m2kr.search.index.settings import BuildSettings, pool_of, sample
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.records import record_name
from m2kr.search.store.writer import TokenWriter

SMALL = BuildSettings(centroids=128)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


def test_an_index_holds_every_passage_in_order(
    index_folder: Path, token_store: TokenStore, matrices: list[np.ndarray]
) -> None:
    files = IndexFiles.open(index_folder)
    files.verify()
    assert len(files) == len(matrices) == 400
    assert [shard.record.passages for shard in files.shards] == [150, 150, 100]
    assert files.ids().to_pylist() == ids(400)
    assert np.diff(files.offsets).tolist() == [len(m) for m in matrices]
    assert isinstance(files.codec, ScaledCodec)
    assert files.codec.centroids.shape == (128, DIM)
    packed = files.residuals(np.arange(400))
    decoded = files.codec.decode(files.codes, packed, files.sizes)
    original = np.concatenate(matrices).astype(np.float32)
    error = ((decoded.astype(np.float32) - original) ** 2).sum(1)
    assert error.mean() < 0.005
    for shard, first in zip(files.shards, files.firsts, strict=False):
        span = files.offsets[first : first + shard.record.passages + 1]
        codes = files.codes[span[0] : span[-1]]
        lists = InvertedLists.of(codes, np.diff(span), 128)
        assert shard.lists.documents.tolist() == lists.documents.tolist()
        assert shard.lists.offsets.tolist() == lists.offsets.tolist()


def test_residuals_of_chosen_passages_across_shards(index_folder: Path) -> None:
    files = IndexFiles.open(index_folder)
    whole = files.residuals(np.arange(400))
    chosen = np.array([399, 150, 3, 398, 149, 150, 397])
    parts = [whole[files.offsets[i] : files.offsets[i + 1]] for i in chosen]
    assert files.residuals(chosen).tobytes() == np.concatenate(parts).tobytes()
    assert files.residuals(np.zeros(0, np.int64)).shape == (0, DIM // 2)
    with pytest.raises(UsageError, match="400 passages"):
        files.residuals(np.array([400]))


def test_building_again_changes_nothing(
    index_folder: Path, token_store: TokenStore, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    build_index(pool_of(token_store), again, SMALL, shard_passages=150)
    assert contents(again) == contents(index_folder)
    build_index(pool_of(token_store), again, SMALL, shard_passages=150)
    assert contents(again) == contents(index_folder)


def test_a_cut_build_goes_on_after_its_last_shard(
    index_folder: Path, token_store: TokenStore, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(index_folder, cut)
    # As a kill leaves it: files of shard 1 half there, no record.
    (cut / record_name(1)).unlink()
    for name in index_file_names(2, "compressed").values():
        (cut / name).unlink()
    (cut / record_name(2)).unlink()
    half = cut / index_file_names(1, "compressed")["residuals"]
    half.write_bytes(half.read_bytes()[:100])
    assert len(IndexFiles.open(cut)) == 150
    build_index(pool_of(token_store), cut, SMALL, shard_passages=150)
    assert contents(cut) == contents(index_folder)


SCRIPT = """
import sys, time
from pathlib import Path
from m2kr.search.index.build import ShardedIndexWriter, build_index
from m2kr.search.index.settings import BuildSettings, pool_of
from m2kr.search.store.reader import TokenStore
append = ShardedIndexWriter.append
def slowly(self, *args, **kwargs):
    append(self, *args, **kwargs)
    time.sleep(0.3)
ShardedIndexWriter.append = slowly
pool = pool_of(TokenStore.open(Path(sys.argv[1])))
build_index(pool, Path(sys.argv[2]), BuildSettings(centroids=128), shard_passages=150)
"""


def test_kill_nine_while_writing(
    index_folder: Path, token_store: TokenStore, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    running = subprocess.Popen([sys.executable, "-c", SCRIPT, str(token_store.folder), str(killed)])
    try:
        until = time.monotonic() + 300
        while not (killed / record_name(1)).exists() and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    done = len(IndexFiles.open(killed))
    assert 100 <= done < 400
    with pytest.raises(CheckError, match=f"{done} of 400 passages"):
        IndexFiles.open(killed).require_whole()
    IndexFiles.open(killed).verify()
    build_index(pool_of(token_store), killed, SMALL, shard_passages=150)
    assert contents(killed) == contents(index_folder)


def test_adding_a_grown_store_and_another_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    first, more, other = (passages(rng, [5] * n) for n in (200, 30, 40))
    folder, index = tmp_path / "store", tmp_path / "index"
    build_index(pool_of(store(folder, first)), index, SMALL)
    centroids = IndexFiles.open(index).codec.centroids.tobytes()
    grown = store(folder, more, [f"m{i}" for i in range(30)])
    files = add_passages(pool_of(grown), index)
    assert files.ids().to_pylist() == [*ids(200), *(f"m{i}" for i in range(30))]
    assert len(add_passages(pool_of(grown), index)) == 230
    third = store(tmp_path / "other", other, [f"o{i}" for i in range(40)])
    files = add_passages(pool_of(third), index)
    files.verify()
    assert files.ids().to_pylist()[230:] == [f"o{i}" for i in range(40)]
    assert files.codec.centroids.tobytes() == centroids
    decoded = files.codec.decode(  # type: ignore[call-arg]
        files.codes, files.residuals(np.arange(270)), files.sizes
    )
    original = np.concatenate([*first, *more, *other]).astype(np.float32)
    assert ((decoded.astype(np.float32) - original) ** 2).sum(1).mean() < 0.01


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (replace(SMALL, nbits=8), "nbits 4, not 8"),
        (replace(SMALL, centroids=None), "centroids_asked 128, not None"),
        (replace(SMALL, training=Training(seed=5)), "seed 0, not 5"),
        (replace(SMALL, kind="official"), "kind 'compressed', not 'official'"),
    ],
)
def test_going_on_with_other_settings_is_refused(
    index_folder: Path, token_store: TokenStore, changed: BuildSettings, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        build_index(pool_of(token_store), index_folder, changed)


def test_vectors_of_another_model_or_dim_are_refused(
    index_folder: Path, token_store: TokenStore
) -> None:
    other = replace(pool_of(token_store), meta={"model": "n"})
    with pytest.raises(InputError, match="encoded with model 'n'"):
        add_passages(other, index_folder)
    narrow = pool([np.ones((2, 16), np.float16)])
    with pytest.raises(InputError, match="16 dimensions"):
        add_passages(narrow, index_folder)


def test_an_empty_pool_and_nonsense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token"):
        build_index(pool([np.zeros((0, DIM), np.float16)]), tmp_path)
    with pytest.raises(UsageError, match="3 bits"):
        BuildSettings(nbits=3)
    with pytest.raises(UsageError, match="1 bits"):
        BuildSettings(nbits=1)
    with pytest.raises(UsageError, match="0 centroids"):
        BuildSettings(centroids=0)
    with pytest.raises(MissingError, match="no late-interaction index"):
        IndexFiles.open(tmp_path / "nothing")


def test_two_writers_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.2)
    with (
        TokenWriter(tmp_path, dim=DIM),
        pytest.raises(UsageError, match="another process is writing"),
    ):
        build_index(pool([np.ones((4, DIM), np.float16)]), tmp_path)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "centroids.npy",
        *(index_file_names(1, "compressed")[p] for p in ("codes", "sizes", "lengths", "members")),
        *(index_file_names(1, "compressed")[p] for p in ("lists", "crc32")),
    ],
)
def test_a_flipped_byte_is_found_on_opening(index_folder: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(index_folder, copy)
    flipped(copy / name)
    with pytest.raises(CheckError, match=name):
        IndexFiles.open(copy)


def test_a_flipped_residual_or_id_is_found_when_read_and_by_verify(
    index_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(index_folder, copy)
    name = index_file_names(1, "compressed")["residuals"]
    flipped(copy / name)
    files = IndexFiles.open(copy)
    with pytest.raises(CheckError, match=name):
        files.verify()
    assert len(files.residuals(np.arange(150)))
    with pytest.raises(CheckError, match="passage 299 differs"):
        files.residuals(np.array([3, 299]))
    shutil.copy(index_folder / name, copy)
    name = index_file_names(2, "compressed")["ids"]
    flipped(copy / name)
    for reading in (IndexFiles.open(copy).ids, IndexFiles.open(copy).verify):
        with pytest.raises(CheckError, match=name):
            reading()


def test_changed_settings_and_records_are_found(index_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(index_folder, copy)
    settings = (copy / INDEX.header).read_text()
    (copy / INDEX.header).write_text(settings.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(CheckError, match="changed since a shard"):
        IndexFiles.open(copy)
    (copy / INDEX.header).write_text(settings)
    (copy / record_name(1)).unlink()
    with pytest.raises(CheckError, match="record of a shard is missing"):
        IndexFiles.open(copy)
    (copy / record_name(1)).write_text('{"passages": -1}')
    with pytest.raises(CheckError, match="damaged"):
        IndexFiles.open(copy)


def test_a_short_residual_file_is_found_on_opening(index_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(index_folder, copy)
    path = copy / index_file_names(0, "compressed")["residuals"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckError, match="bytes instead of"):
        IndexFiles.open(copy)


def test_an_official_index_is_trained_by_its_rules(
    official_folder: Path, token_store: TokenStore, tmp_path: Path
) -> None:
    files = IndexFiles.open(official_folder)
    files.verify()
    codec = files.codec
    assert isinstance(codec, OfficialCodec)
    assert (codec.nbits, codec.dim) == (8, DIM)
    np.testing.assert_allclose(np.linalg.norm(codec.centroids, axis=1), 1, atol=1e-3)
    assert (np.diff(codec.cutoffs) >= 0).all()
    assert ((codec.weights[1:] >= codec.cutoffs) & (codec.cutoffs >= codec.weights[:-1])).all()
    tokens = token_store.read(0, 400)
    assert files.codes.tolist() == codec.nearest(tokens).tolist()
    packed = files.residuals(np.arange(400))
    assert packed.tobytes() == codec.encode(tokens, files.codes).tobytes()
    again = build_index(
        pool_of(token_store),
        tmp_path,
        official_train.official_build_settings(seed=1, centroids=128),
    )
    assert again.codec.centroids.tobytes() == codec.centroids.tobytes()


def test_official_centroid_counts() -> None:
    assert official_train.official_centroid_count(901_875) == 8192
    assert official_train.official_centroid_count(96_513) == 4096
    assert official_train.official_centroid_count(1) == 16


def test_a_sample_is_whole_passages_drawn_by_the_seed() -> None:
    matrices = [np.full((n, 4), i + 1, np.float16) for i, n in enumerate([3, 1, 0, 5, 2, 4])]
    few = pool(matrices)
    everything = sample(few, 99, 0)
    assert sorted(everything[:, 0]) == sorted(np.concatenate(matrices)[:, 0])
    drawn = sample(few, 6, 1)
    assert 6 <= len(drawn) < 6 + 5
    numbers, counts = np.unique(drawn[:, 0].astype(int), return_counts=True)
    assert all(counts[i] == len(matrices[n - 1]) for i, n in enumerate(numbers))
    assert drawn.tobytes() == sample(few, 6, 1).tobytes()
    assert sample(few, 99, 1).tobytes() != everything.tobytes()


@given(st.permutations(range(6)), st.integers(0, 3), st.integers(1, 16))
def test_a_sample_does_not_depend_on_the_order_of_rows(
    order: list[int], seed: int, wanted: int
) -> None:
    matrices = [np.full((n, 4), i + 1, np.float16) for i, n in enumerate([3, 1, 0, 5, 2, 4])]
    mixed = pool([matrices[i] for i in order])
    mixed = replace(mixed, ids=pa.array([ids(6)[i] for i in order]))
    assert sample(mixed, wanted, seed).tobytes() == sample(pool(matrices), wanted, seed).tobytes()


def cut_after(folder: Path, shards: int) -> None:
    """Leaves an index as a kill does behind some shards."""
    for path in folder.glob("shard-*.json"):
        if int(path.stem[6:]) >= shards:
            path.unlink()


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("shards", [0, 1, 2])
def test_an_index_that_was_cut_off_is_not_searched_before_it_is_finished(
    index_folder: Path, token_store: TokenStore, tmp_path: Path, shards: int, counted: bool
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(index_folder, cut)
    cut_after(cut, shards)
    if not counted:  # as an index that was made before counts were kept
        (cut / EXPECTED).unlink()
    files = IndexFiles.open(cut)
    assert files.unfinished is not None
    assert len(files) == 150 * shards
    for search in (
        lambda: dispatch.search_folder(cut, token_store, 3),
        lambda: compressed.search_compressed([], compressed.CompressedIndex(files), 3),
        lambda: contents_of(cut),
    ):
        with pytest.raises((CheckError, InputError), match=r"cut off|no complete shard"):
            search()
    other = store(tmp_path / "other", passages(np.random.default_rng(3), [4] * 5), list("abcde"))
    if counted or shards:
        with pytest.raises(CheckError, match="cut off"):
            add_passages(pool_of(other), cut)
    build_index(pool_of(token_store), cut, SMALL, shard_passages=150)
    IndexFiles.open(cut).require_whole()
    assert contents(cut) == contents(index_folder)


def test_an_addition_that_was_cut_off_is_found_and_finished(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    first, other = (passages(rng, [5] * n) for n in (100, 40))
    index = tmp_path / "index"
    build_index(pool_of(store(tmp_path / "store", first)), index, SMALL)
    more = pool_of(store(tmp_path / "other", other, [f"o{i}" for i in range(40)]))
    add_passages(more, index, shard_passages=10)
    right = contents(index)
    cut_after(index, 3)
    with pytest.raises(CheckError, match="120 of 140 passages"):
        dispatch.search_folder(index, TokenStore.open(tmp_path / "other"), 3)
    with pytest.raises(CheckError, match="120 of 140 passages"):
        build_index(pool_of(TokenStore.open(tmp_path / "store")), index, SMALL)
    add_passages(more, index, shard_passages=10)
    assert contents(index) == right


def test_ids_that_are_there_already_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    index = tmp_path / "index"
    build_index(pool_of(store(tmp_path / "store", passages(rng, [5] * 50))), index, SMALL)
    before = contents(index)
    names = ["new", "p00003", "newer", "p00049"]
    again = store(tmp_path / "again", passages(rng, [5] * 4), names)
    with pytest.raises(InputError, match="has 2 of these passages already, such as 'p00003'"):
        add_passages(pool_of(again), index)
    assert contents(index) == before
    # The same store once more adds nothing; with the same ids and other vectors it is refused.
    add_passages(pool_of(TokenStore.open(tmp_path / "store")), index)
    assert contents(index) == before
    with pytest.raises(InputError, match="50 of these passages"):
        add_passages(pool_of(store(tmp_path / "other", passages(rng, [5] * 50))), index)


def test_a_store_that_only_begins_alike_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    first, second, changed = (passages(rng, [5] * n) for n in (30, 20, 20))
    stores = []
    for name, rest in (("one", second), ("two", changed)):
        store(tmp_path / name, first)
        stores.append(pool_of(store(tmp_path / name, rest, [f"r{i}" for i in range(20)])))
    assert stores[0].identity == stores[1].identity
    index = tmp_path / "index"
    build_index(stores[0], index, SMALL)
    for again in (
        lambda: build_index(stores[1], index, SMALL),
        lambda: add_passages(stores[1], index),
    ):
        with pytest.raises(InputError, match="another version of this token store"):
            again()


def test_a_damaged_count_is_an_error(index_folder: Path, tmp_path: Path) -> None:
    for text in ("", "{}", '{"sources": {"a": {"passages": -1, "shards": []}}}', '{"sources": {}}'):
        copy = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(index_folder, copy)
        (copy / EXPECTED).write_text(text)
        with pytest.raises(CheckError, match=r"expected\.json"):
            IndexFiles.open(copy)


def test_a_store_in_another_order_does_not_serve_an_index(
    index_folder: Path, matrices: list[np.ndarray], token_store: TokenStore, tmp_path: Path
) -> None:
    order = list(range(400))
    same = [i for i in order if len(matrices[i]) == 5]
    order[same[0]], order[same[1]] = same[1], same[0]  # lengths stay as they are
    mixed = store(tmp_path, [matrices[i] for i in order], [ids(400)[i] for i in order])
    with pytest.raises(UsageError, match="in another order"):
        dispatch.search_folder(index_folder, token_store, 3, store=mixed)
    found = dispatch.search_folder(index_folder, token_store, 3)
    with pytest.raises(UsageError, match="one order"):
        dispatch.audit(found, token_store, mixed, 3)


@pytest.mark.parametrize("sync", [None, 0.0])
def test_a_store_that_was_cut_off_is_neither_indexed_nor_searched(
    tmp_path: Path, matrices: list[np.ndarray], sync: float | None
) -> None:
    writer = TokenWriter(tmp_path, dim=DIM, meta={"model": "m"}, shard_bytes=1, sync_seconds=sync)
    writer.append(ids(3), matrices[:3])
    TokenStore.open(tmp_path).require_whole()  # between two shards nothing shows
    writer._limit = 1 << 20
    writer.append(["more"], matrices[3:4])
    cut = TokenStore.open(tmp_path)
    assert len(cut) == 3
    for use in (
        lambda: pool_of(cut),
        lambda: dispatch.search_folder(tmp_path, cut, 3),
        lambda: contents_of(tmp_path),
    ):
        with pytest.raises(CheckError, match="cut off, or goes on"):
            use()
    writer.close()
    pool_of(TokenStore.open(tmp_path))
    counted = tmp_path / "counted"
    with TokenWriter(counted, dim=DIM, meta={"rows": 4}) as one:
        one.append(ids(3), matrices[:3])
    with pytest.raises(CheckError, match="3 of 4 passages"):
        pool_of(TokenStore.open(counted))
