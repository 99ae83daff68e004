"""Gold answers of built splits and of files in every form that people have."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.release_fixture import made, write_release

import m2kr
from m2kr.errors import InputError, M2KRError, MissingError
from m2kr.rag.gold import _of_split_row, gold_answers, read_gold_file
from m2kr.rag.scorer import GoldAnswer


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    root = tmp_path_factory.mktemp("data")
    for source in ("okvqa", "infoseek"):
        made(source, write_release(folder / source, sources=[source]), root, any_counts=True)
    return root


def test_okvqa_has_ten_annotators(release: Path, caplog: pytest.LogCaptureFixture) -> None:
    golds = gold_answers(m2kr.load("okvqa", "test", data=release))
    assert {len(gold.answers) for gold in golds.values()} == {10}
    flower = next(gold for gold in golds.values() if gold.question == "When does it flower?")
    assert flower.answers == ("april", "spring", *[""] * 8)
    assert "5 of 5 questions have fewer than ten answers" in caplog.text


def test_infoseek_has_values_ranges_types_and_parts(release: Path) -> None:
    golds = gold_answers(m2kr.load("infoseek", "test", data=release))
    tall = golds["infoseek_val_00000021"]
    assert (tall.value, tall.value_range) == (31.0, (27.875, 34.125))
    assert (tall.question_type, tall.group) == ("Numerical", "val_unseen_entity")
    ground = golds["infoseek_val_00000025"]
    assert ground.answers == ("wheat", "grain")
    assert ground.value is None
    assert ground.value_range is None


def test_mini_is_in_groups_by_form(mini_root: Path) -> None:
    split = m2kr.load("mini", "test", data=mini_root)
    golds = gold_answers(split)
    assert 0 < len(golds) < len(split)
    assert {gold.group for gold in golds.values()} == {
        "okvqa",
        "evqa",
        "infoseek",
        "oven",
        "msmarco",
    }
    assert golds["okvqa/cat/young"] == GoldAnswer(
        "okvqa/cat/young", "What are the young of this animal called?", ("kitten",), None, "okvqa"
    )


def test_numbers_that_frames_write_for_none(release: Path) -> None:
    split = m2kr.load("infoseek", "test", data=release)
    nan = float("nan")
    row = split.query("infoseek_val_00000022") | {
        "wikidata_value": nan,
        "wikidata_range": [nan, nan],
    }
    gold = _of_split_row(row, "data_split", "infoseek")
    assert gold is not None
    assert (gold.value, gold.value_range) == (None, None)
    whole = _of_split_row(
        row | {"wikidata_value": 31, "wikidata_range": [28, 34]}, "data_split", "infoseek"
    )
    assert whole is not None
    assert (whole.value, whole.value_range) == (31, (28, 34))


def test_annotators_who_agree_stay_several(tmp_path: Path) -> None:
    said = ["pear"] * 6 + ["fig"] * 4
    queries = [{"id": "1", "question": "?", "positives": ["p"], "answers": said}]
    split = m2kr.from_records({"p": "a pear"}, queries, name="own", data=tmp_path)
    assert gold_answers(split)["1"].answers == tuple(said)


def test_a_source_of_ones_own(tmp_path: Path) -> None:
    passages = {"p": "a pear"}
    queries = [
        {"id": "1", "question": "?", "positives": ["p"], "answers": ["pear", "pears"]},
        {"id": "2", "question": "!", "positives": ["p"]},
    ]
    split = m2kr.from_records(passages, queries, name="own", data=tmp_path)
    assert gold_answers(split) == {"1": GoldAnswer("1", "?", ("pear", "pears"))}


# --- files -----------------------------------------------------------------------------------------


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def gold_of(path: Path, **more: Any) -> dict[str, GoldAnswer]:
    return dict(read_gold_file(path, **more).golds)


INFOSEEK = {"image_id": "oven_1", "question": "How tall?", "data_split": "val_unseen_entity"}
NUMBER = {"wikidata": 31.0, "range": [27.9, 34.1]}


@pytest.mark.parametrize(
    "accepted", [NUMBER, [NUMBER], [NUMBER, NUMBER], [NUMBER, {"wikidata": 4}]]
)
def test_infoseeks_numbers(tmp_path: Path, accepted: Any) -> None:
    row = {"data_id": "a", "answer": ["31"], "answer_eval": accepted, **INFOSEEK}
    gold = gold_of(lines(tmp_path / "val.jsonl", row))["a"]
    assert (gold.value, gold.value_range, gold.answers) == (31.0, (27.9, 34.1), ("31",))
    assert (gold.group, gold.question_type) == ("val_unseen_entity", None)


def test_infoseeks_names_dates_and_types(tmp_path: Path) -> None:
    rows = [
        {"data_id": "s", "answer": ["India"], "answer_eval": ["IN", "India"], **INFOSEEK},
        {"data_id": "n", "answer": ["7"], "answer_eval": ["6.3", "7.7"], **INFOSEEK},
        {"data_id": "t", "answer": ["6", "7"], "answer_eval": ["6", "7"], **INFOSEEK},
    ]
    types = lines(
        tmp_path / "qtype.jsonl",
        {"data_id": "s", "question_type": "String"},
        {"data_id": "n", "question_type": "Numerical"},
        {"data_id": "t", "question_type": "Time"},
        {"data_id": "other", "question_type": "Time"},
    )
    golds = gold_of(lines(tmp_path / "val.jsonl", *rows), types=types)
    assert golds["s"].answers == ("India", "IN")
    assert golds["n"].value_range == (6.3, 7.7)  # as printed copies have it
    assert golds["n"].answers == ("7",)
    assert golds["t"].value_range is None
    assert golds["t"].question_type == "Time"
    with pytest.raises(InputError, match="the range of a number, or two texts"):
        read_gold_file(tmp_path / "val.jsonl")
    others = lines(tmp_path / "others.jsonl", {"data_id": "x", "question_type": "Time"})
    with pytest.raises(InputError, match="type of no question"):
        read_gold_file(tmp_path / "val.jsonl", types=others)


PEARS = [{"answer": a, "answer_id": n} for n, a in enumerate([*["pear"] * 9, ""], 1)]
ANNOTATIONS = {
    "info": {"year": 2014},
    "annotations": [
        {"question_id": 775, "image_id": 77, "answers": PEARS},
        {"question_id": 776, "image_id": 77, "answers": [{"answer": "fig", "answer_id": 1}]},
    ],
}


@pytest.mark.parametrize("form", ["json", "json.gz", "zip"])
def test_vqas_annotations_as_they_are(tmp_path: Path, form: str) -> None:
    raw = json.dumps(ANNOTATIONS).encode()
    path = tmp_path / f"mscoco_val2014_annotations.{'json.zip' if form == 'zip' else form}"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mscoco_val2014_annotations.json", raw)
    else:
        path.write_bytes(gzip.compress(raw) if form.endswith("gz") else raw)
    gold = read_gold_file(path)
    assert gold.form == "okvqa"
    assert gold.golds["775"].answers == (*["pear"] * 9, "")
    assert set(gold.golds) == {"775", "776"}


OWN = [
    {"question_id": "1", "answers": ["pear", "pears"], "question_type": "String", "group": "g"},
    {"question_id": "2", "answers": [], "value": 7, "value_range": [6, 8]},
    {"question_id": "3", "answers": [""]},
]


def test_rows_of_ones_own(tmp_path: Path) -> None:
    expected = {
        "1": GoldAnswer("1", "", ("pear", "pears"), "String", "g"),
        "2": GoldAnswer("2", "", (), None, None, 7.0, (6.0, 8.0)),
    }
    lines(tmp_path / "gold.jsonl", *OWN)
    (tmp_path / "gold.json").write_text(json.dumps(OWN))
    pq.write_table(pa.Table.from_pylist(OWN), tmp_path / "gold.parquet")
    (tmp_path / "gold.csv").write_text(
        "question_id,answers,question_type,group,value,value_range\n"
        '1,"[""pear"", ""pears""]",String,g,,\n'
        '2,,,,7,"[6, 8]"\n3,,,,,\n'
    )
    for name in ("gold.jsonl", "gold.json", "gold.csv"):
        gold = read_gold_file(tmp_path / name)
        assert dict(gold.golds) == expected, name
        assert gold.without == {"3"}, name
        assert gold.form == "infoseek"  # for one is a number
    columns = pa.table(
        {"question_id": ["1"], "answers": [["pear", "pears"]], "question_type": ["String"], "group": ["g"]}
    )  # fmt: skip
    pq.write_table(columns, tmp_path / "gold.parquet")
    assert gold_of(tmp_path / "gold.parquet") == {"1": expected["1"]}
    assert read_gold_file(tmp_path / "gold.parquet").form == "own"


@pytest.mark.parametrize(
    ("text", "ending", "wrong"),
    [
        ("question_id,answers\n1,pear; pears\n", "csv", "one answer, or several"),
        ("question_id,answers\n1,pear|pears\n", "csv", "one answer, or several"),
        ('question_id,answers\n1,"[pear]"\n', "csv", "JSON list"),
        ('{"question_id": "1", "answers": [true]}\n', "jsonl", "'yes', or the word 'true'"),
        ('{"question_id": "1", "answers": [{"a": 1}]}\n', "jsonl", "field 'answers'"),
        ('{"question_id": "1", "text": "x"}\n', "jsonl", "no column holds gold answers"),
        ('{"answers": ["x"]}\n', "jsonl", "hold the questions' ids"),
        ('{"question_id": null, "answers": ["x"]}\n', "jsonl", "field 'question_id'"),
        ('{"question_id": "1", "answers": ["x"]}\n' * 2, "jsonl", "more than once"),
        ('{"question_id": "1", "value": "many"}\n', "jsonl", "field 'value'"),
        ('{"question_id": "1", "value_range": [1, 2, 3]}\n', "jsonl", "field 'value_range'"),
        ('{"data_id": "1", "answer": ["x"], "answer_eval": [{"wikidata": 1}]}\n', "jsonl", "answer_eval"),
        ('{"annotations": [{"question_id": 1, "answers": ["pear"]}]}', "json", "annotators"),
        ("", "jsonl", "no row"),
        ("[]", "json", "no row"),
        ("{", "json", "not JSON"),
        ('{"question_id": "1"', "jsonl", "line 1"),
    ],
)  # fmt: skip
def test_what_is_refused_says_where_and_why(
    tmp_path: Path, text: str, ending: str, wrong: str
) -> None:
    path = tmp_path / f"gold.{ending}"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        read_gold_file(path)
    assert wrong in str(raised.value)
    assert "gold." in str(raised.value)


def test_no_such_file_a_folder_and_an_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        read_gold_file(tmp_path / "none.jsonl")
    for path in (tmp_path, tmp_path / "gold.xls"):
        if not path.exists():
            path.write_text("x")
        with pytest.raises(M2KRError, match=r"\.jsonl"):
            read_gold_file(path)


def test_evqas_csv_with_ids_added(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text(
        "question_id,question,answer,question_type,dataset_name\n"
        "e1,how tall?,30 cm; in June|1 foot,templated,inaturalist\n"
        'e2,which colours?,"red&&blue|red&&pale blue",multi_answer,landmarks\n'
        "e3,who?,|,2_hop,landmarks\n",
        encoding="utf-8",
    )
    gold = read_gold_file(path)
    assert gold.form == "evqa"
    assert gold.golds["e1"].answers == ("30 cm; in June", "1 foot")
    assert gold.golds["e2"] == GoldAnswer(
        "e2", "which colours?", ("red&&blue", "red&&pale blue"), "multi_answer"
    )
    assert gold.without == {"e3"}
