"""Readers of people's own: what may be left out, what is refused, and what their answers are kept under."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.errors import InputError, M2KRError, MissingError, RetrieverError, UsageError
from m2kr.rag.arms import parsed_k
from m2kr.rag.own_reader import adapted_reader, read_all
from m2kr.rag.reader import ReadRequest, RetrievedPassage
from m2kr.rag.reader_registry import open_reader, reader_names

REQUEST = ReadRequest("q1", "What?", None, (RetrievedPassage("p", "text", 1.0),))

FILE = """
from m2kr.rag.reader import Answer, ReaderBase

class Bare:
    def answer(self, image, question, passages):
        return "  said  ", 0.5

class Set:
    name = "set"
    def __init__(self, beams: int = 2, api_key: str = "", max_tokens: str = "8"):
        self.beams = beams
    def answer(self, image, question, passages):
        return Answer(str(self.beams), passage_id=passages[0].passage_id)

class Listed(ReaderBase):
    name, batch = "listed", 3
    def answers(self, requests):
        return [(n, r.question_id) for n, r in enumerate(requests)][::-1]

class Silent: ...
class Loud:
    batch = 0
    def answer(self, image, question, passages): ...
class Odd:
    sees_images = "yes"
    def answer(self, image, question, passages): ...
class Facts:
    def facts(self): return {"x": {1, 2}}
    def answer(self, image, question, passages): ...
class Raises:
    def __init__(self): raise ValueError("not today")
    def answer(self, image, question, passages): ...

def answer(image, question, passages):
    return question

def two(image, question):
    return question

def made(beams: int = 1):
    return Set(beams)

NOTHING = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "readers.py"
    path.write_text(FILE, encoding="utf-8")
    return path


def said(spec: str, **settings: str) -> str:
    return next(read_all(open_reader(spec, settings), [REQUEST]))[1].text


def test_a_class_a_function_and_what_makes_one_are_readers(file: Path) -> None:
    bare = open_reader(f"{file}:Bare")
    assert (bare.name, bare.sees_images, bare.batch) == ("Bare", True, 1)
    answer = next(read_all(bare, [REQUEST]))[1]
    assert (answer.text, answer.score) == ("said", 0.5)
    assert said(f"{file}:Set", beams="4") == "4"
    assert said(f"{file}:made", beams="5") == "5"
    assert said(f"{file}:answer") == "What?"
    assert next(read_all(open_reader(f"{file}:Listed"), [REQUEST, REQUEST]))[0] == 1


def test_facts_have_settings_and_source_and_no_secret(file: Path) -> None:
    facts = [
        open_reader(f"{file}:Set", settings).facts()
        for settings in ({"beams": "3"}, {"beams": "3", "api_key": "s3cret", "max_tokens": "16"})
    ]
    assert facts[0]["settings"] == {"beams": 3}
    assert facts[1]["settings"] == {"beams": 3, "max_tokens": "16"}
    assert facts[0]["source"] == facts[1]["source"]
    file.write_text(FILE + "\n# edited\n", encoding="utf-8")
    assert open_reader(f"{file}:Set", {}).facts()["source"] != facts[0]["source"]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("Silent", InputError, "answer"),
        ("Loud", InputError, "batch"),
        ("Odd", InputError, "sees_images"),
        ("Facts", InputError, "JSON"),
        ("Raises", RetrieverError, "not today"),
        ("NOTHING", InputError, "NOTHING"),
        ("two", InputError, "takes no passages"),
        ("Absent", InputError, "Bare"),
    ],
)
def test_what_is_no_reader_is_refused(
    file: Path, name: str, error: type[M2KRError], words: str
) -> None:
    with pytest.raises(error, match=words):
        open_reader(f"{file}:{name}")


def test_specs_that_mean_nothing_are_refused_with_what_there_is(file: Path) -> None:
    for spec, error, words in (
        ("extractve", UsageError, "extractive"),
        ("hf:", UsageError, "MODEL"),
        (str(file), UsageError, "CLASS"),
        ("no_such_module_here:Reader", MissingError, "no_such_module_here"),
        (f"{file}x.py:Bare", MissingError, "no such file"),
        ("", UsageError, "one of"),
    ):
        with pytest.raises(error, match=words):
            open_reader(spec)
    with pytest.raises(UsageError, match="no settings"):
        open_reader(f"{file}:answer", {"beams": "1"})
    with pytest.raises(InputError, match="is a class"):
        adapted_reader(str)
    assert {"extractive", "blip2", "hf", "http"} <= set(reader_names())


@given(st.lists(st.integers(1, 1000), min_size=1))
def test_numbers_of_passages_ascend_each_once(numbers: list[int]) -> None:
    expected = tuple(sorted(set(numbers)))
    assert parsed_k(numbers) == parsed_k(", ".join(map(str, numbers))) == expected


@pytest.mark.parametrize(
    "k", ["", "0", "1,", "-1", "1.5", "x", (), (True,), "٣", "9" * 10, "9" * 5000, 1.5, None]
)
def test_other_numbers_of_passages_are_refused(k: Any) -> None:
    with pytest.raises(UsageError):
        parsed_k(k)
