"""Which passages and targets a visit has: a function of the seed and the visit's number."""

import dataclasses
import itertools
from pathlib import Path

import pytest

import m2kr
from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.rag.training.questions import open_questions
from m2kr.retrieval.run import Run
from tests.rag.training.conftest import Reading
from tests.support.tiny_reader_training import SOURCE


def test_each_epoch_meets_each_question_once_and_the_draw_is_known_by_the_number(
    reading: Reading,
) -> None:
    questions, held = open_questions(reading.recipe(), reading.data)
    again, _ = open_questions(reading.recipe(), reading.data)
    assert held is None
    visits = [questions.visit(number) for number in range(48)]
    assert [again.visit(number) for number in reversed(range(48))] == visits[::-1]
    for epoch in (visits[:24], visits[24:]):
        assert sorted(visit.row for visit in epoch) == list(range(24))
    assert [v.row for v in visits[:24]] != [v.row for v in visits[24:]]
    drawn = set()
    for visit in visits:
        top = questions.top(visit.row)
        assert len(top) == 5
        places = [top.index(passage) for passage in visit.passages]
        assert len(places) == 3
        assert places == sorted(places)  # in the run's order
        drawn.add(tuple(places))
        for passage, target in zip(visit.passages, visit.targets, strict=True):
            right = questions.split.query(visit.question_id)
            gold, other = right["answers"][0], right["answers"][2]
            words = passage.text.strip(".").split()
            assert target == (other if other in words else gold)
    assert drawn <= set(itertools.combinations(range(5), 3))
    assert len(drawn) >= 8
    other, _ = open_questions(reading.recipe(steps={"seed": 1}), reading.data)
    assert [other.visit(number) for number in range(24)] != visits[:24]


def test_questions_that_are_validated_on_are_not_trained_on(reading: Reading) -> None:
    recipe = reading.recipe(validation={"every": 2, "questions": 5})
    questions, held = open_questions(recipe, reading.data)
    assert held is not None
    assert len(held.rows) == 5
    assert sorted([*questions.rows, *held.rows]) == list(range(24))
    same, held_too = open_questions(
        reading.recipe(validation={"every": 2, "questions": 5}, steps={"seed": 3}), reading.data
    )
    assert held_too is not None
    assert held.fingerprint == held_too.fingerprint
    assert questions.fingerprint == same.fingerprint
    taken, _ = open_questions(reading.recipe(data={"take": 7}), reading.data)
    assert len(taken.rows) == 7
    with pytest.raises(UsageError, match=r"validation.questions holds 24 questions out"):
        open_questions(reading.recipe(validation={"every": 2, "questions": 24}), reading.data)


def test_one_target_for_the_marginal_and_one_input_without_passages(reading: Reading) -> None:
    questions, _ = open_questions(
        reading.recipe(loss={"kind": "marginal"}, data={"sampled": 5}), reading.data
    )
    for number in range(24):
        assert len(set(questions.visit(number).targets)) == 1
    alone, _ = open_questions(reading.recipe(data={"run": None}), reading.data)
    visit = alone.visit(0)
    assert visit.passages == ()
    assert len(visit.targets) == 1


def test_questions_without_answers_or_passages_are_left_out_and_counted(tmp_path: Path) -> None:
    from tests.support.tiny_reader_training import tiny_reader_recipe

    answers = [["red"], [], [" "], ["blue", "blue"], ["red"]]
    m2kr.from_records(
        {"p0": "a red hat", "p1": "a blue cup"},
        [
            {"id": f"q{n}", "question": "what", "positives": ["p0"], "answers": own}
            for n, own in enumerate(answers)
        ],
        name=SOURCE,
        split="train",
        data=tmp_path / "data",
    )
    ranked = {"q0": {"p0": 1.0, "p1": 0.5}, "q1": {"p0": 1.0}, "q3": {"p1": 2.0}, "q4": {}}
    run = Run.from_dict(ranked, name="x").save(tmp_path / "run.parquet")
    recipe = tiny_reader_recipe(tmp_path / "model", run)
    questions, _ = open_questions(recipe, tmp_path / "data")
    assert questions.rows.tolist() == [0, 3]
    assert (questions.without_answer, questions.without_passages) == (2, 1)
    lengths = {visit.question_id: len(visit.passages) for visit in map(questions.visit, range(2))}
    assert lengths == {"q0": 2, "q3": 1}  # fewer than are sampled
    strange = Run.from_dict({"q0": {"p9": 1.0}}, name="x").save(tmp_path / "strange.parquet")
    wrong = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, run=str(strange)))
    with pytest.raises(InputError, match="passage 'p9' of question 'q0'"):
        open_questions(wrong, tmp_path / "data")[0].visit(0)
    other = Run.from_dict({"z": {"p0": 1.0}}, name="x").save(tmp_path / "other.parquet")
    wrong = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, run=str(other)))
    with pytest.raises(M2KRError, match=r"(?s)no question is left.*m2kr eval tiny-reading"):
        open_questions(wrong, tmp_path / "data")
    gone = dataclasses.replace(recipe.data, run=str(tmp_path / "RUN.parquet"))
    with pytest.raises(MissingError, match=r"(?s)data.run: .*--split train"):
        open_questions(dataclasses.replace(recipe, data=gone), tmp_path / "data")
