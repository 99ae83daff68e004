"""OVEN: what its options change, what is drawn, and rows of any kind.

Its tables, ledger and counts are tested with those of all sources (``test_sources_one.py``).
"""

import gzip
import json
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.faulty_server import FaultyServer
from support.golden_tables import ids, ledger_of, rows_of
from support.upstream_fixture import Served

from m2kr.building.build import Built, build
from m2kr.building.content import rows_in
from m2kr.building.ledger import Ledger
from m2kr.building.options import resolve_options
from m2kr.building.spec import BuildContext
from m2kr.errors import InputError, M2KRError
from m2kr.instructions import templates_of
from m2kr_builders import _images, oven

Records = list[dict[str, Any]]
TRAIN, VAL = oven.ANNOTATIONS.values()
ENTITIES = 30
SAMPLES = os.environ.get("M2KR_UPSTREAM_SAMPLES")


def asked(part: str, number: int, entity: int, **changes: Any) -> dict[str, Any]:
    """An annotation as upstream has it."""
    return {
        "data_id": f"oven_entity_{part}_{number:08d}",
        "image_id": f"oven_{number:08d}",
        "question": "what is this?",
        "entity_id": f"Q{entity}",
        "entity_text": f"Entity {entity}",
        "data_split": f"entity_{part}",
    } | changes


def page(entity: int, **changes: Any) -> dict[str, Any]:
    """A row of Wiki6M."""
    return {
        "wikidata_id": f"Q{entity}",
        "wikipedia_title": f"Entity {entity}",
        "wikipedia_content": f"Entity {entity} is shown. It is described, too.",
        "wikipedia_summary": f"Entity {entity} is shown.",
        "wikipedia_image_url": None,
    } | changes


def drawn(part: str, rows: int) -> Records:
    """Rows of which the first entities have most."""
    draw = random.Random(part)
    return [asked(part, n, int(ENTITIES * draw.random() ** 3)) for n in range(rows)]


DATA = {"train": drawn("train", 400), "val": drawn("val", 100)}
PAGES = [page(n) for n in range(ENTITIES + 5)]
COUNTS = Counter(row["entity_id"] for row in DATA["train"])


def lines(records: Records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def upstream(
    train: Records = DATA["train"], val: Records = DATA["val"], pages: Records = PAGES
) -> dict[str, bytes]:
    """The three files."""
    return {TRAIN: lines(train), VAL: lines(val), oven.WIKI: gzip.compress(lines(pages), 1)}


def built(root: Path, files: dict[str, bytes], **choices: Any) -> Built:
    with FaultyServer({f"/{name}": body for name, body in files.items()}) as server:
        return build(Served("oven", server.url("")), root, **choices)


@pytest.mark.parametrize("most", ["1", "5", "all", "nearest"])
def test_train_has_so_many_rows_of_an_entity(tmp_path: Path, most: str) -> None:
    edition = built(tmp_path, upstream(), options={"per_entity": most})
    found = Counter(row["wiki_entity_id"] for row in rows_of(edition, "queries", "train"))
    # All of this little are less than what the release has, so all are nearest to it.
    cap = int(most) if most.isdecimal() else max(COUNTS.values())
    assert found == {entity: min(cap, n) for entity, n in COUNTS.items()}
    assert ids(edition, "passages", "train_passages") == set(COUNTS)


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(0, 800))
def test_the_cap_that_comes_nearest(counts: list[int], wanted: int) -> None:
    def off(cap: int) -> int:
        return abs(sum(min(cap, n) for n in counts) - wanted)

    cap = oven.nearest_cap(np.array(counts, np.int64), wanted)
    assert cap == min(range(1, max(counts, default=1) + 1), key=off)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**64 - 1)), max_size=40))
def test_the_smallest_keys_of_each_group(rows: list[tuple[int, int]]) -> None:
    groups = np.array([group for group, _ in rows], np.int32)
    keys = np.array([key for _, key in rows], np.uint64)
    found = [rows[place] for place in oven.smallest(keys, groups, 2)]
    for group in range(5):
        expected = sorted(row for row in rows if row[0] == group)[:2]
        assert sorted(row for row in found if row[0] == group) == expected


def test_draws_depend_on_seed_and_id_alone(tmp_path: Path) -> None:
    options = {"per_entity": "4", "test_queries": "20"}

    def kept(name: str, seed: int = 0, **files: Records) -> tuple[set[str], set[str]]:
        edition = built(tmp_path / name, upstream(**files), options=options, seed=seed)
        return ids(edition, "queries", "train"), ids(edition, "queries", "test")

    plain = kept("plain")
    assert kept("turned", **{part: rows[::-1] for part, rows in DATA.items()}) == plain
    seeded = kept("seeded", seed=1)
    assert seeded[0] != plain[0] and seeded[1] != plain[1]
    more = [asked("train", n, n % 9) for n in range(1000, 1100)]
    old = {own for own in kept("more", train=DATA["train"] + more)[0] if own[-4] == "0"}
    assert old < plain[0], "a new row may only push others of its entity out"


def test_valid_and_test_are_all_of_upstreams_val(tmp_path: Path) -> None:
    few = built(tmp_path / "few", upstream(), options={"test_queries": "20"})
    most = built(tmp_path / "most", upstream())
    for edition, size in ((few, 20), (most, 50)):
        valid, test = ids(edition, "queries", "valid"), ids(edition, "queries", "test")
        assert len(test) == size and not valid & test
        assert valid | test == {row["data_id"] for row in DATA["val"]}
    assert ids(few, "queries", "test") < ids(most, "queries", "test")


def test_one_split_needs_the_rows_of_its_own_file_alone(tmp_path: Path) -> None:
    whole = built(tmp_path / "whole", upstream())
    no_train = upstream() | {TRAIN: b"\n"}
    alone = built(tmp_path / "alone", no_train, splits=["test"])
    for kind, name in (("queries", "test"), ("passages", "test_passages")):
        assert rows_of(alone, kind, name) == rows_of(whole, kind, name)
    with pytest.raises(InputError, match=r"oven_entity_train\.jsonl"):
        built(tmp_path / "none", no_train)


def test_the_same_rows_twice_give_one_an_id(tmp_path: Path) -> None:
    twice = {
        part: rows + [row | {"entity_id": "Q1"} for row in rows] for part, rows in DATA.items()
    }
    edition = built(tmp_path / "twice", upstream(**twice, pages=PAGES + PAGES))
    single = built(tmp_path / "single", upstream())
    for split in ("train", "valid", "test"):
        assert rows_of(edition, "queries", split) == rows_of(single, "queries", split)
        dropped = edition.manifest["tables"][f"OVEN_data/{split}"]["ledger"]["dropped"]
        assert dropped == {
            "a data_id used twice": len(DATA["train" if split == "train" else "val"])
        }
    facts = edition.manifest["tables"]["OVEN_passages/train_passages"]
    assert facts["rows"] == len(COUNTS)


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    spaced = {
        name: body.replace(b"\n", b"\n\n") for name, body in upstream().items() if name != oven.WIKI
    }
    wiki = gzip.compress(b"\n\n" + lines(PAGES).replace(b"\n", b"\r\n \n"), 1)
    edition = built(tmp_path / "spaced", spaced | {oven.WIKI: wiki}, full_ledger=True)
    plain = built(tmp_path / "plain", upstream())
    for kind, name in (("queries", "train"), ("queries", "test"), ("passages", "test_passages")):
        assert rows_of(edition, kind, name) == rows_of(plain, kind, name)


def test_an_entity_without_a_summary_keeps_its_passage_and_its_questions(tmp_path: Path) -> None:
    val = [asked("val", n, n) for n in range(12)]
    bare = {key: page(5)[key] for key in ("wikidata_id", "wikipedia_title")}
    blank = {"wikipedia_summary": "", "wikipedia_content": " \n"}
    pages = [
        page(0),
        page(1, wikipedia_summary=" \n"),
        page(2, wikipedia_summary=None),
        {key: value for key, value in page(3).items() if key != "wikipedia_summary"},
        page(4, **blank),
        bare,
        page(6, wikipedia_summary=3, wikipedia_title=["a"]),
        page(7, **blank, wikipedia_title=None),
        page(8, **blank),
        page(9, wikipedia_title=None),
        # A later row is taken where it has what an earlier one lacks.
        page(1),
        page(8, wikipedia_summary=None, wikipedia_content="More of it."),
        page(0, wikipedia_summary="Another."),
        page(4, **blank),
        page(10),
    ]
    edition = built(tmp_path, upstream(DATA["train"][:50], val, pages))
    found = {r["passage_id"]: r for r in rows_of(edition, "passages", "test_passages")}
    whole = "Entity {0} is shown. It is described, too."
    assert {own: row["passage_content"] for own, row in found.items()} == {
        **{f"Q{n}": f"Entity {n} is shown." for n in (0, 1, 9, 10)},
        **{f"Q{n}": whole.format(n) for n in (2, 3, 6)},
        **{f"Q{n}": f"Entity {n}" for n in (4, 5)},
        "Q8": "More of it.",
    }
    assert list(found) == [f"Q{n}" for n in (0, 2, 3, 4, 5, 6, 9, 1, 8, 10)]
    assert found["Q6"]["title"] is None and found["Q1"]["title"] == "Entity 1"
    asked_of = {
        r["wiki_entity_id"] for s in ("valid", "test") for r in rows_of(edition, "queries", s)
    }
    assert asked_of == set(found)
    told = edition.manifest["tables"]["OVEN_data/valid"]["ledger"]["dropped"]
    assert told == {"no passage of the entity": 2}
    told = edition.manifest["tables"]["OVEN_passages/valid_passages"]["ledger"]
    assert told["dropped"] == {"a wikidata_id used twice": 4, "no summary, content or title": 1}
    assert told["repaired"] == {
        "no summary: wikipedia_content in its place": 4,
        "no summary: wikipedia_title in its place": 2,
    }


@pytest.mark.parametrize(
    ("question", "ending"),
    [
        ("what is the main object?", ".JPEG"),
        ("which type of food is depicted in the image?", ".JPEG"),
        ("what is this building?", ".JPEG"),
        ("what is this building called?", ".jpg"),
        ("what is this place?", ".jpg"),
        ("which species of plant is this?", ".jpg"),
        ("which category of place is the image showing?", ".jpg"),
        ("is what is the main object? a question", ".jpg"),
    ],
)
def test_the_ending_of_an_image(question: str, ending: str) -> None:
    assert _images.oven_ending(question) == ending


@pytest.mark.skipif(not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files")
def test_the_endings_of_known_images() -> None:
    table = pq.read_table(Path(str(SAMPLES)) / "m2kr_challenge" / "m2kr_data.parquet")
    known = [r for r in table.to_pylist() if re.fullmatch(r"o\d{8}\.\w+", r["img_path"])]
    right = [r["img_path"].endswith(_images.oven_ending(r["question"])) for r in known]
    assert (len(known), sum(right)) == (3_015, 3_007)


@pytest.mark.skipif(not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files")
def test_every_real_annotation_comes_through(tmp_path: Path) -> None:
    parts = {}
    for part in ("train", "val"):
        path = Path(str(SAMPLES)) / "oven" / f"oven_entity_{part}.sample.jsonl"
        parts[part] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = {row["entity_id"] for rows in parts.values() for row in rows}
    pages = [
        page(0, wikidata_id=name, wikipedia_summary=f"About {name}.") for name in sorted(names)
    ]
    edition = built(tmp_path, upstream(**parts, pages=pages), options={"test_queries": "10"})
    rows = {s: rows_of(edition, "queries", s) for s in ("train", "valid", "test")}
    assert {split: len(found) for split, found in rows.items()} == {
        **{"train": 10, "valid": 50, "test": 10}
    }
    first = next(
        r for s in rows.values() for r in s if r["question_id"] == FIRST_VAL["question_id"]
    )
    assert {name: first[name] for name in FIRST_VAL} == FIRST_VAL
    for split, table in rows.items():
        assert all(row["pos_item_contents"] == [f"About {row['wiki_entity_id']}."] for row in table)
        assert not ledger_of(edition, "dropped", "repaired").get(f"OVEN_data/{split}")


FIRST_VAL = {
    "question_id": "oven_entity_val_00000000",
    "question": "what is this park called?",
    "img_path": "04/oven_04944518.jpg",
    "wiki_entity": "Nationals Park",
    "wiki_entity_id": "Q517545",
}


@pytest.mark.parametrize(
    ("image_id", "path"),
    [
        ("oven_01963180", "01/oven_01963180.jpg"),
        ("oven_00000042", "00/oven_00000042.jpg"),
        *(
            (wrong, None)
            for wrong in ("oven_42", "oven_019631800", "01963180", "", "oven_0196318x")
        ),
        *((wrong, None) for wrong in ("../oven_01963180", "oven_01963180\n", "oven_٠١963180")),
    ],
)
def test_the_path_of_an_image(image_id: str, path: str | None) -> None:
    assert _images.oven_path(image_id) == path


def test_a_look_at_the_first_bytes() -> None:
    files = upstream(drawn("train", 3000), pages=[page(n) for n in range(20_000)])
    for asset in oven.BUILDER().assets(resolve_options(oven.SOURCE, {})):
        whole = files[asset.name]
        for size in (len(whole), len(whole) * 2 // 3):
            found = rows_in(whole[:size], asset.name, asset.shape, whole=size == len(whole))
            assert found is not None and found >= 60, (asset.name, size)


Value = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 4) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
Changes = st.dictionaries(
    st.sampled_from((*oven.KEYS, *oven.WIKI_KEYS, "wikipedia_content")), Value, max_size=2
)
Some = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), Changes), max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("oven")


@settings(max_examples=60, deadline=None)
@given(Some, Some, Some, Value)
def test_rows_of_any_kind_are_accounted_for(
    folder: Path, train: Any, val: Any, pages: Any, value: Any
) -> None:
    train = [asked("train", n, e, **changes) for n, e, changes in train]
    val = [asked("val", n, e, **changes) for n, e, changes in val]
    pages = [page(e, **changes) for _, e, changes in pages]
    files = {}
    for name, body in upstream([value, *train], [*val, value], [*pages, value]).items():
        files[name] = folder / Path(name).name
        files[name].write_bytes(body)
    options, templates = resolve_options(oven.SOURCE, {"per_entity": "2"}), templates_of("oven")
    scratch = Path(tempfile.mkdtemp(dir=folder))
    found: dict[str, Records] = {}
    for table in ("train_passages", "test_passages", "train", "valid", "test"):
        ledger = Ledger(table)
        context = BuildContext(oven.SOURCE, files, ledger, options, 0, scratch, templates=templates)
        make = oven.BUILDER().passages if "_" in table else oven.BUILDER().queries
        try:
            found[table] = [dict(row) for row in make(context, table)]
        except M2KRError as error:
            assert "not one record" in str(error)
            return
        for flow in ledger.close()["inputs"].values():
            assert flow.get("rows", 0) == len(found[table])
    for split, pool in (("train", "train"), ("valid", "test"), ("test", "test")):
        held = {row["passage_id"] for row in found[f"{pool}_passages"]}
        assert all(row["pos_item_ids"][0] in held for row in found[split])
        assert all(row["img_path"] for row in found[split])
    assert all(row["passage_content"].strip() for row in found["train_passages"])
