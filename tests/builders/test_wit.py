"""WIT: what its options change, what is drawn, and rows of any kind.

Its tables, ledger and counts are tested with those of all sources (``test_sources_one.py``).
"""

import csv
import hashlib
import os
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES
from servers.faulty_server import FaultyServer
from support.golden_tables import FIRST, golden, ids, make, rows_of
from support.upstream_fixture import Served, served_files
from support.upstream_wit import BASE, Cells, cells, name_of, packed, tsv, upstream

from m2kr.building.build import Built, build
from m2kr.building.content import rows_in
from m2kr.building.ledger import Ledger
from m2kr.building.options import resolve_options
from m2kr.building.spec import BuildContext
from m2kr.errors import InputError, MissingError
from m2kr.instructions import templates_of
from m2kr_builders import _wit, wit

SAMPLES = os.environ.get("M2KR_UPSTREAM_SAMPLES")
TOWN = "Deer Park, Wisconsin"


def image_id(image: int) -> str:
    return hashlib.md5(f"{BASE}{image}.jpg".encode()).hexdigest()


def built(root: Path, filled: Mapping[str, list[Cells]], **choices: Any) -> Built:
    files = {f"/{name}": body for name, body in upstream(filled).items()}
    with FaultyServer(files) as server:
        return build(Served("wit", server.url("")), root, **choices)


def many(part: str, rows: int, first: int) -> list[Cells]:
    """Rows of which some share an image."""
    draw = random.Random(part)
    return [cells(first + n, first + draw.randrange(rows)) for n in range(rows)]


DATA = {
    "train-00003": many("train", 60, 1000),
    "val-00001": many("val a", 30, 2000),
    "val-00004": many("val b", 30, 2000),
    "test-00000": many("test", 40, 3000),
}


def test_parts_account_for_every_row_of_upstreams_files(
    server: FaultyServer, tmp_path: Path
) -> None:
    parts = make(server, tmp_path, "wit").manifest["parts"]
    assert len(parts) == 20
    told = {name.removeprefix("WIT_parts/"): facts for name, facts in parts.items()}
    assert told["train-00000"]["rows"] == 6
    assert told["train-00000"]["inputs"] == {
        "wit_v1.train.all-00000-of-00010.tsv.gz": {
            "read": 10,
            "used": 6,
            "rows": 6,
            "filtered": 1,
            "dropped": 3,
        }
    }
    assert told["train-00000"]["ledger"] == {
        "dropped": {"unreadable record": 2, "no image_url": 1},
        "filtered": {"not English": 1},
        "repaired": {
            "is_main_image is no flag, left out": 1,
            "original_height is no number, left out": 1,
        },
    }
    assert told["train-00001"]["rows"] == 0


def test_only_rows_with_an_available_image(server: FaultyServer, tmp_path: Path) -> None:
    options = golden(FIRST["wit"])["options"]
    whole = make(server, tmp_path / "whole", "wit")
    every = rows_of(whole, "passages", "train_passages")
    have = sorted({row["image_id"] for row in every})[::2]
    path = tmp_path / "have.txt"
    path.write_text("\r\n".join(own.upper() for own in have) + "\n\n")
    some = make(server, tmp_path / "some", "wit", options={**options, "available": str(path)})
    found = rows_of(some, "passages", "train_passages")
    expected = [row for row in every if row["image_id"] in have]
    # Numbered anew, as the rest isn't there.
    for number, row in enumerate(expected):
        row["passage_id"] = f"WIT_{number}"
    assert found == expected
    for split in ("train", "valid", "test"):
        assert ids(some, "queries", split) <= set(have)
    listed = some.manifest["tables"]["WIT_passages/train_passages"]["ledger"]["filtered"]
    lacking = "an image that is not in the list of available ones"
    assert listed == {lacking: len(every) - len(expected), "an image too small": 3}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("no line", "have.txt")),
        (b"\n \n", ("no line",)),
        (b"0" * 32 + b"\n" + b"0" * 31 + b"\n", ("line 2", "32 hex digits")),
        (b"0" * 32 + b".jpg\n", ("line 1", ".jpg")),
        (b"0" * 5000, ("line 1",)),
        (b"\xff\x00\n", ("line 1",)),
    ],
)
def test_a_list_of_anything_else_is_refused(
    server: FaultyServer, tmp_path: Path, content: bytes, words: tuple[str, ...]
) -> None:
    path = tmp_path / "have.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        make(server, tmp_path, "wit", options={"available": str(path)})
    assert all(word in str(caught.value) for word in words)
    assert not list(tmp_path.glob("*/*_manifest.json"))


def test_a_list_that_is_not_there_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    with FaultyServer(served_files()) as server, pytest.raises(MissingError, match=r"none\.txt"):
        make(server, tmp_path, "wit", options={"available": str(tmp_path / "none.txt")})
    assert not server.requests


@pytest.mark.parametrize(("least", "kept"), [("0", 6), ("32", 3), ("33", 2), ("100000", 1)])
def test_images_are_larger_on_both_sides(tmp_path: Path, least: str, kept: int) -> None:
    sizes = [("32", "33"), ("33", "32"), ("33", "33"), ("34", "34"), ("", ""), ("1", "")]
    rows = [
        cells(n, n, original_height=height, original_width=width)
        for n, (height, width) in enumerate(sizes)
    ]
    edition = built(tmp_path, DATA | {"train-00000": rows}, options={"min_side": least})
    pages = {r["page_title"] for r in rows_of(edition, "passages", "train_passages")}
    assert len(pages & {f"Page {n}" for n in range(len(sizes))}) == kept


def test_draws_depend_on_seed_and_image_alone(tmp_path: Path) -> None:
    options = {"valid_queries": "12", "test_queries": "7"}

    def kept(name: str, seed: int = 0, **changes: list[Cells]) -> tuple[set[str], set[str]]:
        changed = {k.replace("_", "-"): rows for k, rows in changes.items()}
        edition = built(tmp_path / name, DATA | changed, options=options, seed=seed)
        valid, test = (rows_of(edition, "queries", split) for split in ("valid", "test"))
        pool = ids(edition, "passages", "test_passages")
        assert pool == {own for row in valid + test for own in row["pos_item_ids"]}
        return {row["question_id"] for row in valid}, {row["question_id"] for row in test}

    plain = kept("plain")
    assert [len(found) for found in plain] == [12, 7]
    turned = {name.replace("-", "_"): rows[::-1] for name, rows in DATA.items()}
    assert kept("turned", **turned) == plain
    seeded = kept("seeded", seed=1)
    assert seeded[0] != plain[0] and seeded[1] != plain[1]
    more = kept("more", val_00000=many("more", 20, 5000))
    old = {image_id(n) for n in range(2000, 2100)}
    assert more[0] & old < plain[0] and more[1] == plain[1], "a new image may only push others out"


def test_an_image_has_the_passages_of_its_rows_in_its_own_part(tmp_path: Path) -> None:
    edition = built(tmp_path, DATA)
    at, number = defaultdict[tuple[str, str], list[str]](list), 0
    for part, split in (("train", "train"), ("val", "valid"), ("test", "test")):
        for name in sorted(name for name in DATA if name.startswith(part)):
            for row in DATA[name]:
                own = hashlib.md5(row["image_url"].encode()).hexdigest()
                at[split, own].append(f"WIT_{number}")
                number += 1
    for split in ("train", "valid", "test"):
        found = {r["question_id"]: r["pos_item_ids"] for r in rows_of(edition, "queries", split)}
        assert found == {own: right for (of, own), right in at.items() if of == split}
        assert list(found) == sorted(found)
    assert max(map(len, at.values())) > 1


def test_one_split_has_the_rows_of_the_whole(tmp_path: Path) -> None:
    whole = built(tmp_path / "whole", DATA)
    alone = built(tmp_path / "alone", DATA, splits=["test"])
    for kind, name in (("queries", "test"), ("passages", "test_passages")):
        assert rows_of(alone, kind, name) == rows_of(whole, kind, name)


def test_a_look_at_the_first_bytes() -> None:
    files = upstream(DATA | {"train-00000": many("look", 20_000, 0)})
    for asset in wit.BUILDER().assets(resolve_options(wit.SOURCE, {}))[:1]:
        whole = files[asset.name]
        for size in (len(whole), len(whole) * 2 // 3):
            found = rows_in(whole[:size], asset.name, asset.shape, whole=size == len(whole))
            assert found is not None and found >= 1000


def laid_out(row: Mapping[str, Any]) -> str:
    """The text of a passage, told once more."""
    text = f"title: {row['page_title']}"
    for name in _wit.HEADER:
        if name.startswith(("section", "hierarchical", "caption")) and row[name] is not None:
            text += f" {name.replace('_', ' ')}: {row[name]}"
    return f"{text} content: {row['context_page_description']}"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
NULLS = frozenset(STR_NA_VALUES)
CELL = (
    st.sampled_from(["true", "false", "1", "33", "1e3", "-4", "9" * 19, " 40", "٣", *sorted(NULLS)])
    | TEXT
)
CHANGES = st.dictionaries(st.sampled_from(_wit.HEADER), CELL, max_size=6)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), CHANGES), max_size=6))
@example([(0, {"page_title": "a\r", "caption_alt_text_description": "\n"})])
def test_cells_of_any_kind(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, Cells]]
) -> None:
    given = [cells(n, image, **changes) for n, (image, changes) in enumerate(rows)]
    path = tmp_path_factory.mktemp("cells") / "a.tsv.gz"
    path.write_bytes(packed(tsv(given)))
    ledger = Ledger("cells")
    name = name_of("val-00000")
    ctx = BuildContext(wit.SOURCE, {name: path}, ledger, templates=templates_of("wit"))
    found = [
        row
        for batch in wit.BUILDER().make_part(ctx, "val-00000")
        for row in pa.Table.from_batches([batch])
        .append_column("text", [_wit.passage_text(batch)])
        .to_pylist()
    ]
    flows = ledger.close()["inputs"]
    kept = [r for r in given if r["language"] == "en" and r["image_url"] not in NULLS]
    assert sum(flow.get("rows", 0) for flow in flows.values()) == len(found) == len(kept)
    for row, source in zip(found, kept, strict=True):
        assert row["text"] == laid_out(row)
        assert row["image_id"] == hashlib.md5(source["image_url"].encode()).hexdigest()
        for field in _wit.ROW_SCHEMA:
            cell = source.get(field.name)
            if pa.types.is_boolean(field.type):
                assert row[field.name] == {"true": True, "false": False}.get(str(cell))
            elif pa.types.is_integer(field.type):
                plain = cell is not None and cell.isascii() and cell.isdecimal() and len(cell) < 19
                assert row[field.name] == (int(str(cell)) if plain else None)
            elif field.name != "image_id":
                assert row[field.name] == (None if cell in NULLS else cell)


# Words for nothing in any case, alone, in quotes, padded and within others.
WORDS = st.sampled_from(sorted(NULLS)).flatmap(
    lambda word: st.sampled_from(
        [word, word.upper(), word.lower(), word.title(), f" {word}", f"{word} ", f"{word}s", "x"]
    )
)
TEXTS = [n for n in _wit.HEADER if pa.types.is_string(_wit.ROW_SCHEMA.field(n).type)]


@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(st.sampled_from(TEXTS), WORDS), min_size=1, max_size=5), st.booleans()
)
def test_words_for_nothing_are_those_of_the_authors_reader(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Cells], quoted: bool
) -> None:
    given = [cells(n, n, **changes) for n, changes in enumerate(rows)]
    path = tmp_path_factory.mktemp("words") / "a.tsv.gz"
    path.write_bytes(packed(tsv(given, csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)))
    ctx = BuildContext(wit.SOURCE, {name_of("val-00000"): path}, Ledger("words"))
    found = [
        row for batch in wit.BUILDER().make_part(ctx, "val-00000") for row in batch.to_pylist()
    ]
    frame = pd.read_csv(path, sep="\t", dtype=dict.fromkeys(TEXTS, str)).astype(object)
    read = frame.where(frame.notna(), None).to_dict("records")
    kept = [row for row in read if row["language"] == "en" and row["image_url"] is not None]
    assert [[row[n] for n in TEXTS] for row in found] == [[row[n] for n in TEXTS] for row in kept]


def test_a_page_named_na_has_no_title(tmp_path: Path) -> None:
    rows = [cells(1, 1, page_title="NA", section_title="null", caption_alt_text_description="nan")]
    rows.append(cells(2, 2, page_title="Na", context_page_description="N/A"))
    edition = built(
        tmp_path,
        {"train-00002": rows, "val-00000": DATA["val-00001"], "test-00001": DATA["test-00000"]},
    )
    first, second = rows_of(edition, "passages", "train_passages")[:2]
    assert first["title"] is None and first["page_title"] is None
    assert first["passage_content"] == (
        "title: None hierarchical section title: Page 1 content: Page 1 is a page."
    )
    assert second["passage_content"] == "title: Na hierarchical section title: Page 2 content: None"


@pytest.mark.skipif(not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files")
def test_the_pinned_digests_are_upstreams() -> None:
    listed = (Path(str(SAMPLES)) / "wit" / "checksums.tsv").read_text(encoding="utf-8")
    published = {tuple(line.split("\t")[:3]) for line in listed.splitlines()}
    assets = wit.BUILDER().assets(resolve_options(wit.SOURCE, {}))
    assert {(a.urls[0], str(a.size), a.sha256) for a in assets} == published
    assert sum(a.size or 0 for a in assets if ".train." in a.name) == 26_701_451_720


@pytest.mark.skipif(not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files")
def test_real_rows_come_through(tmp_path: Path) -> None:
    """Upstream's own bytes: a header, three rows with line ends in quoted cells, and an English row."""
    folder = Path(str(SAMPLES)) / "wit"
    english = (folder / "en_row_of_kaggle_train.tsv").read_bytes().rstrip(b"\n") + b"\n"
    content = (folder / "train-00000-of-00009.tsv").read_bytes().rstrip(b"\n") + b"\n" + english
    files = upstream(DATA)
    for name in ("train-00003", "val-00001", "test-00000"):
        rows = tsv(DATA[name]).split(b"\n", 1)[1]
        files[name_of(name)] = packed(content + rows)
    with FaultyServer({f"/{name}": body for name, body in files.items()}) as server:
        edition = build(Served("wit", server.url("")), tmp_path)
    part = edition.manifest["parts"]["WIT_parts/train-00003"]
    assert part["inputs"]["wit_v1.train.all-00003-of-00010.tsv.gz"] == {
        "read": 64,
        "filtered": 3,
        "used": 61,
        "rows": 61,
    }
    (row,) = [r for r in rows_of(edition, "passages", "train_passages") if r["page_title"] == TOWN][
        :1
    ]
    url = (
        "https://upload.wikimedia.org/wikipedia/commons/2/28/Deer_Park_Wisconsin_Downtown_WIS46.jpg"
    )
    assert row["image_url"] == url
    assert row["image_id"] == hashlib.md5(url.encode()).hexdigest()
    assert row["img_path"] == f"{row['image_id']}.jpg"
    assert (row["original_height"], row["original_width"]) == (1824, 2736)
    assert row["is_main_image"] is True and row["section_title"] is None
    assert row["passage_content"] == (
        f"title: {TOWN} hierarchical section title: {TOWN} "
        "caption reference description: Downtown Deer Park "
        "caption attribution description: English: Downtown Deer Park, Wisconsin on WIS46. "
        "caption alt text description: Downtown Deer Park "
        "content: Deer Park is a village in St. Croix County, Wisconsin, United States. The "
        "population was 216 at the 2010 census."
    )
    assert row["image_id"] in ids(edition, "queries", "train")


DIGESTS = st.sampled_from(
    [b"\0" * 16, b"a" * 15 + b"\0", b"\0" * 15 + b"a", b"b" * 16, b"\xff" * 16]
)


@given(st.lists(DIGESTS, max_size=12), st.data())
def test_rows_by_image(digests: list[bytes], data: st.DataObject) -> None:
    images = np.array(digests, "S16")
    rows = np.array([n for n in range(len(digests)) if data.draw(st.booleans())], np.int64)
    expected = defaultdict[str, list[int]](list)
    for row in rows.tolist():
        expected[digests[row].hex()].append(row)
    groups = wit.ImageGroups.of_rows(images, rows)
    found = {own: groups.of(place).tolist() for place, own in enumerate(groups.ids())}
    assert found == expected and list(found) == sorted(found)
    places = np.array([p for p in range(len(groups)) if data.draw(st.booleans())], np.int64)
    taken = groups.some(places)
    names = list(found)
    again = {own: taken.of(place).tolist() for place, own in enumerate(taken.ids())}
    assert again == {names[p]: found[names[p]] for p in places}
