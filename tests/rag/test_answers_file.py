"""Files of answers: the forms that people have, and one error for each thing that is wrong."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import CheckError, InputError, M2KRError
from m2kr.rag.answers_file import AnswersFile, answer_text, read_answers

ANSWERS = {"1": "pear", "2": "a fig, or two", "3": "", "b/4": "naïve\nline"}
ROWS = [{"question_id": i, "answer": a} for i, a in ANSWERS.items()]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


FORMS = {
    "a.jsonl": jsonl(ROWS),
    "a.ndjson": jsonl(ROWS),
    "a.jsonl.gz": gzip.compress(jsonl(ROWS).encode()),
    "a.json": json.dumps(ROWS),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "indent.json": json.dumps(ROWS, indent=2),
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "lines.json": jsonl(ROWS),
    "object.json": json.dumps(ANSWERS),
    "wrapped.json": json.dumps({"model": "x", "predictions": ROWS}),
    "nested.json": json.dumps({"model": "x", "answers": ANSWERS}),
    "results.json": json.dumps({"results": ROWS, "n": 4}),
    "keyed.json": json.dumps({i: {"answer": a, "score": 1.0} for i, a in ANSWERS.items()}),
    "columns.json": json.dumps({"question_id": list(ANSWERS), "answer": list(ANSWERS.values())}),
    "a.csv": 'question_id,answer\n1,pear\n2,"a fig, or two"\n3,\nb/4,"naïve\nline"\n',
    "crlf.csv": 'question_id,answer\r\n1,pear\r\n2,"a fig, or two"\r\n3,\r\nb/4,"naïve\nline"\r\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form(tmp_path: Path, name: str) -> None:
    assert dict(read_answers(write(tmp_path / name, FORMS[name])).answers) == ANSWERS


def test_parquet_and_tsv(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert dict(read_answers(tmp_path / "a.parquet").answers) == ANSWERS
    write(tmp_path / "a.tsv", 'qid\tprediction\n1\tpear\n2\ta "fig"\n')
    assert dict(read_answers(tmp_path / "a.tsv").answers) == {"1": "pear", "2": 'a "fig"'}


@pytest.mark.parametrize(
    "id_name", ["question_id", "data_id", "qid", "q_id", "query_id", "Question-ID", "id", "_id"]
)
@pytest.mark.parametrize(
    "name", ["answer", "prediction", "pred", "predicted_answer", "response", "Output"]
)
def test_usual_names_of_columns(tmp_path: Path, id_name: str, name: str) -> None:
    row = {"question": "?", id_name: 7, name: "pear", "score": 0.5}
    assert dict(read_answers(write(tmp_path / "a.jsonl", jsonl([row]))).answers) == {"7": "pear"}


def test_columns_that_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl([{"key": "1", "reply": "pear", "answer": "fig"}]))
    named = read_answers(path, id_column="key", answer_column="reply")
    assert dict(named.answers) == {"1": "pear"}
    with pytest.raises(InputError, match="no column is called 'replies'"):
        read_answers(path, id_column="key", answer_column="replies")


def test_text_is_the_answer_where_nothing_better_is(tmp_path: Path) -> None:
    rows = [{"question_id": 1, "prompt": "what?", "text": "pear", "answer_id": "x"}]
    assert dict(read_answers(write(tmp_path / "a.jsonl", jsonl(rows))).answers) == {"1": "pear"}
    rows = [{"question_id": 1, "text": "what?", "answer": "pear"}]
    assert dict(read_answers(write(tmp_path / "b.jsonl", jsonl(rows))).answers) == {"1": "pear"}


def test_two_columns_that_could_be_it_are_refused_with_both(tmp_path: Path) -> None:
    rows = [{"question_id": "1", "answer": "x", "prediction": "x"}]
    assert dict(read_answers(write(tmp_path / "a.jsonl", jsonl(rows))).answers) == {"1": "x"}
    rows.append({"question_id": "2", "answer": "gold", "prediction": "said"})
    path = write(tmp_path / "b.jsonl", jsonl(rows))
    with pytest.raises(InputError) as raised:
        read_answers(path)
    told = str(raised.value)
    assert "line 2" in told
    assert "'said'" in told
    assert "'gold'" in told
    assert "--set answer=" in told
    assert dict(read_answers(path, answer_column="prediction").answers) == {"1": "x", "2": "said"}
    ids = [{"question_id": "1", "data_id": "7", "answer": "x"}]
    with pytest.raises(InputError, match="--set id=data_id"):
        read_answers(write(tmp_path / "c.jsonl", jsonl(ids)))
    ids = [{"question_id": "1", "id": "7", "answer": "x"}]  # a vague name is no rival
    assert dict(read_answers(write(tmp_path / "d.jsonl", jsonl(ids))).answers) == {"1": "x"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("pear", "pear"),
        ("", ""),
        (" pear ", " pear "),
        (7, "7"),
        (1990.0, "1990"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (None, None),
        (float("nan"), None),
        (["pear"], "pear"),
        ([None], None),
        ("\ud83d", "�"),
    ],
)
def test_typed_answers(value: Any, text: str | None) -> None:
    assert answer_text(value, "here", "answer") == text


@pytest.mark.parametrize("value", [True, False, ["a", "b"], [], {"text": "a"}, float("inf"), b"a"])
def test_what_is_no_answer_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="field 'answer'"):
        answer_text(value, "here", "answer")


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("a.jsonl", '{"question_id": 1, "answer": true}\n', "line 1: field 'answer' is true"),
        ("a.jsonl", '{"question_id": 1, "answer": "x"}\n[1]\n', "line 2"),
        ("a.jsonl", '{"question_id": 1, "answer": "x"}\n{"question_id": 2}\n', "line 2: field 'answer'"),
        ("a.jsonl", '{"question_id": 1.5, "answer": "x"}\n', "field 'question_id' is 1.5"),
        ("a.jsonl", '{"question_id": true, "answer": "x"}\n', "field 'question_id' is True"),
        ("a.jsonl", '{"question_id": " ", "answer": "x"}\n', "field 'question_id'"),
        ("a.jsonl", '{"question_id": 1, "said": "x"}\n', "--set answer=COLUMN"),
        ("a.jsonl", '{"answer": "x"}\n', "--set id=COLUMN"),
        ("a.json", "{}", "no row"),
        ("a.json", '"pear"', "one str"),
        ("a.json", "[1]", "row 1"),
        ("a.json", '{"1": "a", "2": "b", "1": "c"}', "keys are there more than once: '1'"),
        ("a.json", '{"1": ["a", "b"]}', "one of several answers"),
        ("a.json", '{"predictions": [{"id": 1}], "answers": [{"id": 1}]}', "both hold rows"),
        ("a.json", '{"question_id": {"0": 1}, "answer": {"0": "x"}}', 'orient="records"'),
        ("a.json", '{"answers": {"0": "x"}, "question_id": {"0": 1}}', 'orient="records"'),
        ("a.json", '{"question_id": [1, 2], "answer": ["x"]}', "different lengths"),
        ("a.json", '{"format": "m2kr-rag-1", "arms": []}', "table of records"),
        ("a.csv", "question_id,answer\n1,a,b\n", "line 2"),
        ("a.csv", "1,pear\n2,fig\n", "no column is known to hold the answers"),
        ("a.txt", "pear\nfig\n", "'.txt' are not read"),
        ("a.csv", "question_id,answer\n1,a\n1,a\n2,b\n", "1 questions are answered more than once: '1'"),
    ],
)  # fmt: skip
def test_one_error_that_says_what_and_where(
    tmp_path: Path, name: str, text: str, wrong: str
) -> None:
    with pytest.raises(InputError) as raised:
        read_answers(write(tmp_path / name, text))
    assert wrong in str(raised.value)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz", "a.csv.gz"])
@pytest.mark.parametrize("keep", [12, 40, -3])
def test_damaged_archives(tmp_path: Path, name: str, keep: int) -> None:
    raw = gzip.compress(jsonl(ROWS).encode())
    with pytest.raises(M2KRError, match=r"a\.(js|csv)"):
        read_answers(write(tmp_path / name, raw[:keep]))
    with pytest.raises(M2KRError):
        read_answers(write(tmp_path / name, raw[:20] + b"\xff\x00" + raw[22:]))


def test_records_of_several_arms_are_told(tmp_path: Path) -> None:
    rows = [
        {"question_id": 1, "arm": arm, "k": k, "answer": f"{arm} {k}"}
        for arm, k in (("none", 0), ("retrieved", 1), ("retrieved", 5))
    ]
    path = write(tmp_path / "a.jsonl", jsonl(rows))
    with pytest.raises(InputError) as raised:
        read_answers(path)
    assert "--set arm=retrieved --set k=5   (there are none 0, retrieved 1, retrieved 5)" in str(
        raised.value
    )
    chosen = read_answers(path, only={"arm": "retrieved", "k": "5"})
    assert dict(chosen.answers) == {"1": "retrieved 5"}
    with pytest.raises(InputError, match="one of none, retrieved"):
        read_answers(path, only={"arm": "oracle"})
    with pytest.raises(InputError, match="no column is called 'depth'"):
        read_answers(path, only={"depth": "5"})


def file(**answers: str | None) -> AnswersFile:
    return AnswersFile(Path("a.jsonl"), answers)


def test_answers_to_the_questions_in_their_order() -> None:
    got = file(b="fig", a="pear", c="of no gold").of_questions(["a", "b"], {"c", "d"})
    assert got == ({"a": "pear", "b": "fig"}, 0)
    assert list(got[0]) == ["a", "b"]


def test_missing_unknown_and_null() -> None:
    with pytest.raises(CheckError) as raised:
        file(a="x", b=None).of_questions(["a", "b", "c", "d"])
    told = str(raised.value)
    assert "3 of 4 questions have no answer: 'b', 'c', 'd'; 1 of them are null" in told
    assert "--missing-queries empty" in told
    got, missing = file(a="x", b=None).of_questions(["a", "b", "c"], missing="empty")
    assert (got, missing) == ({"a": "x", "b": "", "c": ""}, 2)
    with pytest.raises(CheckError, match="2 of 3 answers are to questions that are unknown"):
        file(a="x", y="x", z="x").of_questions(["a"], missing="empty")
    with pytest.raises(CheckError, match="have no answer"):  # not one: another file
        file(a=None).of_questions(["a", "b"], missing="empty")


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


@settings(max_examples=40)
@given(st.dictionaries(st.text("ab/é 1", min_size=1).filter(str.strip), TEXT, min_size=1))
def test_json_forms_give_back_what_was_written(answers: dict[str, str]) -> None:
    import tempfile

    rows = [{"qid": i, "pred": a} for i, a in answers.items()]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("a.jsonl", jsonl(rows)), ("a.json", json.dumps(rows))):
            path = write(Path(folder) / name, text)
            assert dict(read_answers(path).answers) == answers
