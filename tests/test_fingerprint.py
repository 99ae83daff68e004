"""Fingerprints: committed vectors, a naive second implementation, and what must not enter."""

import hashlib
import json
import struct
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr import fingerprint
from m2kr.schema import GRADES, LOST_GRADES, LOST_IDS, arrow_schema, columns

GOLDEN = json.loads((Path(__file__).parent / "golden" / "fingerprints.json").read_text())

ids = st.lists(st.text(min_size=1), unique=True, max_size=12)
texts = st.text(max_size=20)


def query_table(rows: list[dict]) -> pa.Table:
    defaults = {"instruction": "", "question": "", "pos_item_ids": [], "answers": []}
    full = [
        {c.name: None for c in columns("queries")} | {"pos_item_contents": []} | defaults | row
        for row in rows
    ]
    return pa.Table.from_pylist(full, arrow_schema(columns("queries")))


def pool_table(rows: list[tuple[str, str]]) -> pa.Table:
    full = [{"passage_id": i, "passage_content": t, "language": "en"} for i, t in rows]
    return pa.Table.from_pylist(full, arrow_schema(columns("passages")))


def naive(part: str, rows: list[tuple]) -> str:
    def encode(value: object) -> bytes:
        if value is None:
            return b"\0"
        if isinstance(value, str):
            return b"\1" + struct.pack("<Q", len(value.encode())) + value.encode()
        return b"\2" + struct.pack("<Q", len(value)) + b"".join(map(encode, value))

    total = hashlib.sha256(b"m2kr-fp1\0" + part.encode() + b"\0")
    for row in sorted(rows, key=lambda r: r[0].encode()):
        total.update(hashlib.sha256(b"".join(map(encode, row))).digest())
    return "fp1:" + total.hexdigest()


@pytest.mark.parametrize("name", GOLDEN)
def test_committed_vectors(name: str) -> None:
    case = GOLDEN[name]
    queries, judgements = fingerprint.query_parts(query_table(case["queries"]))
    pool = fingerprint.pool_part(pool_table([tuple(p) for p in case["passages"]]))
    assert {
        "queries": queries,
        "judgements": judgements,
        "pool": pool,
        "eval": fingerprint.combine(queries, judgements, pool),
    } == case["expected"]


@given(st.data())
def test_equals_the_rule_written_naively(data: st.DataObject) -> None:
    row_ids = data.draw(ids)
    rows = [
        {
            "question_id": i,
            "instruction": data.draw(texts),
            "question": data.draw(texts),
            "pos_item_ids": data.draw(st.lists(texts, max_size=3)),
            "answers": data.draw(st.lists(texts, max_size=3)),
        }
        for i in row_ids
    ]
    queries, judgements = fingerprint.query_parts(query_table(rows))
    assert queries == naive(
        "queries", [(r["question_id"], r["instruction"], r["question"]) for r in rows]
    )
    assert judgements == naive(
        "judgements", [(r["question_id"], sorted(r["pos_item_ids"]), r["answers"]) for r in rows]
    )


@given(st.lists(st.tuples(st.text(min_size=1), texts), unique_by=lambda r: r[0], max_size=12))
def test_pool_ignores_order_batches_and_other_columns(rows: list[tuple[str, str]]) -> None:
    expected = naive("pool", rows)
    table = pool_table(rows)
    assert fingerprint.pool_part(table) == expected
    assert fingerprint.pool_part(pool_table(rows[::-1])) == expected
    assert fingerprint.pool_part(table.to_batches(max_chunksize=1)) == expected
    with_title = table.set_column(3, "title", pa.array(["x"] * len(rows), pa.string()))
    assert fingerprint.pool_part(with_title) == expected


def test_values_do_not_run_into_each_other() -> None:
    assert fingerprint.encode_value(["ab", "c"]) != fingerprint.encode_value(["a", "bc"])
    assert fingerprint.encode_value("") != fingerprint.encode_value(None)
    assert fingerprint.encode_value([]) != fingerprint.encode_value([""])
    moved = [("a", "bc"), ("ab", "c")]
    assert len({fingerprint.pool_part(pool_table([row])) for row in moved}) == 2


def test_rows_that_share_an_id_are_still_order_free() -> None:
    rows = [("a", "one"), ("a", "two"), ("b", "three")]
    seen = {fingerprint.pool_part(pool_table(p)) for p in (rows, rows[::-1])}
    assert len(seen) == 1


def test_images_part_tells_missing_from_present() -> None:
    present = fingerprint.images_part([("q1", "00" * 32), ("q2", None)])
    assert present == fingerprint.images_part([("q2", None), ("q1", "00" * 32)])
    assert present != fingerprint.images_part([("q1", None), ("q2", None)])


PATHS = st.none() | st.lists(st.sampled_from(["a", "b.c", ".d", "é"]), min_size=1).map("/".join)


@given(st.dictionaries(st.text(max_size=3), PATHS, max_size=5), st.randoms(use_true_random=False))
def test_which_images_queries_have_is_a_part_of_its_own(paths, draw) -> None:
    rows = [{"question_id": q, "img_path": path} for q, path in paths.items()]
    named = [(q, None if path is None else path) for q, path in paths.items()]
    expected = naive("image_paths", named)
    ended = [
        r | {"img_path": r["img_path"] and r["img_path"] + draw.choice([".jpg", ".JPEG"])}
        for r in rows
    ]
    draw.shuffle(ended)
    assert fingerprint.image_paths_part(query_table(ended)) == expected
    assert fingerprint.query_parts(query_table(ended)) == fingerprint.query_parts(query_table(rows))


def test_other_images_are_another_fingerprint() -> None:
    paths = ["1/a.jpg", "1/b.jpg", "2/a.jpg", "a.jpg", None, "", ".jpg"]
    tables = [query_table([{"question_id": "q", "img_path": path}]) for path in paths]
    assert len({fingerprint.image_paths_part(table) for table in tables}) == len(paths)


GRADED = [
    {
        "question_id": "q1",
        "pos_item_ids": ["b", "a"],
        "answers": ["x"],
        "pos_item_grades": [3, 0.5],
    },
    {"question_id": "q2", "pos_item_ids": ["a"], "pos_item_grades": [1]},
    {"question_id": "q3", "lost_item_ids": ["z", "y"], "lost_item_grades": [2, 1]},
]
PLAIN = ("question_id", "pos_item_ids", "answers")


def graded_table(rows: list[dict]) -> pa.Table:
    table = query_table([{k: v for k, v in row.items() if k in PLAIN} for row in rows])
    for column in (GRADES, LOST_IDS, LOST_GRADES):
        type_ = arrow_schema([column]).field(0).type
        values = [row.get(column.name, []) for row in rows]
        table = table.append_column(column.name, pa.array(values, type_))
    return table


def judgements_of(rows: list[dict], threshold: float = 1) -> str:
    return fingerprint.query_parts(graded_table(rows), threshold)[1]


def test_grades_and_lost_passages_are_in_the_judgements() -> None:
    rows = [
        ("q1", ["a", "b"], ["x"], ["0.5", "3.0"], [], []),
        ("q2", ["a"], []),
        ("q3", [], [], [], ["y", "z"], ["1.0", "2.0"]),
    ]
    assert judgements_of(GRADED) == naive("judgements", rows)
    assert (
        judgements_of(GRADED)
        == "fp1:cd4e867c144d4a85d1924d182fe7281f26d0a47383226a9ddca095fada793991"
    )
    assert judgements_of(GRADED, 2) == naive("judgements, right from 2.0", rows)


def test_columns_of_grades_that_say_nothing_change_nothing() -> None:
    row = {"question_id": "q", "pos_item_ids": ["b", "a"], "answers": []}
    assert (
        judgements_of([row | {"pos_item_grades": [1, 1]}])
        == fingerprint.query_parts(query_table([row]))[1]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"pos_item_grades": [0.5, 3]},
        {"pos_item_ids": ["a", "b"]},
        {"lost_item_ids": ["c"], "lost_item_grades": [1]},
        {"pos_item_grades": [3, 1]},
    ],
)
def test_each_fact_of_a_judgement_enters(change: dict) -> None:
    assert judgements_of([GRADED[0] | change]) != judgements_of(GRADED[:1])
    swapped = {"pos_item_ids": ["a", "b"], "pos_item_grades": [0.5, 3]}
    assert judgements_of([GRADED[0] | swapped]) == judgements_of(GRADED[:1])
