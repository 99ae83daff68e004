"""Search of a compressed index: what it finds, what its scores are, what it does not depend on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.token_pools import DIM, ids, passages, pool, queries, store

from m2kr.errors import CheckError, InputError, UsageError
from m2kr.ranking import id_ranks
from m2kr.search import devices
from m2kr.search.dispatch import recall
from m2kr.search.exact import reference
from m2kr.search.index import kmeans, official
from m2kr.search.index.build import build_index
from m2kr.search.index.compressed import CompressedIndex, SearchSettings, search_compressed
from m2kr.search.index.files import IndexFiles
from m2kr.search.index.format import index_file_names
from m2kr.search.index.settings import BuildSettings, pool_of
from m2kr.search.store.reader import TokenStore

NARROW = SearchSettings(probes=8, candidates=90, scored=30)


@pytest.fixture(scope="module")
def index(index_folder: Path) -> CompressedIndex:
    return CompressedIndex(IndexFiles.open(index_folder))


def decoded(index: CompressedIndex) -> np.ndarray:
    return index.tokens(np.arange(len(index))).tokens


def test_without_narrowing_the_ranking_is_that_of_the_decoded_tokens(
    index: CompressedIndex, asked: list[np.ndarray]
) -> None:
    ranks = np.random.default_rng(3).permutation(400)
    everything = SearchSettings(1, 400, 400)
    numbers, scores, stats = search_compressed(asked, index, 25, ranks, settings=everything)
    wanted = reference.search_by_reference(asked, decoded(index), index.files.offsets, 25, ranks)
    assert numbers.tolist() == wanted[0].tolist()
    assert scores.tolist() == wanted[1].tolist()
    assert stats.left == {"candidates": 4800, "scored": 4800}


def test_final_scores_are_canonical_of_codes_or_of_the_store(
    index: CompressedIndex,
    asked: list[np.ndarray],
    token_store: TokenStore,
    matrices: list[np.ndarray],
) -> None:
    tokens = decoded(index)
    for stored, final in ((None, "compressed"), (token_store, "exact")):
        numbers, scores, stats = search_compressed(asked, index, 10, settings=NARROW, store=stored)
        assert stats.final == final
        for query, row, values in zip(asked, numbers, scores, strict=True):
            for number, value in zip(row, values, strict=True):
                at = slice(*index.files.offsets[number : number + 2])
                one = tokens[at] if stored is None else matrices[number]
                assert value == reference.maxsim(query, one)


def test_narrowing_keeps_what_exact_search_finds(
    index: CompressedIndex, asked: list[np.ndarray], token_store: TokenStore
) -> None:
    numbers, _, stats = search_compressed(asked, index, 10, settings=NARROW, store=token_store)
    true, _, _ = devices.search_devices(asked, token_store, 10)
    assert recall(numbers, true, 10) >= 0.95
    assert recall(numbers, true, 1) == 1.0
    assert stats.left == {"candidates": 90 * 12, "scored": 30 * 12}


def test_results_depend_on_neither_shards_nor_threads_nor_batch(
    index: CompressedIndex,
    asked: list[np.ndarray],
    token_store: TokenStore,
    tmp_path: Path,
) -> None:
    build_index(pool_of(token_store), tmp_path, BuildSettings(centroids=128))
    whole = CompressedIndex(IndexFiles.open(tmp_path))
    assert len(whole.files.shards) == 1
    numbers, scores, _ = search_compressed(asked, index, 20, settings=NARROW, threads=1)
    for one, threads in ((index, 3), (whole, 1), (whole, 3)):
        again = search_compressed(asked, one, 20, settings=NARROW, threads=threads)
        assert again[0].tolist() == numbers.tolist()
        assert again[1].tolist() == scores.tolist()
    alone = search_compressed(asked[3:4], index, 20, settings=NARROW)
    assert alone[0].tolist() == numbers[3:4].tolist()


def test_without_bfloat16_the_same_is_found(
    index_folder: Path,
    index: CompressedIndex,
    asked: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kmeans, "product_dtype", lambda: torch.float32)
    plain = CompressedIndex(IndexFiles.open(index_folder))
    assert plain.centroids.dtype == torch.float32
    numbers, scores, _ = search_compressed(asked, plain, 10, settings=NARROW)
    assert recall(numbers, search_compressed(asked, index, 10, settings=NARROW)[0], 10) >= 0.97
    assert (np.diff(scores) <= 0).all()


def test_odd_queries(index: CompressedIndex, asked: list[np.ndarray]) -> None:
    zero = np.zeros((4, DIM), np.float32)
    holes = np.concatenate([zero, asked[0], zero])
    numbers, scores, stats = search_compressed([zero, holes, asked[0]], index, 7, settings=NARROW)
    assert stats.queries == 2
    assert numbers[0].tolist() == list(range(7))
    assert scores[0].tolist() == [0.0] * 7
    assert numbers[1].tolist() == numbers[2].tolist()
    assert scores[1].tolist() == scores[2].tolist()
    none = search_compressed([], index, 7)
    assert none[0].shape == (0, 7)


def test_more_results_than_passages_ranks_all_empty_ones_last(
    index: CompressedIndex, asked: list[np.ndarray]
) -> None:
    numbers, scores, _ = search_compressed(asked[:2], index, 1000)
    assert numbers.shape == (2, 400)
    assert sorted(numbers[0].tolist()) == list(range(400))
    assert numbers[0, -2:].tolist() == [397, 398]
    assert (scores[:, -2:] == reference.EMPTY * 12).all()


def test_passages_that_share_an_id_are_found_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    matrices = passages(rng, [6] * 60)
    folder = store(tmp_path / "store", matrices * 2, [*ids(60), *ids(60)])
    build_index(pool_of(folder), tmp_path / "index", BuildSettings(centroids=64))
    index = CompressedIndex(IndexFiles.open(tmp_path / "index"))
    numbers, scores, _ = search_compressed(queries(rng, matrices, 3), index, 10)
    assert (numbers < 60).all()
    assert all(len(set(row)) == 10 for row in numbers.tolist())
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("nbits", [2, 8])
def test_other_bits(
    nbits: int, matrices: list[np.ndarray], asked: list[np.ndarray], tmp_path: Path
) -> None:
    files = build_index(pool(matrices), tmp_path, BuildSettings(nbits=nbits, centroids=128))
    numbers, _, _ = search_compressed(asked, CompressedIndex(files), 10, settings=NARROW)
    offsets = np.cumsum([0, *map(len, matrices)])
    true, _ = reference.search_by_reference(
        asked, np.concatenate(matrices), offsets, 10, np.arange(400)
    )
    assert recall(numbers, true, 10) >= {2: 0.75, 8: 0.95}[nbits]


def test_more_bits_find_more(matrices: list[np.ndarray], tmp_path: Path) -> None:
    asked = queries(np.random.default_rng(8), matrices, 40)
    offsets = np.cumsum([0, *map(len, matrices)])
    true, _ = reference.search_by_reference(
        asked, np.concatenate(matrices), offsets, 10, np.arange(400)
    )
    found = []
    for nbits in (2, 4, 8):
        files = build_index(
            pool(matrices), tmp_path / str(nbits), BuildSettings(nbits=nbits, centroids=64)
        )
        found.append(recall(search_compressed(asked, CompressedIndex(files), 10)[0], true, 10))
    assert found[0] < found[1] < found[2]


def test_a_flipped_byte_is_never_scored(
    index_folder: Path, asked: list[np.ndarray], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(index_folder, copy)
    path = copy / index_file_names(0, "compressed")["residuals"]
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))
    with pytest.raises(CheckError, match="differs from its checksum"):
        search_compressed(asked, CompressedIndex(IndexFiles.open(copy)), 10)


def test_nonsense_is_refused(
    index: CompressedIndex, asked: list[np.ndarray], official_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="k is 0"):
        search_compressed(asked, index, 0)
    with pytest.raises(UsageError, match="probes is 0"):
        SearchSettings(probes=0)
    with pytest.raises(InputError, match="as the passages"):
        search_compressed([np.ones((3, 8))], index, 5)
    with pytest.raises(InputError, match="NaN"):
        search_compressed([np.full((3, DIM), np.nan)], index, 5)
    with pytest.raises(UsageError, match="kind 'official'"):
        CompressedIndex(IndexFiles.open(official_folder))
    other = store(tmp_path, passages(np.random.default_rng(1), [2, 3]))
    with pytest.raises(UsageError, match="other passages"):
        search_compressed(asked, index, 5, store=other)


def test_the_official_preset_ranks_as_its_engine_does(
    official_folder: Path, index_folder: Path, asked: list[np.ndarray]
) -> None:
    files = IndexFiles.open(official_folder)
    arrays = official.arrays_of(files)
    numbers, scores = official.search_official(asked, arrays, 20, id_ranks(files.ids()))
    steered = official.OfficialSettings.for_k(20)
    for query, row, values in zip(asked, numbers, scores, strict=True):
        trace = official.trace_search(arrays, query, steered)
        order = np.lexsort((trace.documents, -trace.scores))[:20]
        assert row.tolist() == trace.documents[order].tolist()
        assert values.tolist() == trace.scores[order].tolist()
    with pytest.raises(UsageError, match="kind 'compressed'"):
        official.arrays_of(IndexFiles.open(index_folder))


@pytest.mark.parametrize("seed", [1, 2])
def test_ties_at_a_cut_do_not_depend_on_the_order_of_rows(tmp_path: Path, seed: int) -> None:
    """Every passage is there four times: each cut falls among equals."""
    rng = np.random.default_rng(5)
    matrices = passages(rng, [4] * 60) * 4
    names, order = ids(len(matrices)), np.random.default_rng(seed).permutation(len(matrices))
    asked = queries(rng, matrices, 8)
    steps = SearchSettings(probes=4, candidates=50, scored=10)
    found = []
    for number, places in enumerate((range(len(matrices)), order)):
        folder = store(
            tmp_path / f"s{number}", [matrices[i] for i in places], [names[i] for i in places]
        )
        build_index(pool_of(folder), tmp_path / f"i{number}", BuildSettings(centroids=32))
        index = CompressedIndex(IndexFiles.open(tmp_path / f"i{number}"))
        numbers, scores, _ = search_compressed(asked, index, 10, settings=steps)
        called = np.array(index.files.ids().to_pylist())
        found.append((called[numbers].tolist(), scores.tolist()))
    assert found[0] == found[1]
