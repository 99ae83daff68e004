"""What builders draw: sizes, positives, and that a draw depends on seed and id alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from servers.faulty_server import FaultyServer
from support import upstream_fixture
from support.golden_tables import FIRST, golden, ids, make, rows_of, turned
from support.upstream_fixture import served_files, tarred, text, zipped

from m2kr.building.sampling import draw_places, keyed_numbers


def changed(**files: Callable[[bytes], bytes]) -> dict[str, bytes]:
    """MS MARCO's tarball with some members changed."""
    members = {n: text(f"msmarco/{n}") for n in upstream_fixture.MSMARCO_MEMBERS}
    for name, change in files.items():
        member = name.replace("_", ".")
        members[member] = change(members[member])
    return {"/msmarco/collectionandqueries.tar.gz": tarred(members)}


def test_what_msmarco_draws(tmp_path: Path) -> None:
    options = {"test_pool_size": "9", "test_queries": "2"}
    draws: dict[str, tuple[set[str], set[str]]] = {}
    more = b"".join(b"%d\tPassage number %d.\n" % (n, n) for n in range(1000, 1100))
    for label, files, seed in (
        ("plain", changed(), 0),
        ("turned", changed(collection_tsv=turned, queries_dev_small_tsv=turned), 0),
        ("seeded", changed(), 1),
        ("more", changed(collection_tsv=lambda c: c + more), 0),
    ):
        with FaultyServer(served_files() | files) as server:
            built = make(server, tmp_path / label, "msmarco", options=options, seed=seed)
        pool = ids(built, "passages", "test_passages")
        assert len(pool) == 9
        assert pool == ids(built, "passages", "valid_passages")
        assert pool >= {"0", "1", "2", "3", "7", "9"}, "dev.small's positives"
        draws[label] = pool, ids(built, "queries", "test")
        assert len(draws[label][1]) == 2
        assert len(ids(built, "queries", "valid")) == 4
        numbers = [int(row["passage_id"]) for row in rows_of(built, "passages", "test_passages")]
        assert label == "turned" or numbers == sorted(numbers)
    # 300 is another question in the turned file, as it occurs twice: its draw is the same.
    assert draws["turned"] == draws["plain"]
    assert draws["seeded"] != draws["plain"]
    old = draws["more"][0] & {str(n) for n in range(100)}
    assert old <= draws["plain"][0], "a new row may only push others out"


def test_a_keyed_draw_of_numbers_is_uniform_and_independent_of_other_rows() -> None:
    numbers = np.arange(10_000)
    keys = keyed_numbers(numbers, "msmarco pool")
    drawn = set(draw_places(keys, 2_000).tolist())
    assert abs(np.mean(list(drawn)) - 5_000) < 4 * 10_000 / np.sqrt(12 * 2_000)
    half = numbers[::2]
    of_half = {int(half[i]) for i in draw_places(keyed_numbers(half, "msmarco pool"), 1_000)}
    assert drawn & set(half.tolist()) <= of_half or of_half <= drawn
    other = set(draw_places(keyed_numbers(numbers, "infoseek pool"), 2_000).tolist())
    assert 300 < len(drawn & other) < 500, "draws of two purposes have a fifth in common"


def test_what_infoseek_draws(tmp_path: Path) -> None:
    options = {"distractors": "4", "test_images": "1"}
    related = {"1", "2", "3", "5", "6", "7"}
    draws: dict[str, tuple[set[str], set[str]]] = {}
    files = {"/infoseek/infoseek_val.jsonl": turned(text("infoseek/infoseek_val.jsonl"))}
    for label, other, seed in (("plain", {}, 0), ("turned", files, 0), ("seeded", {}, 1)):
        with FaultyServer(served_files() | other) as server:
            built = make(server, tmp_path / label, "infoseek", options=options, seed=seed)
        pool = ids(built, "passages", "test_passages")
        assert pool == ids(built, "passages", "train_passages")
        assert related <= pool
        positives = {
            p
            for s in ("train", "test")
            for r in rows_of(built, "queries", s)
            for p in r["pos_item_ids"]
        }
        assert positives <= pool
        assert len(pool) == 6 + 4, "the related passages of both splits, and 4 others"
        images = {row["img_id"] for row in rows_of(built, "queries", "test")}
        assert len(images) <= 1
        draws[label] = pool, ids(built, "queries", "test")
    assert draws["turned"] == draws["plain"]
    assert draws["seeded"][0] != draws["plain"][0]


@pytest.mark.parametrize("images", ["2", "3", "4", "all"])
def test_infoseek_takes_all_questions_of_an_image_or_none(
    server: FaultyServer, tmp_path: Path, images: str
) -> None:
    built = make(server, tmp_path, "infoseek", options={"test_images": images})
    found = ids(built, "queries", "test")
    both = {"infoseek_val_00000001", "infoseek_val_00000003"}
    assert both <= found or not both & found
    if images in {"4", "all"}:
        assert len(found) == 4


def test_what_evqa_draws(tmp_path: Path) -> None:
    gold = {
        "train": {"WikiWeb_Grey reed_2", "WikiWeb_Stone Gate_1", "WikiWeb_Blue finch_1"},
        "valid": {"WikiWeb_Blue finch_0"},
        "test": {"WikiWeb_Grey reed_1", "WikiWeb_Café Müller_0"},
    }
    kb = json.loads(text("evqa/encyclopedic_kb_wiki.json"))
    upside = json.dumps(dict(reversed(kb.items())), ensure_ascii=False).encode()
    turned_kb = {"/evqa/encyclopedic_kb_wiki.zip": zipped("encyclopedic_kb_wiki.json", upside)}
    draws: dict[str, set[str]] = {}
    for label, other, seed in (("plain", {}, 0), ("turned", turned_kb, 0), ("seeded", {}, 2)):
        with FaultyServer(served_files() | other) as server:
            options = {"shared_passages": "6"}
            built = make(server, tmp_path / label, "evqa", options=options, seed=seed)
        pools = {split: ids(built, "passages", f"{split}_passages") for split in gold}
        assert len(pools["train"]) == 6
        common = set.intersection(*pools.values())
        assert len(common) == 6 and common == pools["train"], "the shared part has train's evidence"
        for split, evidence in gold.items():
            assert evidence <= pools[split]
            assert pools[split] == common | {
                p for r in rows_of(built, "queries", split) for p in r["pos_item_ids"]
            }
            texts = [r["pos_item_contents"] for r in rows_of(built, "queries", split)]
            assert all(len(found) == 1 and found[0] for found in texts)
        (southfield,) = (
            r for r in rows_of(built, "queries", "train") if r["question_id"] == "EVQA_train_9"
        )
        assert "gate in Southfield" in southfield["pos_item_contents"][0]
        draws[label] = {p.partition("#")[0] for p in common}
    assert draws["turned"] == draws["plain"]
    assert draws["seeded"] != draws["plain"]


def test_evqa_draws_an_image_by_seed_and_question(server: FaultyServer, tmp_path: Path) -> None:
    built = make(server, tmp_path, "evqa", options={"images": "drawn"})
    found = {r["question_id"]: r["img_id"] for r in rows_of(built, "queries", "train")}
    assert found["EVQA_train_1"] in {"111", "222", "333"}
    assert found["EVQA_train_8"] in {"777", "111"}
    assert found["EVQA_train_2"] == "0a1b2c3d4e5f6071"


def test_another_choice_of_images_is_told_by_its_fingerprint(
    server: FaultyServer, tmp_path: Path
) -> None:
    options = golden(FIRST["evqa"])["options"]
    builds = {
        choice: make(server, tmp_path / choice, "evqa", options={**options, "images": choice})
        for choice in ("first", "drawn")
    }
    first, drawn = (b.manifest["fingerprints"] for b in builds.values())
    images = [
        {row["question_id"]: row["img_path"] for row in rows_of(b, "queries", "train")}
        for b in builds.values()
    ]
    assert images[0] != images[1]
    assert first["train"]["eval"] == drawn["train"]["eval"]
    assert first["train"]["image_paths"] != drawn["train"]["image_paths"]
