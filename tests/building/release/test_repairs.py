"""Known faults of the release: each repair is in the ledger, and every row is accounted for."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import release_fixture as fixture
from support.release_fixture import ALL, ledger, made, rows_of

import m2kr
from m2kr.building import registry
from m2kr.building.verify import verify


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
