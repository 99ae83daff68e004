"""The reader by rules: what it takes out of passages, and that it never breaks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.rag.reader import RetrievedPassage
from m2kr.rag.readers.extractive import ExtractiveReader

HALL = (
    "title: Town hall of Lindau section title: history content: The Town hall of Lindau is a narrow house "
    "of yellow brick in Lindau, Bavaria, Germany. It was built between 1422 and 1436 by the mason Ulrich "
    "Kern. Its tower is 31 metres high and holds four bells. Fish was sold under its arches, because the "
    "market square was often flooded. Area: 1,250 sq m. Chief use: museum, library (since 1998). The "
    "clock is called the Old Lady."
)
QUESTIONS = {
    "what is the name of this building?": "Town hall of Lindau",
    "Which country is this building in?": "Germany",
    "How high is the tower?": "31 metres",
    "How many bells does the tower have?": "four",
    "What is the area of this building?": "1,250 sq m",
    "Who was the mason of the Town hall of Lindau?": "Ulrich Kern",
    "Why was fish sold under the arches?": "the market square was often flooded",
    "What colour is the brick?": "yellow",
    "What is the chief use of this building?": "museum",
    "What is the clock called?": "Old Lady",
    "Is the tower of the Town hall 31 metres high?": "yes",
    "Is the house of brick or wood?": "brick",
}


def passages(*texts: str) -> list[RetrievedPassage]:
    return [RetrievedPassage(f"p{n}", text, 9.0 - n) for n, text in enumerate(texts)]


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_by_the_questions_type(question: str) -> None:
    said = ExtractiveReader().answer(None, question, passages(HALL))
    assert said.text == QUESTIONS[question]
    assert said.passage_id == "p0"


@pytest.mark.parametrize(
    ("question", "text", "right"),
    [
        (
            "When did the war end?",
            "The war began on 3 May 1812 and ended in March 1815.",
            "March 1815",
        ),
        ("In which year was she born?", "She was born on 7 June 1901 in Turin.", "1901"),
        (
            "In which century was it built?",
            "It was built in the late 12th century.",
            "12th century",
        ),
        (
            "How heavy is the stone?",
            "The stone is 3.5 tonnes heavy and 2 metres long.",
            "3.5 tonnes",
        ),
        (
            "Who discovered the element?",
            "The element was discovered by Marie Curie.",
            "Marie Curie",
        ),
        ("Qui a peint ce tableau ?", "Le tableau a été peint par Élodie Ångström.", None),
        ("这座塔有多高？", "这座塔高三十一米。它很老。", None),
    ],
)
def test_reads_plain_texts_of_any_language(question: str, text: str, right: str | None) -> None:
    said = ExtractiveReader().answer(None, question, passages(text))
    assert said.text in text
    assert right is None or said.text == right


def test_takes_the_passage_that_has_the_question_and_says_which() -> None:
    other = "title: Lake content: The lake is 63 kilometres long and 250 metres deep."
    said = ExtractiveReader().answer(None, "How deep is the lake?", passages(HALL, other))
    assert (said.text, said.passage_id) == ("250 metres", "p1")


def test_says_nothing_without_passages() -> None:
    said = ExtractiveReader().answer(None, "Who built it?", [])
    assert (said.text, said.score, said.passage_id) == ("", 0.0, None)
    assert said.detail == {"why": "no passages"}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.lists(st.text(max_size=200), max_size=3))
def test_any_text_is_read_and_twice_the_same(question: str, texts: list[str]) -> None:
    first = ExtractiveReader().answer(None, question, passages(*texts))
    assert first == ExtractiveReader().answer(None, question, passages(*texts))


def test_long_texts_of_few_marks_take_no_time() -> None:
    for text in ("A" * 20_000, "a " * 10_000, "1," * 5_000, '"' * 5_000, "Of The " * 3_000):
        ExtractiveReader().answer(
            None, "How many is the name of this A?" + "what " * 300, passages(text)
        )
