"""The committed files of mini, and what its builder makes of them."""

import csv
import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.golden_tables import hold_to_golden

from m2kr.building.build import Built
from m2kr.building.ledger import Ledger
from m2kr.building.spec import BuildContext
from m2kr.instructions import TEMPLATES
from m2kr_builders import mini

FOLDER = Path(mini.__file__).parent / "mini"
SPLITS = tuple(mini.SOURCE.pools)
IMAGE_ROOTS = ("photos.zip", "flags.tar")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger("MINI_data/test")


@pytest.fixture(scope="module")
def context(ledger: Ledger) -> BuildContext:
    files = {f"mini/{name}": FOLDER / name for name in mini.FILES}
    return BuildContext(mini.SOURCE, files, ledger)


@pytest.fixture(scope="module")
def passages(context: BuildContext) -> dict[str, Row]:
    return {p["passage_id"]: dict(p) for p in mini.BUILDER().passages(context, "test_passages")}


@pytest.fixture(scope="module")
def queries(context: BuildContext) -> dict[str, list[Row]]:
    return {split: [dict(q) for q in mini.BUILDER().queries(context, split)] for split in SPLITS}


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    with zipfile.ZipFile(FOLDER / "photos.zip") as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(FOLDER / "flags.tar") as tar:
        for member in tar:
            handle = tar.extractfile(member)
            assert handle is not None and member.name not in found
            found[member.name] = handle.read()
    return found


def test_no_row_changes_without_a_new_version(mini_root: Path) -> None:
    folder = mini_root / "mini"
    record = json.loads((folder / "MINI_manifest.json").read_text(encoding="utf-8"))
    files = [FOLDER / Path(asset.name).name for asset in mini.BUILDER().assets({})]
    hold_to_golden(Built(folder, record, fresh=False), "mini", files)


def test_checksums_and_size() -> None:
    for asset in mini.BUILDER().assets({}):
        raw = (FOLDER / Path(asset.name).name).read_bytes()
        assert (asset.size, asset.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert asset.urls == (f"package:m2kr_builders/{asset.name}",)
    assert [Path(a.name).name for a in mini.BUILDER().assets({}) if a.images] == list(IMAGE_ROOTS)
    total = sum(p.stat().st_size for p in FOLDER.rglob("*") if "__pycache__" not in p.parts)
    assert total <= 6_000_000


def test_counts_are_the_published_ones(
    passages: dict[str, Row], queries: dict[str, list[Row]]
) -> None:
    counts = {split: len(rows) for split, rows in queries.items()}
    counts |= {pool: len(passages) for pool in set(mini.SOURCE.pools.values())}
    assert counts == dict(mini.SOURCE.expected)
    assert len(passages) >= 1500
    assert sum(len(rows) for rows in queries.values()) >= 1500


def test_every_picture_decodes_and_is_attributed(pictures: dict[str, bytes]) -> None:
    assert len(pictures) >= 400
    with (FOLDER / "ATTRIBUTION.csv").open(newline="", encoding="utf-8") as file:
        rows = {r["file"]: r for r in csv.DictReader(file)}
    assert set(pictures) <= set(rows)
    for name, raw in pictures.items():
        row = rows[name]
        assert row["sha256"] == hashlib.sha256(raw).hexdigest(), name
        assert row["licence"] in ("Public Domain", "CC0-1.0")
        assert row["author"].strip().lower() not in ("", "anonymous", "unknown", "contributor")
        assert row["source"].startswith("https://")
        with Image.open(io.BytesIO(raw)) as picture:
            picture.load()
            assert picture.convert("RGB").size == picture.size
            assert 64 <= min(picture.size) <= 224 and max(picture.size) <= 600
    assert "Princeton University" in (FOLDER / "WORDNET_LICENSE").read_text()


def test_pictures_are_all_different(pictures: dict[str, bytes]) -> None:
    assert len({hashlib.sha256(raw).digest() for raw in pictures.values()}) == len(pictures)
    names, small = sorted(pictures), []
    for name in names:
        with Image.open(io.BytesIO(pictures[name])) as picture:
            small.append(np.asarray(picture.convert("RGB").resize((16, 12)), np.int16).ravel())
    pixels = np.stack(small)
    for place, picture in enumerate(pixels[:-1]):
        near = np.abs(pixels[place + 1 :] - picture).mean(1) < 4
        assert not near.any(), (names[place], names[place + 1 + int(near.argmax())])


def test_ids_are_unique(context: BuildContext, queries: dict[str, list[Row]]) -> None:
    ids = [p["passage_id"] for p in mini.BUILDER().passages(context, "train_passages")]
    assert len(ids) == len(set(ids))
    asked = [q["question_id"] for rows in queries.values() for q in rows]
    assert len(asked) == len(set(asked))


def test_positives_are_in_the_pool_and_named_once(
    passages: dict[str, Row], queries: dict[str, list[Row]]
) -> None:
    for query in (q for rows in queries.values() for q in rows):
        positives = query["pos_item_ids"]
        assert positives and len(positives) == len(set(positives)), query["question_id"]
        assert set(positives) <= set(passages), query["question_id"]


def test_tasks_have_the_right_sides(
    queries: dict[str, list[Row]], pictures: dict[str, bytes]
) -> None:
    for query in (q for rows in queries.values() for q in rows):
        has_picture, has_question = query["img_path"] is not None, bool(query["question"].strip())
        expected = {"I2T": (True, False), "Q2T": (False, True), "IQ2T": (True, True)}
        assert (has_picture, has_question) == expected[query["task"]], query["question_id"]
        if has_picture:
            assert query["img_path"] in pictures
    forms = {q["form"] for q in queries["test"]}
    nine = {"wit", "kvqa", "cc3m", "msmarco", "oven", "llava", "okvqa", "infoseek", "evqa"}
    assert forms == nine


def test_enough_photographs_alone_in_test(queries: dict[str, list[Row]]) -> None:
    photos = [
        q for q in queries["test"] if q["task"] == "I2T" and q["img_path"].startswith("photos/")
    ]
    assert len(photos) >= 120


def test_splits_share_no_entity(queries: dict[str, list[Row]]) -> None:
    entities = {split: {q["entity"] for q in rows} for split, rows in queries.items()}
    assert not entities["train"] & entities["valid"]
    assert not (entities["train"] | entities["valid"]) & entities["test"]
    assert entities["seen"] <= entities["train"]


def test_splits_share_no_picture_but_seen_with_train(queries: dict[str, list[Row]]) -> None:
    used = {split: {q["img_path"] for q in rows} - {None} for split, rows in queries.items()}
    assert not used["train"] & used["valid"]
    assert not (used["train"] | used["valid"]) & (used["test"])


def test_seen_asks_nothing_that_train_asks(queries: dict[str, list[Row]]) -> None:
    def pairs(split: str, key: str) -> set[tuple[str, str]]:
        return {(q[key], q["question"]) for q in queries[split] if q[key] is not None}

    assert not pairs("seen", "img_path") & pairs("train", "img_path")
    # Pictures alone and oven's one question come back with another photo; facts never do.
    facts = {
        split: {(q["entity"], q["question"]) for q in queries[split] if q["answers"]}
        - {(q["entity"], q["question"]) for q in queries[split] if q["form"] == "oven"}
        for split in ("seen", "train")
    }
    assert facts["seen"] and not facts["seen"] & facts["train"]
    text_only = {q["question"] for q in queries["seen"] if q["img_path"] is None}
    assert not text_only & {q["question"] for q in queries["train"]}


def test_every_positive_of_a_fact_holds_an_answer(
    passages: dict[str, Row], queries: dict[str, list[Row]]
) -> None:
    for query in (q for rows in queries.values() for q in rows):
        if not query["answers"]:
            assert query["gold_answer"] is None
            continue
        assert query["gold_answer"] == query["answers"][0]
        for positive in query["pos_item_ids"]:
            text = passages[positive]["passage_content"].lower()
            assert any(a.lower() in text for a in query["answers"]), (query, positive)


def test_picture_questions_do_not_name_what_is_shown(queries: dict[str, list[Row]]) -> None:
    names = {}
    for line in (FOLDER / "entities.jsonl").read_text().splitlines():
        entity = json.loads(line)
        names[entity["id"]] = entity["name"]
    for query in (q for rows in queries.values() for q in rows):
        if query["task"] == "IQ2T":
            name = re.escape(names[query["entity"]])
            assert not re.search(rf"\b{name}\b", query["question"], re.IGNORECASE), query


def test_equal_questions_by_text_have_equal_positives(queries: dict[str, list[Row]]) -> None:
    found: dict[str, set[frozenset[str]]] = defaultdict(set)
    for query in (q for rows in queries.values() for q in rows if q["task"] == "Q2T"):
        found[query["question"]].add(frozenset(query["pos_item_ids"]))
    assert {question for question, sets in found.items() if len(sets) > 1} == set()


def test_instructions_are_known_templates(queries: dict[str, list[Row]]) -> None:
    for query in (q for rows in queries.values() for q in rows):
        templates = TEMPLATES[mini.INSTRUCTIONS.get(query["form"], "iq2t")].templates
        assert query["instruction"] in templates


def test_texts_are_clean(passages: dict[str, Row]) -> None:
    for passage in passages.values():
        text = passage["passage_content"]
        assert text == text.strip() and "  " not in text, passage["passage_id"]
        assert not re.search(r"<[a-z/]|&[a-z]+;|\n", text), passage["passage_id"]
        assert 2 <= len(text.split()) <= 130, passage["passage_id"]
    bare = defaultdict(list)
    for passage in passages.values():
        bare[passage["passage_content"]].append(passage["passage_id"])
    assert [ids for ids in bare.values() if len(ids) > 1] == []


def test_ids_that_others_cite_stay(passages: dict[str, Row]) -> None:
    assert passages["factbook/gb/flag"]["title"] == "United Kingdom"
    assert "Saint George" in passages["factbook/gb/flag"]["passage_content"]
    assert passages["eiffel-tower/overview"]["origin"] == "own"


def test_building_needs_no_repair(
    ledger: Ledger, queries: dict[str, list[Row]], passages: dict[str, Row]
) -> None:
    assert queries and passages
    assert not ledger.counts


def test_splits_depend_on_the_id_alone() -> None:
    assert mini.split_of("eiffel-tower", "photo") == mini.split_of("eiffel-tower", "photo")
    shares = [mini.split_of(f"entity-{i}", "photo") for i in range(2000)]
    assert 0.36 < shares.count("test") / 2000 < 0.44
    assert 0.08 < shares.count("valid") / 2000 < 0.12
