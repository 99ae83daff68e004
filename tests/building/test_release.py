"""The release route from a local folder: rows, repairs and their ledger, counts, refusals, resumption."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import release_fixture as fixture
from conftest import Cli
from datasets import DatasetDict, load_dataset

import m2kr
from m2kr.building import registry
from m2kr.building.build import Built, build
from m2kr.building.release import tables as release_files
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.building.release.routes import builder_for
from m2kr.building.spec import templates_of
from m2kr.building.table import open_shards
from m2kr.building.templates import registered_templates
from m2kr.building.verify import verify
from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.schema import columns

ALL = tuple(fixture.CONFIGS)
SOON = "needs run.py to leave the templates out of the key of a release build"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release's files. Not to be written to."""
    return fixture.write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def root(files: Path, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten sources, built by one command."""
    root = tmp_path_factory.mktemp("built")
    options = ("--route", "release", "--any-counts", "--from", files, "--data", root)
    done = cli("build", *ALL, *options, "--json")
    built = json.loads(done.stdout)["built"]
    assert [each["source"] for each in built] == list(ALL)
    assert {each["route"] for each in built} == {"release"}
    return root


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the fixture's counts the published ones."""
    for name in ALL:
        builder = type(registry.builder(name))
        spec = dataclasses.replace(builder.source, expected=fixture.counts(name))
        monkeypatch.setattr(builder, "source", spec)


def made(name: str, files: Path, root: Path, **more: Any) -> Built:
    options = {k: more.pop(k) for k in ("repair", "any_counts") if k in more}
    return build(ReleaseBuilder(name, files, **options), root, **more)


def rows_of(root: Path, table: str, edition: str = "m2kr") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_shards(root / edition / table).to_pylist()
    return rows


def ledger(root: Path, config: str, edition: str = "m2kr") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        root / edition / f"{config}_ledger.parquet"
    ).to_pylist()
    return rows


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# -- Rows ---------------------------------------------------------------------------------------

NULLS = {"answers": [], "gold_answer": None, "question_type": None}
PEAR = '{"attribute_scores":[0.25,0.125],"attributes":["ripe","grün"],"class":"pear","ocr":'
TOWER = '{"attribute_scores":[0.5],"attributes":["tall"],"class":"tower","ocr":[],"rect":'

# What some rows must be, whole, as written by hand.
EXPECTED: dict[tuple[str, int], dict[str, Any]] = {
    ("KVQA_data/test", 1): {
        "question_id": "KVQA_test_1",
        "question": "",
        "instruction": "Name the people shown: ",
        "img_id": "102",
        "img_path": "102.jpg",
        "image_id": "102",
        "pos_item_ids": ["KVQA_102"],
        "pos_item_contents": ["Cy Figure in 1992. Who is this? Cy Figure."],
        **NULLS,
    },
    ("CC_data/train", 2): {
        "question_id": "CC_GCC_train_000000102",
        "question": "",
        "instruction": "Offer a succinct explanation of the picture presented.:",
        "img_id": "GCC_train_000000102",
        "img_path": "GCC_train_000000102.jpg",
        "image_id": "GCC_train_000000102",
        "pos_item_ids": ["CC_2"],
        "pos_item_contents": ["a boat"],
        **NULLS,
        "original_data_id": ["GCC_train_000000102"],
    },
    ("MSMARCO_data/valid", 4): {
        "question_id": "MSMARCO_904",
        "question": "pears?",
        "instruction": "Answer the query with a web page: ",
        "img_id": None,
        "img_path": None,
        "image_id": None,
        "pos_item_ids": ["MSMARCO_0", "MSMARCO_1"],
        "pos_item_contents": ["A pear is a fruit.", "Pears are picked in autumn."],
        **NULLS,
        "original_data_id": ["904"],
    },
    ("MSMARCO_passages/test_passages", 7): {
        "passage_id": "MSMARCO_11",
        "passage_content": "Tea comes from China.",
        "language": "en",
        "title": None,
        "img_id": None,
        "img_path": None,
        "original_data_id": "11",
    },
    ("OVEN_data/valid", 1): {
        "question_id": "oven_valid_1",
        "question": "what is the name of this place?",
        "instruction": "Retrieve documents that provide an answer to the question alongside the "
        "image: ",
        "img_id": "oven_01000001",
        "img_path": "01/oven_01000001.jpg",
        "image_id": "oven_01000001",
        "pos_item_ids": ["OVEN_Q1"],
        "pos_item_contents": ["Blue Mill. Blue Mill is well known."],
        **NULLS,
        "wiki_entity": "Blue Mill",
        "wiki_entity_id": "Q1",
    },
    ("LLaVA_passages/test_passages", 6): {
        "passage_id": "LLaVA_test_6",
        "passage_content": "The picture shows 7 birds on a fence.",
        "language": "en",
        "title": None,
        "img_id": "000000000006",
        "img_path": "COCO_train2014_000000000006.jpg",
        "llava_split": "conversation",
    },
    ("OKVQA_data/train", 1): {
        "question_id": "5015",
        "question": "What is made of it?",
        "instruction": "Retrieve documents that provide an answer to the question alongside the "
        "image: ",
        "img_id": None,
        "img_path": "train2014/COCO_train2014_000000000501.jpg",
        "image_id": None,
        "pos_item_ids": [],
        "pos_item_contents": [],
        "answers": ["flour"],
        "gold_answer": "flour",
        "question_type": None,
        "img_key": 501,
        "img_key_full": "000000000501",
        "img_file_name": "COCO_train2014_000000000501.jpg",
        "img_caption": '{"caption":"a fruit","conf":0.5}',
        "objects": f'[{PEAR}[{{"score":0.5,"text":"SALE"}}],"rect":[1.0,2.0,3.5,4.0]}}]',
        "img_ocr": '[{"description":"SALE","vertices":[[1,2],[3,4]]}]',
        "related_item_ids": [],
    },
    ("OKVQA_passages/valid_passages", 2): {
        "passage_id": "71",
        "passage_content": "title: Grey Tower content: It was built in 1901.",
        "language": "en",
        "title": "Grey Tower",
        "img_id": None,
        "img_path": None,
    },
    ("Infoseek_data/train", 1): {
        "question_id": "infoseek_train_00000002",
        "question": "How tall is this tower?",
        "instruction": "Retrieve documents that provide an answer to the question alongside the "
        "image: ",
        "img_id": None,
        "img_path": "oven_00000002.jpg",
        "image_id": "oven_00000002",
        "pos_item_ids": ["70"],
        "pos_item_contents": ["title: Grey Tower content: Grey Tower is 31 m tall."],
        "answers": ["31"],
        "gold_answer": "31",
        "question_type": "Numerical",
        "answer_eval": [],
        "data_split": "train",
        "wikidata_value": 31.0,
        "wikidata_range": [27.875, 34.125],
        "entity_id": "Q2",
        "entity_text": "Grey Tower",
        "image_path": "/data/oven/oven_00000002.jpg",
        "objects": f"[{TOWER}[0.0,0.0,9.0,9.0]}}]",
        "img_caption": "a tower",
        "related_item_ids": ["70", "71"],
        "found": True,
    },
    ("EVQA_data/test", 1): {
        "question_id": "EVQA_test_1",
        "question": "what does this bird eat?",
        "instruction": "Retrieve documents that provide an answer to the question alongside the "
        "image: ",
        "img_id": "1b7700000000000",
        "img_path": "inat/val/00_Birds_Owl/1b7700000000000.jpg",
        "image_id": "1b7700000000000",
        "pos_item_ids": ["WikiWeb_Marsh owl_3"],
        "pos_item_contents": ["title: Marsh owl content: It eats mice."],
        "answers": ["mice"],
        "gold_answer": "mice",
        "question_type": "automatic",
        "dataset_name": None,
        "wikipedia_url": None,
        "evidence": None,
    },
}


@pytest.mark.parametrize(("table", "row"), EXPECTED)
def test_rows_by_hand(root: Path, table: str, row: int) -> None:
    assert rows_of(root, table)[row] == EXPECTED[table, row]


@pytest.mark.parametrize("name", ALL)
def test_every_other_value_is_the_releases(root: Path, name: str) -> None:
    """All columns of all rows, but those that are made otherwise (and the pools with repeated ids)."""
    spec = registry.builder(name).source
    changed = {"question", "img_caption", "objects", "img_ocr", "pos_item_ids", "pos_item_contents"}
    changed -= {"img_caption"} if name == "infoseek" else set()
    for table, given in fixture.tables(name).items():
        queries = table.split("/")[0].endswith("_data")
        kept = (
            columns("queries", spec.query_columns)
            if queries
            else columns("passages", spec.passage_columns)
        )
        built = rows_of(root, table)
        assert list(built[0]) == [c.name for c in kept]
        if table == "EVQA_passages/test_passages":
            continue
        names = [c.name for c in kept if c.name not in changed and c.name in given[0]]
        assert len(names) >= 3
        for own, row in zip(built, given, strict=True):
            for column in names:
                assert own[column] == (
                    [] if row[column] is None and column == "wikidata_range" else row[column]
                )
            if queries:
                assert own["question"] == (row["question"] or "").strip()


def test_a_blank_question_is_empty_in_every_image_only_source(root: Path) -> None:
    for table in ("WIT_data/train", "IGLUE_data/test", "KVQA_data/valid", "CC_data/train"):
        assert {row["question"] for row in rows_of(root, table)} == {""}


def test_files_without_arrow_types_give_the_same_tables(root: Path, tmp_path: Path) -> None:
    """Parquet alone knows null columns and lists, too: the route must not need Arrow's metadata."""
    bare = fixture.write_release(tmp_path / "bare", sources=("cc3m", "okvqa"), arrow_schema=False)
    for name in ("cc3m", "okvqa"):
        built = made(name, bare, tmp_path, any_counts=True).manifest["fingerprints"]
        assert built == m2kr.load(name, next(iter(built)), data=root).manifest["fingerprints"]


def test_large_and_dictionary_strings_are_strings(files: Path, root: Path, tmp_path: Path) -> None:
    folder = fixture.write_release(tmp_path / "large", sources=("llava",))
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path)
        types = {pa.string(): pa.large_string(), pa.list_(pa.string()): pa.large_list(pa.string())}
        fields = [f.with_type(types.get(f.type, f.type)) for f in table.schema]
        table = table.cast(pa.schema(fields))
        at = table.schema.get_field_index("llava_split")
        table = table.set_column(at, "llava_split", table["llava_split"].dictionary_encode())
        pq.write_table(table, path)
    made("llava", folder, tmp_path, any_counts=True)
    assert rows_of(tmp_path, "LLaVA_data/test") == rows_of(root, "LLaVA_data/test")
    assert rows_of(tmp_path, "LLaVA_passages/test_passages") == rows_of(
        root, "LLaVA_passages/test_passages"
    )


# -- Ledger -------------------------------------------------------------------------------------


def test_repairs_are_in_the_ledger_with_file_and_row(root: Path) -> None:
    found = {
        (r["table"], r["action"], r["rule"], r["file"], r["row"], r["detail"])
        for config in fixture.CONFIGS.values()
        for r in ledger(root, config)
    }
    told = {facts for facts in found if facts[2] not in {"blank question", "column not kept"}}
    okvqa = {
        (f"OKVQA_data/{split}", "repaired", "positive without text", f"{split}-{ONE}", 2, "1 of 1")
        for split in ("train", "valid", "test")
    }
    marco = {
        (f"MSMARCO_{table}", "repaired", "column of type null", f"{file}-{ONE}", 0, column)
        for table, file in (
            ("data/train", "train"),
            ("data/valid", "valid"),
            ("data/test", "test"),
            ("passages/train_passages", "train_passages"),
            ("passages/valid_passages", "valid_passages"),
        )
        for column in ("img_id", "img_path", "image_id")
        if "data" in table or column != "image_id"
    }
    pool, second = "EVQA_passages/test_passages", "test_passages-00001-of-00002.parquet"
    again, other = "a passage twice", "an id used for another text"
    evqa = {
        (pool, "repaired", other, second, 2, "WikiWeb_Marsh owl_3"),
        (pool, "dropped", again, second, 4, "WikiWeb_Grey reed_2"),
        (pool, "repaired", other, second, 5, "WikiWeb_Marsh owl_3"),
    }
    captions = {("CC_data/train", "repaired", "column of type null", f"train-{ONE}", 0, "question")}
    assert told == okvqa | marco | evqa | captions
    blank = {facts[:5] for facts in found if facts[2] == "blank question"}
    rows = {
        (table, "repaired", "blank question", file, row)
        for table, file, n in (
            ("WIT_data/train", "train-00000-of-00002.parquet", 4),
            ("WIT_data/train", "train-00001-of-00002.parquet", 3),
            ("WIT_data/valid", f"valid-{ONE}", 3),
            ("WIT_data/test", f"test-{ONE}", 4),
            ("IGLUE_data/test", f"test-{ONE}", 5),
            ("KVQA_data/train", f"train-{ONE}", 5),
            ("KVQA_data/valid", f"valid-{ONE}", 5),
            ("KVQA_data/test", f"test-{ONE}", 5),
        )
        for row in range(1, n + 1)
    }
    assert blank == rows
    left = {(facts[0], facts[5]) for facts in found if facts[2] == "column not kept"}
    assert left == {
        ("OKVQA_data/train", "img: null"),
        ("OKVQA_data/train", "__index_level_0__: string"),
        ("OKVQA_data/valid", "img: null"),
        ("OKVQA_data/valid", "__index_level_0__: string"),
        ("OKVQA_data/test", "img: null"),
        ("OKVQA_data/test", "__index_level_0__: string"),
        ("Infoseek_data/train", "ROIs: list<element: null>"),
        ("Infoseek_data/test", "ROIs: list<element: null>"),
    }


ONE = "00000-of-00001.parquet"


def test_a_positive_with_another_text_than_the_pools_is_repaired(
    files: Path, root: Path, tmp_path: Path
) -> None:
    folder = fixture.write_release(tmp_path / "other", sources=("kvqa",))
    path = folder / f"KVQA_data/test-{ONE}"
    table = pq.read_table(path)
    texts = table["pos_item_contents"].to_pylist()
    texts[1][0] = "Not what the pool says."
    at = table.schema.get_field_index("pos_item_contents")
    field = table.schema.field(at)
    pq.write_table(
        table.set_column(at, field, pa.chunked_array([pa.array(texts, field.type)])), path
    )
    made("kvqa", folder, tmp_path, any_counts=True)
    assert rows_of(tmp_path, "KVQA_data/test") == rows_of(root, "KVQA_data/test")
    (row,) = [r for r in ledger(tmp_path, "KVQA") if "pool's" in r["rule"]]
    assert row == {
        "table": "KVQA_data/test",
        "action": "repaired",
        "rule": "a positive's text is not the pool's",
        "file": f"test-{ONE}",
        "row": 2,
        "detail": table["pos_item_ids"][1][0].as_py(),
    }


@pytest.mark.parametrize("name", ALL)
def test_every_row_of_every_file_is_accounted_for(root: Path, files: Path, name: str) -> None:
    manifest = m2kr.load(name, next(iter(registry.builder(name).source.pools)), data=root).manifest
    listed = {entry["name"] for entry in manifest["inputs"]}
    assert listed == {
        f"release/{p.relative_to(files).as_posix()}"
        for p in files.glob(f"{fixture.CONFIGS[name]}_*/*.parquet")
    }
    pools = {}
    for table, given in fixture.tables(name).items():
        flows = manifest["tables"][table].get("inputs", {})
        read = sum(flow["read"] for flow in flows.values())
        if not read:  # a pool of the same bytes as one before it
            assert pools[json.dumps(given)]
            continue
        pools[json.dumps(given)] = table
        assert read == len(given)
        for flow in flows.values():
            parts = (flow.get(part, 0) for part in ("used", "filtered", "dropped"))
            assert flow["read"] == sum(parts)
        rows = sum(flow["rows"] for flow in flows.values())
        assert rows == manifest["tables"][table]["rows"]


# -- E-VQA's repeated passages ------------------------------------------------------------------

REPAIRED = [
    *(p["passage_id"] for p in fixture.ROWS["EVQA_passages/train_passages"]),
    "WikiWeb_Marsh owl_3#2",
    "WikiWeb_Elm_0",
    "WikiWeb_Marsh owl_3#3",
]


def test_repeated_passages_go_and_repeated_ids_are_numbered(root: Path) -> None:
    rows = rows_of(root, "EVQA_passages/test_passages")
    assert [row["passage_id"] for row in rows] == REPAIRED
    assert {row["passage_id"]: row["scored_as"] for row in rows if row["scored_as"]} == {
        "WikiWeb_Marsh owl_3#2": "WikiWeb_Marsh owl_3",
        "WikiWeb_Marsh owl_3#3": "WikiWeb_Marsh owl_3",
    }
    assert rows[8]["passage_content"] == "title: Marsh owl content: It hunts at dusk."


def test_no_repair_keeps_the_official_pool(files: Path, tmp_path: Path) -> None:
    built = made("evqa", files, tmp_path, any_counts=True, repair=False)
    rows = rows_of(tmp_path, "EVQA_passages/test_passages")
    given = fixture.ROWS["EVQA_passages/test_passages"]
    assert [r["passage_content"] for r in rows] == [r["passage_content"] for r in given]
    assert [r["scored_as"] or r["passage_id"] for r in rows] == [r["passage_id"] for r in given]
    assert rows[8]["passage_id"] == "WikiWeb_Grey reed_2#2"
    assert built.manifest["options"]["repair"] == "no"
    told = {(r["row"], r["rule"]) for r in ledger(tmp_path, "EVQA")}
    assert told == {
        (2, "an id used for another text"),
        (4, "a passage twice, kept"),
        (5, "an id used for another text"),
    }
    assert not [f for f in verify(built.folder, built.manifest) if f.problem]


# -- Counts and other refusals ------------------------------------------------------------------


def test_other_counts_than_the_releases_are_refused(cli: Cli, files: Path, tmp_path: Path) -> None:
    options = ("--route", "release", "--from", files, "--data", tmp_path)
    error = cli("build", "evqa", *options, code=1).stderr
    assert "EVQA_data/test: 5 rows, expected 3,750" in error
    assert "EVQA_passages/test_passages: 10 rows, expected 51,472" in error
    assert "--any-counts" in error
    assert not list(tmp_path.rglob("*.arrow"))


def test_counts_are_those_before_repeated_passages_go(
    files: Path, tmp_path: Path, counted: None
) -> None:
    built = made("evqa", files, tmp_path)
    assert built.manifest["splits"]["test"]["passages"] == 9
    assert built.manifest["count_warnings"] == []
    assert built.manifest["comparable"] == ""
    assert built.manifest["options"]["counts"] == "checked"


def test_unchecked_counts_make_a_build_incomparable(root: Path) -> None:
    manifest = m2kr.load("evqa", data=root).manifest
    assert "row counts were not checked" in manifest["comparable"]
    assert "test_passages: 9 rows built, 51,472 expected" in manifest["count_warnings"]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder to damage."""
    return fixture.write_release(tmp_path / "old", sources=("oven", "evqa"))


def test_files_without_instructions_are_refused(old: Path, tmp_path: Path) -> None:
    fixture.without_instruction(old, "oven")
    with pytest.raises(CheckError, match=r"no column 'instruction'.*June 2024") as caught:
        made("oven", old, tmp_path, any_counts=True)
    assert "OVEN_data/train-00000-of-00001.parquet" in str(caught.value.where)
    assert caught.value.fix


def test_ovens_old_splits_are_refused(old: Path, tmp_path: Path, counted: None) -> None:
    made("oven", old, tmp_path)
    fixture.old_oven(old)
    with pytest.raises(CheckError, match="June 2024") as caught:
        made("oven", old, tmp_path / "other")
    assert "OVEN_data/valid: 3 rows, expected 6" in str(caught.value)
    assert "OVEN_data/test: 8 rows, expected 5" in str(caught.value)
    assert "OVEN_data/train" not in str(caught.value)


def test_a_missing_shard_is_named(old: Path, tmp_path: Path) -> None:
    lost = fixture.lose_shard(old, "EVQA_passages/test_passages", 1)
    with pytest.raises(MissingError, match="1 of 2 shards are missing") as caught:
        made("evqa", old, tmp_path, any_counts=True)
    assert caught.value.where == str(lost)
    made("evqa", old, tmp_path, any_counts=True, splits=["valid"])


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"OKVQA_data/train-\*\.parquet"):
        made("okvqa", tmp_path / "nowhere", tmp_path)


def test_a_truncated_file_is_one_clear_error(cli: Cli, old: Path, tmp_path: Path) -> None:
    path = fixture.truncate(old, "EVQA_data/test")
    options = ("--route", "release", "--from", old, "--data", tmp_path, "--any-counts")
    error = cli("build", "evqa", *options, code=1).stderr
    assert error.count("error: ") == 1
    assert "Traceback" not in error
    assert str(path) in error
    assert f"delete {path}" in error


def test_damage_inside_a_file_is_found_when_it_is_read(old: Path, tmp_path: Path) -> None:
    path = fixture.damage(old, "EVQA_data/test")
    with pytest.raises(InputError, match=f"{path}, row 1 or after: the file can't be read"):
        made("evqa", old, tmp_path, any_counts=True, splits=["test"])
    assert not list((tmp_path / "m2kr").glob("EVQA*"))


def test_shards_of_other_columns_are_refused(old: Path, tmp_path: Path) -> None:
    path = old / "EVQA_passages" / "test_passages-00001-of-00002.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["language"]), path)
    with pytest.raises(InputError, match="test_passages-00001-of-00002"):
        made("evqa", old, tmp_path, any_counts=True)


def test_a_file_that_unpacks_to_far_more_is_refused(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old / "EVQA_passages" / "train_passages-00000-of-00001.parquet"
    rows = {"language": ["en"], "passage_id": ["p"], "passage_content": ["x" * 3_000_000]}
    pq.write_table(pa.table(rows), path, use_dictionary=False, compression="zstd")
    monkeypatch.setattr(release_files, "_MOST_RATIO", 2)
    with pytest.raises(InputError, match=r"3,000,.* bytes inside") as caught:
        made("evqa", old, tmp_path, any_counts=True)
    assert caught.value.where == str(path)


def test_choices_that_do_not_go_together_are_refused(files: Path) -> None:
    with pytest.raises(UsageError, match="does not hold mini"):
        builder_for("mini", route="release", folder=files)
    with pytest.raises(UsageError, match="speak of the release") as caught:
        builder_for("evqa", folder=files)
    assert "--route release" in str(caught.value)
    with pytest.raises(UsageError, match="leave --route out"):
        builder_for("evqa", route="release", align=True)


# -- Instructions -------------------------------------------------------------------------------


def test_instructions_go_to_the_registry_if_counts_are_checked(
    files: Path, root: Path, tmp_path: Path, counted: None
) -> None:
    assert not (root / "instructions.json").exists()
    for name in ("kvqa", "msmarco", "evqa"):
        made(name, files, tmp_path)
    stored = json.loads((tmp_path / "instructions.json").read_text())
    who, name = "Who is in this picture? Find the text about them: ", "Name the people shown: "
    assert stored["kvqa"]["templates"] == [[who, 9], [name, 6]]
    assert stored["kvqa"]["origin"] == "the release, local files"
    now = registered_templates("kvqa", tmp_path)
    assert now is not None
    assert now.templates == (who, name)
    assert now.confidence == "high"
    assert now.choose("a") in {who, name}
    assert registered_templates("kvqa", root) == templates_of("kvqa")
    assert registered_templates("oven", tmp_path) == templates_of("oven")


def test_a_sources_build_uses_the_releases_instructions(
    files: Path, tmp_path: Path, counted: None
) -> None:
    import toy_builder

    class Kvqa(toy_builder.ToyBuilder):
        source = dataclasses.replace(toy_builder.ToyBuilder.source, name="kvqa", config="TOYKVQA")

        def queries(self, ctx: Any, split: str) -> Any:
            for row in super().queries(ctx, split):
                yield row | {"instruction": ctx.instruction(row["question_id"])}

    def drawn() -> set[str]:
        built = build(Kvqa(rows=40), tmp_path)
        return {r["instruction"] for r in rows_of(tmp_path, "TOYKVQA_data/test", built.folder.name)}

    builtin = templates_of("kvqa")
    assert builtin is not None
    assert drawn() == set(builtin.templates)
    made("kvqa", files, tmp_path)
    assert drawn() == {
        "Who is in this picture? Find the text about them: ",
        "Name the people shown: ",
    }


def test_the_built_in_list_keeps_its_weights_if_the_release_has_the_same_texts(
    files: Path, tmp_path: Path, counted: None
) -> None:
    made("oven", files, tmp_path)
    assert len(json.loads((tmp_path / "instructions.json").read_text())["oven"]["templates"]) == 7
    own, builtin = registered_templates("oven", tmp_path), templates_of("oven")
    assert own is not None
    assert builtin is not None
    assert own.templates == builtin.templates
    assert own.origin == "the release, local files"


def test_a_damaged_registry_says_so(tmp_path: Path) -> None:
    (tmp_path / "instructions.json").write_text('{"kvqa": {"templates": [["x"]], "origin": "o"}}')
    with pytest.raises(InputError, match=r"instructions\.json"):
        registered_templates("kvqa", tmp_path)


# -- Again, otherwise, in part ------------------------------------------------------------------


def test_building_again_does_nothing(files: Path, root: Path) -> None:
    before = tree(root)
    for name in ALL:
        assert not made(name, files, root, any_counts=True).fresh
    assert tree(root) == before


def test_building_again_does_nothing_though_instructions_were_stored(
    files: Path, tmp_path: Path, counted: None
) -> None:
    assert made("kvqa", files, tmp_path).fresh
    before = tree(tmp_path)
    assert not made("kvqa", files, tmp_path).fresh, SOON
    assert tree(tmp_path) == before


def test_another_build_of_the_edition_is_refused(files: Path, tmp_path: Path) -> None:
    options = {"any_counts": True, "splits": ["test"]}
    made("evqa", files, tmp_path, **options)
    with pytest.raises(UsageError, match=r"repair=yes.*repair=no") as caught:
        made("evqa", files, tmp_path, **options, repair=False)
    assert "--edition" in str(caught.value)
    assert "--force" in str(caught.value)
    made("evqa", files, tmp_path, **options, repair=False, edition="official")
    assert len(rows_of(tmp_path, "EVQA_passages/test_passages", "official")) == 10
    assert len(rows_of(tmp_path, "EVQA_passages/test_passages")) == 9
    made("evqa", files, tmp_path, **options, repair=False, force=True)
    assert len(rows_of(tmp_path, "EVQA_passages/test_passages")) == 10


def test_jobs_do_not_change_a_byte(files: Path, root: Path, tmp_path: Path) -> None:
    made("okvqa", files, tmp_path, any_counts=True, jobs=2)
    built = {k: v for k, v in tree(tmp_path).items() if "OKVQA" in k}
    assert built == {k: v for k, v in tree(root).items() if "OKVQA" in k}
    assert built


def test_limit_keeps_positives(files: Path, tmp_path: Path) -> None:
    built = made("evqa", files, tmp_path, any_counts=True, limit=2)
    assert built.folder.name == "m2kr-limit2"
    split = m2kr.load("evqa", data=tmp_path)
    assert [q["pos_item_ids"] for q in split.queries] == [
        ["WikiWeb_Grey reed_2"],
        ["WikiWeb_Marsh owl_3"],
    ]
    assert not (tmp_path / "instructions.json").exists()


KILLED = """
import sys, time
from pathlib import Path
from m2kr.building.release import rows as release_rows
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.building.build import build

def slow(*args, **kwargs):
    for item in kept(*args, **kwargs):
        time.sleep(float(sys.argv[3]))
        yield item

kept, release_rows._batches = release_rows._batches, slow
release_rows._BATCH = 1
build(ReleaseBuilder("evqa", Path(sys.argv[1]), any_counts=True), Path(sys.argv[2]))
"""


def test_kills_then_the_same_bytes(files: Path, root: Path, tmp_path: Path) -> None:
    def start(pause: float) -> "subprocess.Popen[bytes]":
        words = [sys.executable, "-c", KILLED, str(files), str(tmp_path), str(pause)]
        return subprocess.Popen(words, stderr=subprocess.PIPE)

    staging = tmp_path / "m2kr" / ".staging-EVQA" / "tables"
    for done in (1, 4):  # tables that are complete when it is killed
        process = start(0.05)
        deadline = time.monotonic() + 300
        while len(list(staging.glob("*.json"))) < done and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(0)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()
    whole = {k: v for k, v in tree(root).items() if "EVQA" in k}
    assert {k: v for k, v in tree(tmp_path).items() if "EVQA" in k} == whole


# -- What reads it ------------------------------------------------------------------------------


def test_verify_passes_on_all_ten(cli: Cli, root: Path) -> None:
    text = cli("verify", "--data", root).stdout
    assert all(config in text or name in text for name, config in fixture.CONFIGS.items())


def test_hugging_face_reads_it(root: Path, tmp_path: Path) -> None:
    folder = root / "m2kr"
    for config in ("OKVQA_data", "OKVQA_passages", "OKVQA_qrels"):
        mapped = DatasetDict.load_from_disk(str(folder / config))
        copied = load_dataset(str(folder), config, cache_dir=str(tmp_path))
        assert set(mapped) == set(copied)
        for split in mapped:
            assert mapped[split].features == copied[split].features
            assert mapped[split].to_list() == copied[split].to_list()
