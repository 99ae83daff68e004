"""Bringing one's own data: records and files in, a loadable source out, errors that name the place."""

import bz2
import gzip
import io
import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import m2kr
from m2kr.building.publish import remove
from m2kr.building.userdata.fields import PASSAGE_NAMES, QUERY_NAMES, passage_row, query_row
from m2kr.building.userdata.importer import import_files
from m2kr.building.userdata.qrels import qrels_file, read_qrels
from m2kr.building.userdata.readers import record_file
from m2kr.data.load import load
from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.instructions import TEMPLATES

PASSAGES = [{"id": f"p{i}", "text": f"Text number {i}."} for i in range(20)]
QUERIES = [{"id": f"q{i}", "question": f"What is {i}?", "positives": [f"p{i}"]} for i in range(5)]


def jsonl(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    return jsonl(tmp_path / "passages.jsonl", PASSAGES), jsonl(tmp_path / "queries.jsonl", QUERIES)


class Frame:
    """A data frame of some other library."""

    def __init__(self, rows: list[dict]) -> None:
        self._rows = rows

    def __iter__(self):
        return iter(self._rows[0])

    def to_dict(self, orient: str) -> list[dict]:
        assert orient == "records"
        return self._rows


def photos(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        Image.new("RGB", (8 + i, 8), (i * 40, 0, 0)).save(folder / f"{i}.jpg")
    return folder


# From Python


def test_twenty_passages_and_five_photos_in_five_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("M2KR_DATA", str(tmp_path / "data"))
    folder = str(photos(tmp_path / "photos", 5))

    passages = [{"passage_id": f"p{i}", "passage_content": f"Text {i}."} for i in range(20)]
    queries = [{"question_id": f"q{i}", "img_path": f"{i}.jpg"} for i in range(5)]
    queries = [q | {"question": "What is this?", "pos_item_ids": ["p3"]} for q in queries]
    split = m2kr.from_records(passages, queries, images=folder)

    assert (split.source, split.split) == ("mine", "test")
    assert split.edition.startswith("mine-")
    assert len(split.passages) == 20
    assert split.query("q2")["pos_item_contents"] == ["Text 3."]
    assert [split.images.open(q["img_path"]).width for q in split.queries] == [8, 9, 10, 11, 12]
    again = load("mine")
    assert again.fingerprints == split.fingerprints
    assert again.manifest["source"]["task"] == "IQ2T"
    assert again.manifest["splits"]["test"]["judged"] == 5


def test_unchanged_records_are_not_built_again_and_changed_ones_get_a_place_of_their_own(tmp_path):
    def build(text: str) -> m2kr.Split:
        return m2kr.from_records({"p1": text}, [{"id": 1, "text": "?"}], data=tmp_path)

    def built_at(split: m2kr.Split) -> float:
        return (split.folder / "MINE_manifest.json").stat().st_mtime_ns

    first = build("one")
    time = built_at(first)
    second = build("two")
    again = build("one")
    assert again.folder == first.folder != second.folder
    assert built_at(again) == time
    for split, text in ((first, "one"), (second, "two"), (again, "one")):
        assert split.passage("p1")["passage_content"] == text


def test_two_data_sets_without_a_name_are_scored_apart(tmp_path):
    texts = [{"a": "tin melts", "b": "zinc boils"}, {"a": "zinc boils", "b": "tin melts"}]
    query = {"q": {"question": "zinc", "positives": ["b"]}}
    splits = [m2kr.from_records(passages, query, data=tmp_path) for passages in texts]
    results = m2kr.evaluate(splits, "bm25", data=tmp_path)
    assert [r.metrics["hit_rate@1"]["value"] for r in results] == [1.0, 0.0]
    results = m2kr.evaluate(splits[::-1], "dense_text", data=tmp_path, cache=True)
    assert [r.metrics["hit_rate@1"]["value"] for r in results] == [0.0, 1.0]


def test_a_name_that_is_taken_is_refused_unless_the_content_is_the_same(tmp_path, files):
    first = m2kr.from_records({"p": "one"}, {"q": "?"}, name="own", data=tmp_path)
    assert (
        m2kr.from_records({"p": "one"}, {"q": "?"}, name="own", data=tmp_path).folder
        == first.folder
    )
    for changed in (
        {"passages": {"p": "two"}},
        {"queries": {"q": "!"}},
        {"instruction": "Find:"},
        {"split": "train"},
    ):
        given = {"passages": {"p": "one"}, "queries": {"q": "?"}} | changed
        with pytest.raises(UsageError, match="m2kr remove own --edition own"):
            m2kr.from_records(**given, name="own", data=tmp_path)
    assert load("own", data=tmp_path).passage("p")["passage_content"] == "one"
    import_files("own", *files, data=tmp_path)  # the command says what it replaces
    assert len(load("own", data=tmp_path).passages) == 20


def test_names_that_differ_in_punctuation_alone_harm_nothing(tmp_path, files):
    passages, queries = files
    import_files("a-b", passages, queries, data=tmp_path)
    with pytest.raises(UsageError, match="can't be told from 'a-b'"):
        import_files("a_b", passages, queries, edition="a-b", data=tmp_path)
    jsonl(queries, QUERIES[:2])
    import_files("a_b", passages, queries, data=tmp_path)
    import_files("a-b-c", passages, queries, data=tmp_path)
    for name, count in (("a-b", 5), ("A-B", 5), ("a_b", 2), ("A_B", 2), ("abc", 2)):
        assert len(load(name, data=tmp_path).queries) == count
    with pytest.raises(UsageError, match="a-b or a_b"):
        load("ab", data=tmp_path)
    assert [each.folder.name for each in remove("a_b", tmp_path)] == ["a_b"]
    assert len(load("ab", data=tmp_path).queries) == 5


def test_an_open_split_keeps_its_rows_when_the_source_is_imported_again(tmp_path, files):
    passages, queries = files
    split = read_back(import_files("x", passages, queries, data=tmp_path))
    texts, fingerprints = split.passages["passage_content"][:], split.fingerprints
    assert split.query("q1")["question"] == "What is 1?"
    jsonl(passages, [p | {"text": "other"} for p in PASSAGES[::-1]])
    jsonl(queries, [q | {"question": "Other?"} for q in QUERIES])
    assert import_files("x", passages, queries, data=tmp_path).fresh
    assert split.passages["passage_content"][:] == texts
    assert split.query("q1")["question"] == "What is 1?"
    assert split.fingerprints == fingerprints != load("x", data=tmp_path).fingerprints


def test_mappings_generators_and_data_frames_records(tmp_path):
    split = m2kr.from_records(
        {"p1": "one", "p2": {"text": "two", "title": "Two"}},
        {"q1": "which?", 7: {"question": "who?", "answers": ["me"]}},
        qrels={"q1": {"p2": 2, "p1": 0}, "7": ["p1"]},
        data=tmp_path,
        name="Maps",
    )
    assert split.source == "maps"
    assert split.passage("p2")["title"] == "Two"
    assert split.query("q1")["pos_item_ids"] == ["p2"]
    assert split.query("7")["pos_item_ids"] == ["p1"]

    rows = [{"id": f"p{i}", "text": f"t{i}", "title": None} for i in range(3)]
    asked = [{"id": f"q{i}", "text": "?", "positives": [f"p{i}"], "score": 1} for i in range(3)]
    judged = [{"qid": "q0", "docid": "p1", "gain": 2}]
    plain = m2kr.from_records(rows, asked, qrels=judged, data=tmp_path)
    for frame in (pa.Table.from_pylist, pd.DataFrame, Frame):
        split = m2kr.from_records(*map(frame, (rows, asked)), qrels=frame(judged), data=tmp_path)
        assert split.folder == plain.folder
        assert split.query("q0")["pos_item_grades"] == [2.0]
    series = pd.DataFrame(rows).set_index("id")["text"]
    assert len(m2kr.from_records(series, asked, data=tmp_path).passages) == 3
    for wrong in ("passages.jsonl", 3, None, b"x"):
        with pytest.raises(InputError, match=r"(?s)passages: the passages are a .*data frame"):
            m2kr.from_records(wrong, asked, data=tmp_path)

    split = m2kr.from_records(
        ({"id": np.int64(i), "text": np.str_(f"t{i}"), "title": float("nan")} for i in range(3)),
        ({"id": i, "text": "?", "positives": np.array([i])} for i in range(3)),
        data=tmp_path,
        name="frames",
    )
    assert split.passages["title"][:] == [None] * 3
    assert split.query("2")["pos_item_contents"] == ["t2"]


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


def test_instructions_follow_what_a_query_consists_of(tmp_path):
    queries = [
        {"id": "both", "question": "q", "img_path": "a.jpg"},
        {"id": "image", "img_path": "a.jpg", "question": " "},
        {"id": "text", "question": "q"},
        {"id": "own", "question": "q", "instruction": "Mine:"},
    ]
    split = m2kr.from_records({"p": "t"}, queries, data=tmp_path)
    for name, lists in (("both", "iq2t"), ("image", "wit"), ("text", "msmarco")):
        assert split.query(name)["instruction"] in TEMPLATES[lists].templates
    assert split.query("image")["question"] == ""
    assert split.query("own")["instruction"] == "Mine:"
    assert split.manifest["source"]["task"] == "mixed"

    split = m2kr.from_records({"p": "t"}, queries, instruction="Find:", data=tmp_path)
    given = split.queries["instruction"][:]
    assert given == ["Find:", "Find:", "Find:", "Mine:"]


def test_without_judgements_a_split_can_be_loaded(tmp_path):
    split = m2kr.from_records({"p": "t"}, {"q": "?"}, data=tmp_path)
    assert split.manifest["splits"]["test"]["judged"] == 0
    assert len(split.qrels) == 0


@pytest.mark.parametrize(
    ("passages", "queries", "words"),
    [
        ([{"text": "t"}], [], ["passages, record 1", "field 'passage_id' is missing", "docid"]),
        ([{"id": "a", "text": 3}], [], ["record 1", "field 'text' is 3", "a text"]),
        ([{"id": "a"}], [], ["record 1", "field 'passage_content' is missing"]),
        ([{"id": " ", "text": "t"}], [], ["record 1", "field 'id' is blank"]),
        ([{"id": 1.5, "text": "t"}], [], ["field 'id' is 1.5", "whole number"]),
        ([{"id": True, "text": "t"}], [], ["field 'id' is True"]),
        ([{"id": "a", "text": "t", "image": {"bytes": b""}}], [], ["field 'image' is a dict"]),
        ([{"id": "a", "text": "t", "image": "../x"}], [], ["field 'image'", "climbs out"]),
        ([{"id": "a", "text": "t", "image": "http://x/y.jpg"}], [], ["URL"]),
        (["text"], [], ["record 1", "is a str", "data frame"]),
        ([], [{"id": "q", "text": "?"}], ["there are no passages"]),
        ({"a": "t"}, [], ["there are no queries"]),
        (
            {"a": "t"},
            [{"id": "q"}],
            ["queries, record 1", "field 'question' is missing", "img_path"],
        ),
        ({"a": "t"}, {"q": {"text": "?", "positives": ["b"]}}, ["'b' of query 'q'", "record 1"]),
        ({"a": "t"}, {"q": {"text": "?", "answers": [["x"]]}}, ["field 'answers' is a list"]),
        (
            [{"id": "a", "text": "1"}, {"id": "b", "text": "2"}, {"id": "a", "text": "3"}],
            {"q": "?"},
            ["passages, record 3", "passage_id", "passages, record 1"],
        ),
        (
            {"a": "t"},
            [{"id": "q", "text": "?"}, {"id": "q", "text": "!"}],
            ["queries, record 2", "question_id", "queries, record 1"],
        ),
    ],
)
def test_wrong_records_name_record_and_field(tmp_path, passages, queries, words):
    with pytest.raises(InputError) as caught:
        m2kr.from_records(passages, queries, data=tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("name", ["mini", "Mi-Ni", "all", "1st", "a/b", "..", "", "x" * 80, "a b"])
def test_names_that_cannot_be_used(tmp_path, name):
    with pytest.raises(UsageError):
        m2kr.from_records({"p": "t"}, {"q": "?"}, name=name, data=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_root_that_is_not_there_is_said_first(tmp_path):
    with pytest.raises(MissingError, match="image root does not exist"):
        m2kr.from_records({"p": "t"}, {"q": "?"}, images=tmp_path / "no", data=tmp_path)


# From files


def read_back(built, split: str = "test") -> m2kr.Split:
    name = built.manifest["source"]["name"]
    return load(name, split, edition=built.folder.name, data=built.folder.parent)


def test_every_kind_of_file_gives_the_same_source(tmp_path, files):
    passages, queries = files
    expected = read_back(import_files("a1", passages, queries, data=tmp_path)).fingerprints

    packed = tmp_path / "p.jsonl.gz"
    packed.write_bytes(gzip.compress(passages.read_bytes()))
    (tmp_path / "packed.jsonl").write_bytes(packed.read_bytes())  # whatever its name
    bom = tmp_path / "q.ndjson"
    bom.write_bytes(b"\xef\xbb\xbf" + queries.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert read_back(import_files("a2", packed, bom, data=tmp_path)).fingerprints == expected
    unnamed = import_files("a5", tmp_path / "packed.jsonl", bom, data=tmp_path)
    assert read_back(unnamed).fingerprints == expected

    csv = tmp_path / "p.csv"
    csv.write_text("id,text\r\n" + "".join(f'{p["id"]},"{p["text"]}"\r\n' for p in PASSAGES))
    tsv = tmp_path / "q.tsv"
    rows = (f'{q["id"]}\t{q["question"]}\t["{q["positives"][0]}"]\t\n' for q in QUERIES)
    tsv.write_text("﻿id\tquestion\tpositives\tanswers\n" + "".join(rows), encoding="utf-8")
    assert read_back(import_files("a3", csv, tsv, data=tmp_path)).fingerprints == expected

    for name, records in (("p", PASSAGES), ("q", QUERIES)):
        pq.write_table(pa.Table.from_pylist(records), tmp_path / f"{name}.parquet")
    parquet = import_files("a4", tmp_path / "p.parquet", tmp_path / "q.parquet", data=tmp_path)
    assert read_back(parquet).fingerprints == expected
    assert parquet.manifest["inputs"][0]["name"] == "passages/p.parquet"
    assert parquet.manifest["route"] == "import"


def test_csv_cells_may_hold_lines_quotes_and_lists(tmp_path):
    passages = tmp_path / "p.csv"
    passages.write_text('id,text\np1,"two\nlines, and ""quotes"""\np2,x\n')
    queries = tmp_path / "q.csv"
    queries.write_text('id,text,answers,positives\nq1,?,"[""a"", 2]",p1\nq2,?,[,\n')
    with pytest.raises(InputError, match=r"q\.csv, line 3: field 'answers'"):
        import_files("c", passages, queries, data=tmp_path)
    queries.write_text('id,text,answers,positives\nq1,?,"[""a"", 2]",p1\nq2,?,plain,\n')
    split = read_back(import_files("c", passages, queries, data=tmp_path))
    assert split.passage("p1")["passage_content"] == 'two\nlines, and "quotes"'
    assert split.query("q1")["answers"] == ["a", "2"]
    assert split.query("q2")["answers"] == ["plain"]
    assert split.query("q2")["pos_item_ids"] == []


def test_parquet_nan_and_null_are_absent(tmp_path):
    table = pa.table(
        {
            "id": ["a", "b"],
            "text": ["t", "u"],
            "title": pa.array([float("nan"), None], pa.float64()),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    queries = jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "?"}])
    split = read_back(import_files("n", tmp_path / "p.parquet", queries, data=tmp_path))
    assert split.passages["title"][:] == [None, None]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "p.jsonl",
            b'{"id":"a","text":"t"}\n\n{"text":"t"}\n',
            ["p.jsonl, line 3", "'passage_id'"],
        ),
        ("p.jsonl", b'{"id":"a","text":"t"}\n{"id":', ["line 2", "not JSON"]),
        ("p.jsonl", b'[{"id":"a"}]', ["line 1", "JSON list", "jq"]),
        ("p.jsonl", b'{"id":"a","text":"t","x":NaN}', ["line 1", "NaN"]),
        ("p.jsonl", b'{"id":"a","text":"\\u00e9","x":NaN}', ["line 1", "NaN"]),
        ("p.jsonl", b'{"id":"a","text":"\xff"}', ["line 1", "not UTF-8", "iconv"]),
        ("p.jsonl", b"[" * 100_000, ["line 1", "nested too deeply"]),
        ("p.jsonl", b'{"id":' + b"9" * 5000 + b"}", ["line 1"]),
        ("p.jsonl", b'{"id":"a","text":"' + b"x" * (17 << 20) + b'"}', ["line 1", "too long"]),
        (
            "p.jsonl.gz",
            gzip.compress(b'{"id":"a","text":"t"}\n' * 9, mtime=0)[:-9],
            ["can't be read"],
        ),
        ("p.jsonl.gz", b"plain", ["line 1", "can't be read"]),
        ("p.jsonl", bz2.compress(b"{}"), ["line 1", "packed by bzip2"]),
        ("p.csv", b"id,text\na,t,more\n", ["line 2", "3 cells", "2, as the header: id, text"]),
        ("p.csv", b"id,id\na,t\n", ["line 1", "double name"]),
        ("p.csv", b'id,text\na,"t\n', ["line 2", "no CSV"]),
        ("p.parquet", b"PAR1 not really", ["p.parquet", "can't be read"]),
        ("p.json", b"{}", [".json", "one JSON object per line"]),
        ("p.xlsx", b"", [".xlsx", ".jsonl, .csv or .tsv"]),
    ],
)
def test_bad_files_name_file_line_and_field(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    queries = jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "?"}])
    with pytest.raises(InputError) as caught:
        import_files("bad", path, queries, data=tmp_path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_a_failed_import_leaves_the_old_one_and_can_be_mended(tmp_path, files):
    passages, queries = files
    before = read_back(import_files("x", passages, queries, data=tmp_path)).fingerprints
    good = passages.read_text()
    passages.write_text(good + '{"id": "p20"}\n')
    with pytest.raises(InputError, match="line 21"):
        import_files("x", passages, queries, data=tmp_path)
    assert load("x", data=tmp_path).fingerprints == before
    passages.write_text(good + '{"id": "p20", "text": "new"}\n')
    assert len(read_back(import_files("x", passages, queries, data=tmp_path)).passages) == 21


def test_positives_that_are_no_passages(tmp_path, files):
    passages, _ = files
    queries = jsonl(
        tmp_path / "q2.jsonl",
        [{"id": "q", "text": "?", "positives": ["p1", "gone"]}, {"id": "r", "text": "?"}],
    )
    with pytest.raises(InputError) as caught:
        import_files("m", passages, queries, data=tmp_path)
    for word in ("q2.jsonl, line 1", "'gone'", "'q'", "--drop-missing"):
        assert word in str(caught.value)
    built = import_files("m", passages, queries, data=tmp_path, drop_missing=True)
    assert read_back(built).query("q")["pos_item_ids"] == ["p1"]
    ledger = pq.read_table(built.folder / "M_ledger.parquet").to_pylist()
    assert [(r["action"], r["file"], r["row"], r["detail"]) for r in ledger] == [
        ("repaired", "q2.jsonl", 1, "gone")
    ]


def test_a_misspelt_field_is_pointed_out(tmp_path, files, caplog):
    passages, _ = files
    queries = jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "?", "positves": ["p1"]}])
    with caplog.at_level(logging.WARNING, "m2kr"):
        import_files("w", passages, queries, data=tmp_path)
    assert "'positves' (for 'positives'?)" in caplog.text
    assert caplog.text.count("WARNING") == 1


def test_several_splits_in_processes_of_their_own(tmp_path, files):
    from m2kr.building.build import build
    from m2kr.building.userdata.builder import ImportedBuilder
    from m2kr.building.userdata.layouts import Layout, SplitFiles

    passages, queries = map(record_file, files)
    splits = {"train": SplitFiles(queries), "test": SplitFiles(queries)}
    builder = ImportedBuilder("two", Layout(passages, splits))
    built = build(builder, tmp_path, jobs=2)
    assert read_back(built, "train").query("q3")["pos_item_contents"] == ["Text number 3."]
    assert read_back(built).fingerprints == read_back(built, "train").fingerprints


def test_limit_and_edition(tmp_path, files):
    built = import_files("l", *files, data=tmp_path, limit=2, edition="try")
    assert built.folder == tmp_path / "try-limit2"
    split = read_back(built)
    assert len(split.queries) == 2
    assert split.query("q1")["pos_item_contents"] == ["Text number 1."]


# Judgements


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\tp2\t1\nq1\tp3\t0\nq2\tp1\t2\n",
        "q1 0 p2 1\nq1 0 p3 0\nq2 0 p1 2\n",
        "q1\t0\tp2\t1\n\nq2\t0\tp1\t1\n",
        "q1 p2\nq2 p1\n",
        "q1\tp2\t1\r\nq2\tp1\t1\r\n",
        "q1 0 p2 1 6\nq2 0 p1 1 6\n",
        "﻿corpus-id\tquery-id\np2\tq1\np1\tq2\n",
    ],
)
def test_forms_of_judgements(tmp_path, files, text):
    passages, queries = files
    (tmp_path / "qrels.tsv").write_text(text, encoding="utf-8")
    built = import_files("j", passages, queries, tmp_path / "qrels.tsv", data=tmp_path)
    split = read_back(built)
    pairs = zip(split.qrels["question_id"], split.qrels["passage_id"], strict=True)
    assert list(pairs) == [("q1", "p2"), ("q2", "p1")]
    assert split.query("q0")["pos_item_ids"] == []


def test_judgements_as_records(tmp_path, files):
    rows = [
        {"query-id": "q1", "corpus-id": "p2", "score": 1},
        {"qid": "q2", "docid": "p1", "Relevance Grade": 1},
    ]
    split = read_back(
        import_files("j", *files, jsonl(tmp_path / "qrels.jsonl", rows), data=tmp_path)
    )
    assert split.query("q2")["pos_item_ids"] == ["p1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q1 0 p2 1\nq1 0 p2\n", ["line 2", "3 columns", "expected: 4"]),
        ("q1\n", ["line 1", "1 columns", "TREC"]),
        ("q1\tp2\thigh\n", ["line 1", "'high' is no number"]),
        ("q1\t\t1\n", ["line 1", "blank"]),
        ("q1 0 p2 1\nnobody 0 p2 1\n", ["line 2", "'nobody'", "--drop-missing"]),
        ("q1 0 nothing 1\n", ["line 2", "'nothing'", "'q1'"]),
    ],
)
def test_bad_judgements_name_the_line(tmp_path, files, text, words):
    (tmp_path / "qrels.txt").write_text(text)
    with pytest.raises(InputError) as caught:
        import_files("j", *files, tmp_path / "qrels.txt", data=tmp_path)
    for word in words:
        assert word in str(caught.value)


# Folders of other benchmarks


def test_beir(tmp_path):
    jsonl(
        tmp_path / "b/corpus.jsonl",
        [
            {"_id": "1", "title": "Tower", "text": "It is high.", "metadata": {}},
            {"_id": "2", "title": "", "text": "No title.", "image": "a/2.jpg"},
            {"_id": "3", "title": "", "text": ""},
        ],
    )
    jsonl(tmp_path / "b/queries.jsonl", [{"_id": f"q{i}", "text": f"{i}?"} for i in range(4)])
    for split, lines in (("test", "q0\t1\t1\nq1\t2\t2\n"), ("dev", "q2\t1\t1\n")):
        path = tmp_path / f"b/qrels/{split}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("query-id\tcorpus-id\tscore\n" + lines)
    built = import_files("b", layout="beir", folder=tmp_path / "b", data=tmp_path / "d")
    split = read_back(built)
    assert split.passages["passage_content"][:] == ["Tower It is high.", "No title.", ""]
    assert split.passages["title"][:] == ["Tower", "", ""]
    assert split.passages["img_path"][:] == [None, "a/2.jpg", None]
    assert split.queries["question_id"][:] == ["q0", "q1"]
    assert read_back(built, "dev").queries["question_id"][:] == ["q2"]
    assert built.manifest["source"]["pools"] == {"test": "test_passages", "valid": "test_passages"}

    one = import_files("b", layout="beir", folder=tmp_path / "b", split="dev", data=tmp_path / "e")
    assert list(one.manifest["splits"]) == ["valid"]
    with pytest.raises(MissingError, match="'train'"):
        import_files("b", layout="beir", folder=tmp_path / "b", split="train", data=tmp_path)


def mbeir_folder(at: Path) -> Path:
    pool = [
        {
            "did": "6:1",
            "txt": "A tower.",
            "img_path": None,
            "modality": "text",
            "src_content": None,
        },
        {"did": "6:2", "txt": None, "img_path": "mbeir_images/x/2.jpg", "modality": "image"},
    ]
    query = {
        "qid": "6:10",
        "query_txt": "How high?",
        "query_img_path": "mbeir_images/x/1.jpg",
        "query_modality": "image,text",
        "query_src_content": None,
        "pos_cand_list": ["6:1"],
        "neg_cand_list": [],
        "task_id": 6,
    }
    other = query | {"qid": "6:11", "query_txt": None, "pos_cand_list": [{"did": "6:2"}]}
    other |= {"query_modality": "image"}
    jsonl(at / "cand_pool/local/mbeir_infoseek_task6_cand_pool.jsonl", pool)
    jsonl(at / "query/test/mbeir_infoseek_task6_test.jsonl", [query, other])
    (at / "instructions").mkdir()
    (at / "instructions/query_instructions.tsv").write_text(
        "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\n"
        "image,text\ttext\tINFOSEEK\t6\tFind a text.\tGet one.\n"
        "image,text\timage,text\tINFOSEEK\t6\tWrong.\t\n"
    )
    photos(at / "mbeir_images", 0)
    (at / "mbeir_images/x").mkdir()
    Image.new("RGB", (5, 5)).save(at / "mbeir_images/x/1.jpg")
    return at


def test_mbeir(tmp_path):
    folder = mbeir_folder(tmp_path / "M-BEIR")
    built = import_files("mb", layout="mbeir", folder=folder, data=tmp_path / "d")
    split = read_back(built)
    first, second = split.queries
    assert first["instruction"] in ("Find a text.", "Get one.")
    assert first["pos_item_contents"] == ["A tower."]
    assert second["pos_item_ids"] == ["6:2"]
    assert second["instruction"] in TEMPLATES["wit"].templates
    assert split.passages[1]["img_path"] == "mbeir_images/x/2.jpg"
    assert split.images.open(first["img_path"]).size == (5, 5)

    qrels = folder / "qrels/test/mbeir_infoseek_task6_test_qrels.txt"
    qrels.parent.mkdir(parents=True)
    qrels.write_text("6:10 0 6:1 1 6\n6:10 0 6:2 1 6\n6:11 0 6:1 1 6\n")
    again = import_files("mb", layout="mbeir", folder=folder, data=tmp_path / "d")
    assert again.fresh
    assert read_back(again).query("6:10")["pos_item_ids"] == ["6:1", "6:2"]

    jsonl(folder / "query/test/mbeir_oven_task6_test.jsonl", [])
    with pytest.raises(UsageError, match="mbeir_oven_task6_test"):
        import_files("mb", layout="mbeir", folder=folder, data=tmp_path / "d")
    with pytest.raises(MissingError, match="mbeir_oven_task6"):
        import_files("mb", layout="mbeir", folder=folder, dataset="oven_task6", data=tmp_path / "d")


def test_ret_m2kr(tmp_path):
    folder = tmp_path / "ReT"
    for source in ("okvqa", "infoseek"):
        pool = [
            {"passage_id": "w1", "passage_text": "A tower.", "passage_image_path": "wiki/1.jpg"},
            {"passage_id": "w2", "passage_text": "A tree.", "passage_image_path": None},
        ]
        jsonl(folder / f"jsonl/m2kr/{source}_passages_test.jsonl", pool)
        query = {
            "data_id": "d1",
            "question": "How high?",
            "instruction": "Using the image: ",
            "image_path": "okvqa/1.jpg",
            "passage_id": "w1",
            "answer": ["330 m", {"wikidata": 330.0, "range": [325, 335]}],
        }
        second = query | {"data_id": "d2", "passage_id": ["w2", "w1"], "answer": None}
        ending = "test_m2kr" if source == "infoseek" else "test"
        jsonl(folder / f"jsonl/m2kr/{source}_{ending}.jsonl", [query, second])
    for source in ("okvqa", "infoseek"):
        built = import_files(
            "ret", layout="ret-m2kr", folder=folder, dataset=source, data=tmp_path / "d"
        )
        split = read_back(built)
        assert split.query("d1")["answers"] == ["330 m", "330.0"]
        assert split.query("d1")["instruction"] == "Using the image: "
        assert split.query("d2")["pos_item_ids"] == ["w2", "w1"]
        assert split.passage("w1")["img_path"] == "wiki/1.jpg"
    with pytest.raises(UsageError, match="okvqa_passages_test"):
        import_files("ret", layout="ret-m2kr", folder=folder, data=tmp_path / "d")


def test_arguments_that_do_not_fit(tmp_path, files):
    with pytest.raises(UsageError, match="--from"):
        import_files("x", folder=tmp_path, data=tmp_path)
    with pytest.raises(UsageError, match="no file of queries"):
        import_files("x", files[0], data=tmp_path)
    with pytest.raises(UsageError, match="one of files, beir"):
        import_files("x", *files, layout="csv", data=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(MissingError, match="no such file"):
        import_files("x", tmp_path / "no.jsonl", files[1], data=tmp_path)
    with pytest.raises(MissingError, match="no such folder"):
        import_files("x", layout="beir", folder=tmp_path / "no", data=tmp_path)
    with pytest.raises(UsageError, match="cannot name a split"):
        import_files("x", *files, split="a/b", data=tmp_path)


# Whatever bytes come

ALPHABET = st.sampled_from(list(b'{}[]":,\n\r\t \\u0dnulltrue.-e"idtext\xef\xbb\xbf\xff\x00'))
NEARLY = st.lists(ALPHABET, max_size=60).map(bytes)
GOOD = b'{"id": "1", "text": "t"}\n'
CSV = b"id,text\n1,t\n"
lines = st.one_of(st.binary(max_size=80), NEARLY, st.just(GOOD), st.just(CSV))


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x.jsonl.gz", "x.csv", "x.tsv", "x.csv.gz", "x.parquet"]
)
def test_random_bytes_give_rows_or_our_error(tmp_path, name):
    path = tmp_path / name
    table = io.BytesIO()
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["a", "b"]}), table)

    @settings(max_examples=80, deadline=None)
    @given(st.lists(lines, max_size=4).map(b"".join), st.integers(0, 10**4), st.booleans())
    def check(data: bytes, at: int, pack: bool) -> None:
        if name == "x.parquet":
            whole = table.getvalue()
            at %= len(whole)
            data = whole[:at] + data + whole[at + len(data) :]
        elif name.endswith(".gz") and pack:
            data = gzip.compress(data)
        path.write_bytes(data)
        last = 0
        try:
            file = record_file(path)
            for n, record in file:
                assert n > last
                last = n
                for read in (passage_row, query_row):
                    try:
                        row = read(record, file.where(n), flat=file.flat)
                        assert all(v is None or isinstance(v, str | list) for v in row.values())
                    except InputError as error:
                        assert f"{path}, " in str(error)
        except InputError as error:
            assert str(path) in str(error)

    check()


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


@settings(max_examples=150)
@given(st.lists(st.one_of(st.binary(max_size=30), st.just(b"q 0 d 1\n")), max_size=4).map(b"".join))
def test_any_judgements_are_read_or_our_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "qrels.txt"
    path.write_bytes(data)
    try:
        judged = read_qrels(qrels_file(path))
    except M2KRError as error:
        assert str(path) in str(error)
        return
    assert all(entry.line >= 1 for entry in judged.values())


@pytest.mark.parametrize("name", ["docno", "pid", "did", "docid"])
@pytest.mark.parametrize("text", ["passage", "contents"])
@pytest.mark.parametrize("right", ["relevant_docs", "gold_ids", "positives"])
def test_names_that_other_tools_give(tmp_path: Path, name: str, text: str, right: str) -> None:
    passages = [{name: "p1", text: "Tin melts."}, {name: "p2", text: "Lead melts."}]
    split = m2kr.from_records(
        passages, [{"qid": "q", "query": "tin", right: ["p2"]}], data=tmp_path
    )
    assert split.passages["passage_id"][:] == ["p1", "p2"]
    assert split.query("q")["pos_item_ids"] == ["p2"]


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
