"""Hashes of rows in order: of all that is in them, and of nothing else."""

from dataclasses import replace

import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from m2kr.data.records import Passages, Queries
from m2kr.data.row_hash import content_of, order_of

TEXT = st.text(max_size=4)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXT,
            "text": st.none() | TEXT,
            "list": st.none() | st.lists(st.none() | TEXT, max_size=3),
            "number": st.none() | st.floats(allow_nan=False),
        }
    ),
    max_size=8,
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("list", pa.list_(pa.string())),
        ("number", pa.float64()),
    ]
)


def table(rows, cut=None):
    parts = [rows] if cut is None else [rows[:cut], [], rows[cut:]]
    return pa.concat_tables([pa.Table.from_pylist(part, SCHEMA) for part in parts])


def content(rows, cut=None):
    return content_of(table(rows, cut), SCHEMA.names)


def same(rows):
    # As text: 0.0 and -0.0 are two values.
    return repr([sorted(row.items()) for row in rows])


@given(ROWS, ROWS, st.integers(0, 8))
def test_equal_rows_in_equal_order_and_no_others_hash_alike(rows, others, cut):
    assert content(rows, cut) == content(rows)
    assert order_of(table(rows, cut).column("id")) == order_of(table(rows).column("id"))
    assert (content(rows) == content(others)) == (same(rows) == same(others))
    ids = [[row["id"] for row in each] for each in (rows, others)]
    orders = [order_of(table(each).column("id")) for each in (rows, others)]
    assert (orders[0] == orders[1]) == (ids[0] == ids[1])


@given(ROWS)
def test_a_slice_hashes_as_the_rows_in_it(rows):
    whole = table([*rows, *rows, *rows])
    assert content_of(whole.slice(len(rows), len(rows)), SCHEMA.names) == content(rows)


def test_how_a_text_is_stored_does_not_matter():
    texts = ["a", None, "ü" * 300, ""]
    kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    hashes = {content_of(pa.table({"t": pa.array(texts, kind)}), ["t"]) for kind in kinds}
    assert len(hashes) == 1


@pytest.mark.parametrize("values", [[{"a": 1}, None], [[1, 2], []], [True, None], [b"\xff", b""]])
def test_values_of_other_types_count(values):
    one, other = (content_of(pa.table({"v": each}), ["v"]) for each in (values, values[::-1]))
    assert one != other


def test_names_of_columns_count():
    assert content_of(pa.table({"a": ["x"]}), ["a"]) != content_of(pa.table({"b": ["x"]}), ["b"])


def test_records_in_another_order_are_read_in_it():
    """A shuffled or filtered dataset keeps its table as it was, and the order apart."""
    rows = [{"passage_id": f"p{i}", "passage_content": f"text {i}"} for i in range(9)]
    straight = Passages(Dataset.from_list(rows))
    mixed = Passages(straight.dataset.select([4, 1, 8, 0]))
    assert mixed.ids.to_pylist() == [row["passage_id"] for row in mixed.rows(range(4))]
    assert mixed.column("passage_content") == ["text 4", "text 1", "text 8", "text 0"]
    again = Passages(Dataset.from_list([rows[i] for i in (4, 1, 8, 0)]))
    assert (mixed.order, mixed.content) == (again.order, again.content)
    assert mixed.order != Passages(straight.dataset.select([0, 1, 4, 8])).order


def test_the_right_answers_are_no_content_of_queries():
    row = {"question_id": "q", "question": "?", "pos_item_ids": ["a"], "answers": ["b"]}
    one, other = (
        Queries(Dataset.from_list([row | change]))
        for change in ({}, {"pos_item_ids": ["c"], "answers": []})
    )
    assert one.content == other.content
    assert one.content != Queries(Dataset.from_list([row | {"question": "!"}])).content


def test_a_table_is_hashed_once_for_all_records_of_it(monkeypatch):
    rows = Dataset.from_list([{"passage_id": "p", "passage_content": "text"}])
    one = Passages(rows)
    hashes = one.order, one.content
    monkeypatch.setattr("m2kr.data.row_hash._column", None)
    again = replace(one, fingerprint="fp1:other")
    assert (again.order, again.content) == hashes
