"""Rows of the release in our tables: as written by hand, whatever their Arrow types."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import release_fixture as fixture
from support.release_fixture import ALL, made, rows_of

import m2kr
from m2kr.building import registry
from m2kr.schema import columns

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
