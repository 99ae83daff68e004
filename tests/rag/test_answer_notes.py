"""What is said of answers beside their scores."""

from m2kr.rag.answer_notes import AnswerNotes
from m2kr.rag.reader import Answer


def test_nothing_is_said_of_answers_like_all_others() -> None:
    notes = AnswerNotes()
    for key in range(3):
        notes.add(key, Answer("a", detail={"model": "m"}))
    assert notes.sentences() == []


def test_each_answer_counts_once_in_what_is_said() -> None:
    notes = AnswerNotes()
    for _ in range(2):
        notes.add(1, Answer("a", detail={"model": "m2"}))
        notes.add(2, Answer("", detail={"model": "m1", "missing": "refused"}))
        notes.add(3, Answer("", detail={"missing": "cut", "finish_reason": "length"}))
        notes.add(4, Answer("long", detail={"model": "m1", "finish_reason": "length"}))
        notes.add(5, Answer("a", input_tokens=None, output_tokens=None, dollars=None))
    models, *others = notes.sentences()
    assert "2 models" in models
    assert "m1 (2), m2 (1)" in models
    assert [line.partition(" answers")[0] for line in others] == ["1 of 5"] * 4
