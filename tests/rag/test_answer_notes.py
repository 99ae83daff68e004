"""What is said of answers beside their scores."""

from m2kr.rag.answer_notes import AnswerNotes, VerdictCosts
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


def test_what_verdicts_took_is_added_up_and_unknown_stays_unknown() -> None:
    costs = VerdictCosts()
    for dollars in (0.25, 0.5):
        costs.add("judge", {"input_tokens": 1000, "output_tokens": 2, "dollars": dollars})
        costs.add("exact_match", {"matched": "a"})
    assert costs.sentences() == ["judge: 2 verdicts took 2,000 tokens in, 4 out, $0.7500."]
    costs.add("judge", {"input_tokens": None, "output_tokens": 2, "dollars": None})
    [line] = costs.sentences()
    assert line.endswith("took an unknown number of tokens in, 6 out, unknown dollars.")
