"""Infoseek: the forms of its answers, numbers in passages, and real rows.

Its tables, ledger and counts are tested with those of all sources (``test_sources_one.py``).
"""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers.faulty_server import FaultyServer
from support.golden_tables import ledger_of, rows_of
from support.upstream_fixture import Served, gzipped, served_files

from m2kr.building.build import build
from m2kr.building.formats.phrase_index import IndexedPassage
from m2kr.building.ledger import Ledger
from m2kr.building.spec import BuildContext
from m2kr_builders import infoseek

SAMPLES = os.environ.get("M2KR_UPSTREAM_SAMPLES")
ROW = {
    "data_id": "infoseek_train_00000001",
    "image_id": "oven_01000001",
    "question": "How tall is this?",
    "answer": ["31"],
    "data_split": "train",
}


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def joined(tmp: Path, row: dict[str, Any], kind: object = "String") -> list[Any]:
    """A row of train and of val, read."""
    entity = {"data_id": row["data_id"], "entity_id": "Q1", "entity_text": "Tower"}
    contents = {
        "infoseek_val": row,
        "infoseek_val_withkb": entity,
        "infoseek_val_qtype": {"data_id": row["data_id"], "question_type": kind},
    }
    files = {f"infoseek/{name}.jsonl": tmp / f"{name}.jsonl" for name in contents}
    for name, content in contents.items():
        (tmp / f"{name}.jsonl").write_bytes(lines([content]))
    return list(
        infoseek.joined_questions(BuildContext(infoseek.SOURCE, files, Ledger("infoseek")), "test")
    )


NUMBER = {"wikidata": 31.0, "range": [27.9, 34.1]}


@pytest.mark.parametrize(
    ("given_answers", "answers", "value", "bounds"),
    [
        ([NUMBER], ["31"], 31.0, (27.9, 34.1)),
        (NUMBER, ["31"], 31.0, (27.9, 34.1)),
        ([NUMBER, NUMBER], ["31"], 31.0, (27.9, 34.1)),
        ([NUMBER, {"wikidata": 40, "range": [36, 44]}], ["31"], 31.0, (27.9, 34.1)),
        ({"wikidata": 3, "range": [2, 4], "unit": "m"}, ["31"], 3.0, (2.0, 4.0)),
        (["31 m", "31"], ["31", "31 m", "31"], None, ()),
        ("31 m", ["31", "31 m"], None, ()),
        ([], ["31"], None, ()),
        (None, ["31"], None, ()),
        (["", "31 m", "\n"], ["31", "31 m"], None, ()),
    ],
)
def test_every_form_of_answer_eval(
    tmp_path: Path, given_answers: Any, answers: list[str], value: float | None, bounds: Any
) -> None:
    (asked,) = joined(tmp_path, ROW | {"answer_eval": given_answers})
    assert (list(asked.answers), asked.value, asked.range) == (answers, value, bounds)


@pytest.mark.parametrize(
    "wrong",
    [
        *(31, [31], [None], ["31", NUMBER], [["31"]], {}, [{"wikidata": 31}]),
        *({"wikidata": value, "range": [1, 2]} for value in ("tall", None, "nan", [1])),
        *({"wikidata": 1, "range": bounds} for bounds in ([1], [1, 2, 3], "ab", None)),
    ],
)
def test_what_is_no_answer_is_dropped(tmp_path: Path, wrong: Any) -> None:
    assert not joined(tmp_path, ROW | {"answer_eval": wrong})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(" 1a") | st.just(NUMBER),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["wikidata", "range"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("infoseek")


@given(ANYTHING, ANYTHING)
def test_answers_of_any_kind_are_read_or_dropped(folder: Path, answer: Any, accepted: Any) -> None:
    for asked in joined(folder, ROW | {"answer": answer, "answer_eval": accepted}):
        assert asked.answers and all(text.strip() for text in asked.answers)
        assert asked.value is None or math.isfinite(asked.value)
        assert len(asked.range) == (0 if asked.value is None else 2)


@pytest.mark.parametrize(
    ("answer", "accepted", "left"),
    [
        (["31", ""], [" "], ["31"]),
        ([""], ["31"], ["31"]),
        ([" 31 "], [], [" 31 "]),
        ([], ["31"], ["31"]),
        ("31", [], ["31"]),
        ([""], [" "], None),
        ([], [], None),
    ],
)
def test_blank_answers_are_left_out(
    tmp_path: Path, answer: Any, accepted: Any, left: list[str] | None
) -> None:
    found = joined(tmp_path, ROW | {"answer": answer, "answer_eval": accepted})
    assert [list(asked.answers) for asked in found] == ([] if left is None else [left])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("Time", "Time"), (None, None), ("", None), (" ", None), (3, None), (["String"], None)],
)
def test_a_question_type_that_is_none_stays_none(
    tmp_path: Path, kind: object, expected: str | None
) -> None:
    (asked,) = joined(tmp_path, ROW | {"answer_eval": []}, kind)
    assert asked.question_type == expected


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("from 1990-2005", [1990, 2005]),
        ("1990\u20132005, 1990\u22122005", [1990, 2005, 1990, 2005]),
        ("6.5-7.0 m", [6.5, 7.0]),
        ("born 1912-05-17", [1912, 5, 17]),
        ("5%-7% or 5m-7m", [5, 7, 5, 7]),
        ("an F-16 of mid-1990", [16, 1990]),
        ("-5 to +7 (-9), \u221210.5 or .5", [-5, 7, -9, -10.5, 0.5]),
        ("1,234 or 12,345,678.9", [1234, 12345678.9]),
        ("1,00,000 and 12,34,567", [100000, 1234567]),
        ("in 1990,2005 and 3,4", [1990, 2005, 3, 4]),
    ],
)
def test_numbers_in_a_passage(text: str, numbers: list[float]) -> None:
    for value in numbers:
        assert infoseek.holds_number(value, text), value
    for value in {-n for n in numbers} - set(numbers):
        assert not infoseek.holds_number(value, text), value


@given(
    st.integers(0, 9_999), st.integers(0, 9_999), st.sampled_from("-\u2013\u2014\u2212/"), st.text()
)
def test_two_numbers_with_a_dash_are_two(low: int, high: int, dash: str, more: str) -> None:
    text = f"Of {low}{dash}{high} years"
    assert infoseek.holds_number(low, text) and infoseek.holds_number(high, text)
    assert not high or not infoseek.holds_number(-high, text)
    infoseek.holds_number(5.0, text + more)  # whatever comes, no error


def test_a_number_makes_a_passage_right(tmp_path: Path) -> None:
    (asked,) = joined(tmp_path, ROW | {"answer": ["-2005"], "answer_eval": [NUMBER]})
    hits = [IndexedPassage(0, "1", "Between 1990-2005 it was closed.", "Tower")]
    hits.append(IndexedPassage(1, "2", "It is 31 m tall.", "Tower"))
    assert infoseek.Infoseek.positives(asked, hits) == [
        "1",
        "2",
    ]  # the text of the answer, then the number


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files")
def test_every_real_row_comes_through(tmp_path: Path) -> None:
    folder, files = Path(str(SAMPLES)) / "infoseek", served_files()
    parts = {
        "train": "infoseek_train.1000rows",
        "train_withkb": "infoseek_train_withkb.1000rows",
        "val": "infoseek_val.1000rows.as_printed",
        "val_qtype": "infoseek_val_qtype.1000rows",
    }
    rows: dict[str, list[dict[str, Any]]] = {
        part: [json.loads(line) for line in (folder / f"{name}.jsonl").open(encoding="utf-8")]
        for part, name in parts.items()
    }
    # Whose entities aren't at hand, and pages that hold the answers of their entity.
    rows["val_withkb"] = [
        {"data_id": row["data_id"], "entity_id": f"Q{n}", "entity_text": f"Thing {n}"}
        for n, row in enumerate(rows["val"])
    ][::-1]
    texts: dict[str, list[str]] = {}
    for part in ("train", "val"):
        names = {row["data_id"]: row["entity_text"] for row in rows[f"{part}_withkb"]}
        for row in rows[part]:
            texts.setdefault(names[row["data_id"]], []).append(row["answer"][0].replace('"', ""))
    table = "".join(
        f'{n}\t"{", ".join(answers)}"\t"{name.replace(chr(34), chr(34) * 2)}"\n'
        for n, (name, answers) in enumerate(texts.items(), 1)
    )
    files |= {f"/infoseek/infoseek_{part}.jsonl": lines(found) for part, found in rows.items()}
    files["/wikipedia/psgs_w100.tsv.gz"] = gzipped(b"id\ttext\ttitle\n" + table.encode())
    with FaultyServer(files) as server:
        options = {"test_images": "all", "distractors": "0"}
        built = build(Served("infoseek", server.url("")), tmp_path, options=options)
    assert {s: facts["queries"] for s, facts in built.manifest["splits"].items()} == {
        **{"train": 1_000, "test": 1_000}
    }
    for split in ("train", "test"):
        assert not ledger_of(built, "dropped", "repaired").get(f"Infoseek_data/{split}")
    train, test = (rows_of(built, "queries", split) for split in ("train", "test"))
    assert Counter(row["data_split"] for row in test) == {"val_unseen_question": 1_000}
    kinds = Counter(row["question_type"] for row in test)
    assert kinds == Counter(row["question_type"] for row in rows["val_qtype"])
    numbers = [row for row in train if row["wikidata_value"] is not None]
    assert len(numbers) == 195  # one of them with the same object twice
    (twice,) = [r for r in train if r["question_id"] == TWICE["question_id"]]
    assert {name: twice[name] for name in TWICE} == TWICE
    first = next(row for row in train if row["question_id"] == "infoseek_train_00000019")
    assert first["answers"][:3] == ["India", "in", "Bharat"] and len(first["answers"]) == 11
    assert (first["entity_id"], first["img_path"]) == ("Q725457", "oven_03183340.jpg")


TWICE = {
    "question_id": "infoseek_train_00001924",
    "wikidata_value": 12.0,
    "wikidata_range": [10.8, 13.2],
    "answers": ["12"],
}
