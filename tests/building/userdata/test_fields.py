"""From a record to a row: names of fields, positives with grades, answers of one cell."""

import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.own_data import NOTE_QUERIES, NOTES, jsonl, judged, read_back

import m2kr
from m2kr.building.userdata.fields import PASSAGE_NAMES, QUERY_NAMES, passage_row, query_row
from m2kr.building.userdata.importer import import_files
from m2kr.errors import InputError


def test_every_alias_is_understood():
    for name in ("id", "_id", "passage_id", "docid"):
        assert passage_row({name: "x", "text": "t"}, "here")["passage_id"] == "x"
    for name in ("text", "contents", "passage_content", "passage_text"):
        assert passage_row({"id": "x", name: "t"}, "here")["passage_content"] == "t"
    for name in ("image", "img_path", "image_path"):
        assert passage_row({"id": "x", name: "./a/b.jpg"}, "here")["img_path"] == "a/b.jpg"
        assert query_row({"id": "x", name: "b.jpg"}, "here")["img_path"] == "b.jpg"
    for name in ("id", "_id", "question_id", "query_id", "qid"):
        assert query_row({name: 3, "query": "t"}, "here")["question_id"] == "3"
    for name in ("question", "text", "query"):
        assert query_row({"id": "x", name: "t"}, "here")["question"] == "t"
    for name in ("positives", "pos_item_ids"):
        row = query_row({"id": "x", "text": "t", name: ["a", "b", "a"]}, "here")
        assert row["pos_item_ids"] == ["a", "b"]
    assert passage_row({"id": "x", "text": "t"}, "here")["language"] == "en"


OTHER_NAMES = [
    (read, column, names)
    for read, accepted in ((passage_row, PASSAGE_NAMES), (query_row, QUERY_NAMES))
    for column, names in accepted.items()
    if len(names) > 2
]


@pytest.mark.parametrize(("read", "column", "names"), OTHER_NAMES)
def test_names_of_one_field_that_hold_different_things_are_refused(read, column, names):
    good = {"passage_id": "p", "passage_content": "t"}
    if read is query_row:
        good = {"question_id": "q", "question": "?"}
    ours, *others = names
    record = {k: v for k, v in good.items() if k != column}
    for one, other in itertools.permutations(others, 2):
        with pytest.raises(InputError) as caught:
            read(record | {one: "a.jpg", other: "b.jpg"}, "here")
        for word in (f"'{one}' is 'a.jpg'", f"'{other}' is 'b.jpg'", *names):
            assert word in str(caught.value)
        for same in (
            {one: "a.jpg", other: "a.jpg"},
            {ours: "a.jpg", one: "b.jpg"},
            {one: "a.jpg", other: None},
        ):
            assert read(record | same, "here")[column] in ("a.jpg", ["a.jpg"])


def test_names_of_one_field_may_say_the_same_in_other_words():
    passage = {"id": 7, "pid": "7", "text": "t", "image_path": "a.jpg", "image": {"bytes": b""}}
    row = passage_row(passage, "here")
    assert (row["passage_id"], row["img_path"]) == ("7", "a.jpg")
    query = {"qid": 1, "query": "?", "positives": ["a", "b"], "gold_ids": '["b", "a"]'}
    assert query_row(query, "here")["pos_item_ids"] == ["a", "b"]
    with pytest.raises(InputError, match=r"'positives' is .*'gold_ids' is "):
        query_row(query | {"positives": {"a": 2, "b": 1}}, "here")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


FIELDS = st.sampled_from(
    ["id", "_id", "text", "question", "img_path", "image", "positives", "answers", "title", "lang"]
)


@settings(max_examples=150)
@given(st.dictionaries(FIELDS, JSON))
def test_any_record_is_a_row_or_our_error(record):
    for read in (passage_row, query_row):
        try:
            row = read(record, "here")
        except InputError as error:
            assert str(error).startswith("here: field '")
            continue
        pa.array([json.dumps(row, ensure_ascii=False)])
        assert row[next(iter(row))].strip()


@pytest.mark.parametrize(
    "fields",
    [
        {"positives": ["d1", "d2"], "pos_item_grades": [1, 3]},
        {"positives": ["d1", "d2"], "Grades": [1, 3]},
        {"positives": {"d1": 1, "d2": 3, "d3": 0}},
        {"positives": ["d1", "d2", "d3"], "positive_grades": [1, 3, -1]},
        {"pos_cand_list": [{"did": "d1", "score": 1}, {"did": "d2", "score": 3}]},
    ],
)
def test_grades_beside_positives(tmp_path, note_files, fields):
    queries = jsonl(tmp_path / "q2.jsonl", [{"id": "q0", "text": "?"} | fields])
    split = read_back(import_files("i", note_files[0], queries, data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 3}}
    record = {"id": "q0", "text": "?"} | fields
    assert m2kr.from_records(NOTES, [record], data=tmp_path).fingerprints == split.fingerprints


def test_maps_and_structs_in_parquet_are_grades(tmp_path, note_files):
    pairs = pa.array([[("d1", 1), ("d2", 3)]], pa.map_(pa.string(), pa.int32()))
    structs = pa.array([[{"docid": "d1", "rel": 1.0}, {"docid": "d2", "rel": 3.0}]])
    for column in (pairs, structs):
        table = pa.table({"id": ["q0"], "text": ["?"], "positives": column})
        pq.write_table(table, tmp_path / "q.parquet")
        split = read_back(import_files("i", note_files[0], tmp_path / "q.parquet", data=tmp_path))
        assert judged(split) == {"q0": {"d1": 1, "d2": 3}}


def test_grades_in_cells(tmp_path, note_files):
    queries = tmp_path / "q.tsv"
    queries.write_text('id\ttext\tpositives\nq0\t?\t{"d1": 1, "d2": 3}\nq1\t?\t{"d4": 2}\n')
    split = read_back(import_files("i", note_files[0], queries, data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 3}, "q1": {"d4": 2}}
    queries = tmp_path / "q.csv"
    queries.write_text('id,text,positives,grades\nq0,?,"[""d1"",""d2""]","[1, 3]"\nq1,?,d4,2\n')
    split = read_back(import_files("i", note_files[0], queries, data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 3}, "q1": {"d4": 2}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"positives": ["d1", "d2"], "grades": [1]}, ["'grades'", "1 grades for 2 positives"]),
        ({"positives": ["d1"], "grades": [None]}, ["'grades'", "null"]),
        ({"positives": ["d1"], "grades": ["good"]}, ["'grades'", "'good'"]),
        ({"positives": ["d1", "d2"], "scores": [1, 3]}, ["'scores'", "'pos_item_grades'"]),
        ({"positives": "d1", "rating": 0}, ["'rating'", "'pos_item_grades'"]),
        ({"positives": {"d1": None}}, ["'positives'", "null"]),
        ({"positives": {"d1": "high"}}, ["'positives'", "'high'"]),
        ({"positives": [["d1", 2]]}, ["'positives'", "a list"]),
    ],
)
def test_grades_that_are_unclear_are_refused(tmp_path, fields, words):
    with pytest.raises(InputError) as caught:
        m2kr.from_records(NOTES, [{"id": "q0", "text": "?"} | fields], data=tmp_path)
    for word in ("queries, record 1", *words):
        assert word in str(caught.value)


def test_fields_that_only_look_like_grades_are_left_alone(tmp_path):
    record = {"id": "q0", "text": "?", "positives": ["d1"]}
    for field in ({"grade": "grade8"}, {"label": 1}, {"score": [0.1, 0.2]}, {"rating": None}):
        split = m2kr.from_records(NOTES, [record | field], data=tmp_path)
        assert judged(split) == {"q0": {"d1": 1}}


@pytest.mark.parametrize("grade", [None, float("nan"), "", "good", [1], float("inf"), 10**400])
def test_grades_of_records_that_are_no_grades(tmp_path, grade):
    with pytest.raises(InputError, match=r"q0.*d1"):
        m2kr.from_records(NOTES, NOTE_QUERIES, qrels={"q0": {"d1": grade}}, data=tmp_path)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("four;4", ['["four;4"]', '["four", "4"]']),
        ("four|4", ['["four|4"]', '["four", "4"]']),
        ('"four, 4"', ['["four, 4"]', '["four", "4"]']),
        ("\"['four', '4']\"", ["JSON list"]),
        ("\"{'four', '4'}\"", ["JSON list"]),
        ("\"('four', '4')\"", ["JSON list"]),
        ('"""[""""four"""", 4]"""', ["JSON list"]),
    ],
)
def test_answers_of_a_cell_that_may_be_several_are_asked_for(tmp_path, note_files, cell, words):
    queries = tmp_path / "q.csv"
    queries.write_text(f"id,text,answers\nq0,?,{cell}\n")
    with pytest.raises(InputError) as caught:
        import_files("i", note_files[0], queries, data=tmp_path)
    for word in ("q.csv, line 2", "'answers'", *words):
        assert word in str(caught.value)


def test_answers_of_a_cell_that_are_sure(tmp_path, note_files):
    queries = tmp_path / "q.csv"
    queries.write_text('id,text,answer\nq0,?,"Paris, France"\nq1,?,"[""four;4""]"\nq2,?,4 m\n')
    split = read_back(import_files("i", note_files[0], queries, data=tmp_path))
    assert split.queries["answers"][:] == [["Paris, France"], ["four;4"], ["4 m"]]


@pytest.mark.parametrize("mark", [";", "; ", "|", ", ", ",", " ", "','", '"; "'])
@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.jsonl"])
def test_positives_that_are_a_list_are_not_dropped(tmp_path, note_files, mark, name):
    quote = mark[:1] if mark[:1] in "'\"" else ""
    cell = f"{quote}d1{mark}d2{quote}"
    if name == "q.jsonl":
        jsonl(tmp_path / name, [{"id": "q0", "text": "?", "positives": cell}])
    elif name == "q.tsv":
        (tmp_path / name).write_text(f"id\ttext\tpositives\nq0\t?\t{cell}\n")
    else:
        quoted = cell.replace('"', '""')
        (tmp_path / name).write_text(f'id,text,positives\nq0,?,"{quoted}"\n')
    for drop in (False, True):
        with pytest.raises(InputError) as caught:
            import_files("i", note_files[0], tmp_path / name, data=tmp_path, drop_missing=drop)
        assert repr(cell) in str(caught.value)
        assert '["d1", "d2"]' in str(caught.value)
        assert "--drop-missing" not in str(caught.value)


@pytest.mark.parametrize("cell", ["['d1', 'd2']", "('d1', 'd2')", "{'d1', 'd2'}", "[d1, d2]"])
def test_positives_in_another_languages_list_are_refused(tmp_path, note_files, cell):
    (tmp_path / "q.tsv").write_text(f"id\ttext\tpositives\nq0\t?\t{cell}\n")
    with pytest.raises(InputError, match=r"line 2: field 'positives'.*\n.*a JSON list"):
        import_files("i", note_files[0], tmp_path / "q.tsv", data=tmp_path, drop_missing=True)


def test_ids_with_separators_are_ids_where_the_pool_has_them(tmp_path):
    passages = [{"id": i, "text": i} for i in ("New York; NY", "New York", "NY", "a|b, c")]
    queries = [{"id": "q0", "text": "?", "positives": "New York; NY"}]
    queries += [{"id": "q1", "text": "?", "positives": ["a|b, c"]}]
    split = m2kr.from_records(passages, queries, data=tmp_path)
    assert split.queries["pos_item_ids"][:] == [["New York; NY"], ["a|b, c"]]
