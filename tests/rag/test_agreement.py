"""Cohen's kappa against cases worked by hand, and the properties that it has on any verdicts."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_rag import made_rag_result

from m2kr.errors import InputError
from m2kr.rag.agreement import agreement_table, cohen_kappa
from m2kr.rag.tables import AnswerTable


def verdicts(
    both: int, first_only: int, second_only: int, neither: int
) -> tuple[list[int], list[int]]:
    first = [1] * (both + first_only) + [0] * (second_only + neither)
    second = [1] * both + [0] * first_only + [1] * second_only + [0] * neither
    return first, second


@pytest.mark.parametrize(
    ("cells", "kappa"),
    [
        ((20, 5, 10, 15), 0.4),  # 0.7 observed, 0.5 expected
        ((45, 15, 25, 15), 0.06 / 0.46),  # 0.6 observed, 0.54 expected
        ((25, 35, 5, 35), 0.14 / 0.54),  # the same shares observed, 0.46 expected
        ((1, 0, 0, 1), 1.0),
        ((0, 1, 1, 0), -1.0),
        ((1, 1, 1, 1), 0.0),
        ((9, 1, 0, 0), 0.0),  # the first calls all right: no agreement beyond chance can be seen
        ((80, 10, 10, 0), -0.02 / 0.18),  # 0.8 observed and worse than chance
    ],
)
def test_cases_worked_by_hand(cells: tuple[int, int, int, int], kappa: float) -> None:
    pair = cohen_kappa(*verdicts(*cells))
    assert pair.kappa == pytest.approx(kappa, abs=1e-12)
    assert (pair.both, pair.first_only, pair.second_only, pair.neither) == cells
    assert pair.low is not None
    assert pair.high is not None
    assert -1 <= pair.low <= kappa + 1e-9
    assert kappa - 1e-9 <= pair.high <= 1 + 1e-9


@pytest.mark.parametrize("cells", [(7, 0, 0, 0), (0, 0, 0, 7)])
def test_all_verdicts_alike_leave_kappa_undefined(cells: tuple[int, int, int, int]) -> None:
    pair = cohen_kappa(*verdicts(*cells))
    assert (pair.observed, pair.expected) == (1.0, 1.0)
    assert (pair.kappa, pair.low, pair.high) == (None, None, None)


def test_what_one_did_not_judge_is_left_out_and_counted() -> None:
    pair = cohen_kappa([1, None, 0, 1, None], [1, 1, None, 0, None])
    assert (pair.judged, pair.not_judged, pair.observed) == (2, 3, 0.5)
    none = cohen_kappa([None], [1])
    assert (none.judged, none.observed, none.kappa) == (0, None, None)


def test_a_score_from_a_half_on_is_right() -> None:
    pair = cohen_kappa([1, 1, 1, 0], [0.5, 0.6, 0.3, 0.49])
    assert (pair.both, pair.first_only, pair.second_only, pair.neither) == (2, 1, 0, 1)


@pytest.mark.parametrize("wrong", [([1], [1, 0]), ([2], [1]), ([1], [-0.1]), ([float("nan")], [1])])
def test_what_is_no_verdict_is_refused(wrong: tuple[list[float], list[float]]) -> None:
    with pytest.raises(InputError):
        cohen_kappa(*wrong)


def test_the_interval_narrows_with_answers_and_has_a_width_where_all_agree() -> None:
    few, many = (cohen_kappa(*verdicts(n, 0, 0, n)) for n in (5, 500))
    assert few.kappa == many.kappa == few.high == many.high == 1
    assert few.low is not None
    assert many.low is not None
    assert few.low < 0.8 < 0.98 < many.low


def test_the_interval_holds_the_true_kappa_as_often_as_it_says() -> None:
    draw, hits = random.Random(0), 0
    true = (0.45, 0.1, 0.15, 0.3)  # observed 0.75, expected 0.51
    for _ in range(100):
        cells = [0, 0, 0, 0]
        for cell in draw.choices(range(4), true, k=60):
            cells[cell] += 1
        pair = cohen_kappa(*verdicts(*cells))
        assert pair.low is not None
        assert pair.high is not None
        hits += pair.low <= 0.24 / 0.49 <= pair.high
    assert 88 <= hits <= 100


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_order_and_sides_do_not_matter(pairs: list[tuple[bool, bool]], draw: random.Random) -> None:
    def of(rows: list[tuple[bool, bool]], side: int = 0) -> float | None:
        return cohen_kappa([row[side] for row in rows], [row[1 - side] for row in rows]).kappa

    mixed = draw.sample(pairs, len(pairs))
    assert of(pairs) == of(mixed)
    swapped = of(pairs, side=1)
    assert swapped == pytest.approx(of(pairs)) if swapped is not None else of(pairs) is None
    flipped = cohen_kappa([not a for a, _ in pairs], [not b for _, b in pairs]).kappa
    assert flipped == pytest.approx(of(pairs)) if flipped is not None else of(pairs) is None


def test_the_table_counts_an_answer_to_a_question_once() -> None:
    records = {
        "question_id": ["q1", "q1", "q1", "q2", "q3"],
        "answer": ["a", "a", "b", "a", "c"],
        "score:judge": [1.0, 1.0, 0.0, 1.0, None],
        "score:exact_match": [1.0, 1.0, 0.0, 0.0, 1.0],
        "score:okvqa": [0.6, 0.6, 0.3, 1.0, 1.0],
    }
    first, second = agreement_table(records, "judge", ["exact_match", "okvqa"])
    assert (first["scorer"], first["judged"], first["not_judged"]) == ("exact_match", 3, 1)
    assert (first["both"], first["first_only"], first["neither"]) == (1, 1, 1)
    assert first["kappa"] == pytest.approx(0.4)
    assert second["kappa"] == 1
    with pytest.raises(InputError, match="score:bem"):
        agreement_table(records, "judge", ["bem"])


def test_a_judges_agreement_stands_beside_the_scores(tmp_path: Path) -> None:
    judged = made_rag_result(tmp_path, scorers=("judge", "exact_match", "okvqa"))
    lines = [note for note in AnswerTable.of(judged).notes if " agree on " in note]
    assert [line.partition(" agree")[0] for line in lines] == [
        "judge and exact_match",
        "judge and okvqa",
    ]
    assert "kappa 1.000 [" in lines[0]
    assert "judge and exact_match agree on 100.0%" in str(AnswerTable.of(judged)).replace("\n", " ")
    plain = AnswerTable.of(made_rag_result(tmp_path, scorers=("exact_match", "okvqa")))
    assert not any(" agree on " in note for note in plain.notes)
