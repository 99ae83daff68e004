"""Passages and queries of a program: a split like any other, errors that name the record."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support.own_data import photos
from support.toys import Dense

import m2kr
from m2kr.building.userdata.importer import import_files
from m2kr.data.load import load
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.instructions import TEMPLATES


class Frame:
    """A data frame of some other library."""

    def __init__(self, rows: list[dict]) -> None:
        self._rows = rows

    def __iter__(self):
        return iter(self._rows[0])

    def to_dict(self, orient: str) -> list[dict]:
        assert orient == "records"
        return self._rows


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


class CachedLetters(Dense):
    def cache_key(self, side):
        return {"letters": 1}


def test_two_data_sets_without_a_name_are_scored_apart(tmp_path):
    texts = [{"a": "tin melts", "b": "zinc boils"}, {"a": "zinc boils", "b": "tin melts"}]
    query = {"q": {"question": "zinc", "positives": ["b"]}}
    splits = [m2kr.from_records(passages, query, data=tmp_path) for passages in texts]
    results = m2kr.evaluate(splits, "bm25", data=tmp_path)
    assert [r.metrics["hit_rate@1"]["value"] for r in results] == [1.0, 0.0]
    results = m2kr.evaluate(splits[::-1], CachedLetters(), data=tmp_path, cache=True)
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
