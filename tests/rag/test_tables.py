"""Tables of answers, against numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.tiny_rag import made_rag_result

from m2kr.errors import InputError
from m2kr.evaluation.comparison_tables import WIDTH
from m2kr.rag.figure_intervals import figure_intervals
from m2kr.rag.grid import compare_answers
from m2kr.rag.records import ORACLE, RETRIEVED, RULE, SCORE, RagResult
from m2kr.rag.scorer import ONE_ANNOTATOR, GoldAnswer, Verdict
from m2kr.rag.tables import AnswerTable, shown_pairs

NONE_RIGHT = {0, 1, 2, 3, 4, 5, 6, 7}  # of 10 questions
ONE_RIGHT = {0, 1, 2, 3, 4, 5, 6, 7, 8}


def by_hand(arm, k, i):
    """8 of 10 without retrieval; with one passage 5 of these are lost and nothing is won; oracle 10."""
    if arm == RETRIEVED:
        return float(i in NONE_RIGHT and i >= 5)
    return 1.0 if arm == ORACLE else float(i in NONE_RIGHT)


def test_a_small_case_by_hand(tmp_path):
    table = AnswerTable.of(made_rag_result(tmp_path, n=10, k=(1,), right=by_hand))
    whole = table.parts[0]
    cells = whole.cells["exact_match"]
    assert [cells[arm].value for arm in whole.arms] == [0.8, 0.3, 1.0]
    assert whole.arms == ("no retrieval", "retrieved@1", "oracle")
    pairs = {(p.a, p.b): p for p in shown_pairs(whole, "exact_match")}
    lost = pairs["retrieved@1", "no retrieval"]
    # 5 questions differ, all one way: 2 of 2^5 assignments of signs are as far from 0.
    assert lost.p == pytest.approx(2 / 32)
    assert lost.difference == pytest.approx(-0.5)
    assert (lost.wins, lost.ties, lost.losses) == (0, 5, 5)
    gap = pairs["retrieved@1", "oracle"]
    assert gap.p == pytest.approx(2 / 2**7)  # 7 differ
    best = pairs["oracle", "no retrieval"]
    assert best.p == pytest.approx(2 / 2**2)
    # Holm: the smallest of three p values times 3, the next times 2, never below the one before.
    assert gap.p_holm == pytest.approx(3 * 2 / 128)
    assert lost.p_holm == pytest.approx(2 * 2 / 32)
    assert best.p_holm == pytest.approx(0.5)
    assert set(pairs) == {
        ("retrieved@1", "no retrieval"),
        ("oracle", "no retrieval"),
        ("retrieved@1", "oracle"),
    }
    # The oracle and what was retrieved differ (.047); no retrieval can't be told from either.
    letters = {arm: set(cells[arm].letters) for arm in whole.arms}
    assert not letters["oracle"] & letters["retrieved@1"]
    assert letters["no retrieval"] & letters["oracle"]
    assert letters["no retrieval"] & letters["retrieved@1"]
    assert (cells["oracle"].low, cells["oracle"].high) == (1.0, 1.0)
    # Ends of the interval of 8 of 10: quantiles of a binomial share, to what 1,000 resamples give.
    assert cells["no retrieval"].low == pytest.approx(0.5, abs=0.11)
    assert cells["no retrieval"].high == pytest.approx(1.0, abs=0.01)


def test_what_is_not_judged_is_no_zero(tmp_path):
    def right(arm, k, i):
        if arm == RETRIEVED and i in (0, 1, 2):
            return None
        return float(i % 2)

    table = AnswerTable.of(made_rag_result(tmp_path, n=10, k=(1,), right=right))
    cell = table.parts[0].cells["exact_match"]["retrieved@1"]
    assert (cell.value, cell.low, cell.high) == (None, None, None)
    assert (cell.judged, cell.not_judged) == (7, 3)
    assert (cell.least, cell.most) == (0.4, 0.7)  # 3, 5, 7, 9 are right; 0, 1, 2 unknown
    assert "retrieved@1" not in {p.a for p in table.parts[0].pairs["exact_match"]}
    told = str(table)
    assert ".400 to .700" in told and "3 not judged" in told
    by_task = table.breakdown["task"]
    assert by_task["IQ2T"]["scores"]["exact_match"]["retrieved@1"] is None
    mean = table.parts[-1]
    assert mean.is_mean and mean.cells["exact_match"]["retrieved@1"].value is None
    assert table.as_dict()["parts"][0]["cells"]["exact_match"]["retrieved@1"]["value"] is None


def test_the_mean_over_tasks_gives_tasks_the_same_weight(tmp_path):
    def right(arm, k, i):
        return float(i < 3)  # questions 0 and 2 of Q2T, 1 of IQ2T

    table = AnswerTable.of(made_rag_result(tmp_path, n=6, k=(1,), right=right))
    mean = table.parts[-1]
    assert mean.title == "Mean of 2 tasks"
    assert mean.cells["exact_match"]["oracle"].value == pytest.approx((2 / 3 + 1 / 3) / 2)


def without_oracles(result: RagResult, questions: set[str]) -> RagResult:
    path = result.records_path
    table = pq.read_table(path)
    kept = [
        not (arm == ORACLE and question in questions)
        for arm, question in zip(
            table.column("arm").to_pylist(), table.column("question_id").to_pylist(), strict=True
        )
    ]
    pq.write_table(table.filter(kept), path)
    return result


def test_arms_of_fewer_questions_are_shown_on_the_same_ones(tmp_path):
    result = without_oracles(
        made_rag_result(tmp_path, n=10, k=(1,), right=by_hand), {"q8", "q9", "q0"}
    )
    whole, fewer, *_ = AnswerTable.of(result).parts
    assert whole.arms == ("no retrieval", "retrieved@1") and whole.questions == 10
    assert whole.cells["exact_match"]["no retrieval"].value == 0.8
    assert fewer.arms == ("no retrieval", "retrieved@1", "oracle") and fewer.questions == 7
    assert fewer.cells["exact_match"]["no retrieval"].value == 1.0
    assert fewer.cells["exact_match"]["oracle"].value == 1.0


def test_arms_of_other_questions_stand_alone(tmp_path):
    result = made_rag_result(tmp_path, n=10, k=(1,), right=by_hand)
    path = result.records_path
    table = pq.read_table(path)
    kept = [
        (int(one[1:]) % 3) == ("none", "retrieved", "oracle").index(arm)
        for arm, one in zip(
            table.column("arm").to_pylist(), table.column("question_id").to_pylist(), strict=True
        )
    ]
    pq.write_table(table.filter(kept), path)
    table = AnswerTable.of(result)
    assert [part.arms for part in table.parts] == [("no retrieval",), ("retrieved@1",), ("oracle",)]
    assert table.cell("exact_match", "no retrieval").value == 0.75  # of 0, 3, 6 and 9
    assert not any(pairs for part in table.parts for pairs in part.pairs.values())
    assert "alone: 4 questions" in str(table)


def test_records_in_another_order_give_the_same_table(tmp_path):
    result = made_rag_result(tmp_path, n=40)
    before = AnswerTable.of(result).as_dict()
    table = pq.read_table(result.records_path)
    order = np.random.default_rng(0).permutation(len(table))
    pq.write_table(table.take(order), result.records_path)
    assert AnswerTable.of(result).as_dict() == before


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("score:exact_match", 1.5, "a score of 1.5"),
        ("score:exact_match", math.inf, "a score of inf"),
        ("arm", "guess", "'guess'"),
        ("question_id", "q1", "two answers"),
    ],
)
def test_damaged_records_are_named(tmp_path, column, value, said):
    result = made_rag_result(tmp_path, n=4)
    table = pq.read_table(result.records_path)
    values = table.column(column).to_pylist()
    values[0] = value
    place = table.schema.get_field_index(column)
    pq.write_table(
        table.set_column(place, table.schema.field(place), [values]), result.records_path
    )
    with pytest.raises(InputError, match=said):
        AnswerTable.of(result)


def test_it_fits_eighty_columns_whatever_names_are(tmp_path):
    odd = "\x1b[31m|`*漢字 </td>" * 3
    result = made_rag_result(
        tmp_path,
        reader=odd,
        retriever=odd,
        n=8,
        k=(1, 3, 5, 10),
        scorers=("exact_match", odd, "a", "b", "c"),
    )
    table = AnswerTable.of(result)
    text = str(table)
    from rich.cells import cell_len

    assert max(map(cell_len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text
    rows = [line for line in table.to_markdown().splitlines() if line.startswith("| ")]
    assert rows and "<" not in table.to_markdown().replace("\\<", "")


def test_infoseeks_harmonic_mean_has_an_interval(tmp_path):
    result = made_rag_result(
        tmp_path, n=40, k=(1,), scorers=("infoseek",), right=lambda a, k, i: float(i % 4 < 2)
    )
    table = pq.read_table(result.records_path)
    place = table.schema.get_field_index("group")
    parts = [
        "val_unseen_question" if int(one[1:]) < 20 else "val_unseen_entity"
        for one in table.column("question_id").to_pylist()
    ]
    pq.write_table(table.set_column(place, "group", [parts]), result.records_path)
    figures = {"unseen_question": 0.5, "unseen_entity": 0.5, "harmonic_mean": 0.5}
    totals = {"infoseek": [{**row, "figures": figures} for row in result.totals["infoseek"]]}
    told = AnswerTable.of(replace(result, totals=totals))
    one = told.figures["infoseek"]["harmonic_mean"]["oracle"]
    assert one["value"] == 0.5
    # 10 of 20 in each part: the standard error of such a harmonic mean is about .08.
    assert 0.25 < one["low"] < 0.42 and 0.58 < one["high"] < 0.7
    assert "harmonic mean" in str(told)


class Harmonic:
    name = "harmonic"

    def totals(self, verdicts, golds):
        means = {}
        for part in ("a", "b"):
            of_part = [v.score for v, g in zip(verdicts, golds, strict=True) if g.group == part]
            if of_part:
                means[part] = sum(of_part) / len(of_part)
        if len(means) == 2 and all(means.values()):
            means["harmonic"] = 2 * means["a"] * means["b"] / (means["a"] + means["b"])
        return means


def test_intervals_of_a_harmonic_mean():
    golds = [GoldAnswer(str(i), "", (), group="a" if i < 50 else "b") for i in range(100)]
    sure = [Verdict(1.0, "") for _ in range(100)]
    spans = figure_intervals(Harmonic(), sure, golds)
    assert spans["harmonic"] == (1.0, 1.0, 1.0)
    mixed = [Verdict(float(i % 2), "") for i in range(100)]
    value, low, high = figure_intervals(Harmonic(), mixed, golds)["harmonic"]
    assert value == 0.5
    # Half of 50 in each part: the standard error of such a harmonic mean is .05.
    assert low == pytest.approx(0.4, abs=0.03) and high == pytest.approx(0.6, abs=0.03)


def test_questions_that_a_scorer_cannot_use_count_nowhere(tmp_path):
    """One annotator leaves none to agree with: no verdict, whatever is answered, and no bounds."""
    result = made_rag_result(tmp_path, n=40, k=(1,), right=lambda a, k, i: float(a != "none"))
    table = pq.read_table(result.records_path)
    unusable = [int(one[1:]) % 4 == 0 for one in table.column("question_id").to_pylist()]
    for name, without in (
        (SCORE + "exact_match", None),
        (RULE + "exact_match", ONE_ANNOTATOR),
    ):
        values = [
            without if gone else value
            for gone, value in zip(unusable, table.column(name).to_pylist(), strict=True)
        ]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), [values])
    pq.write_table(table, result.records_path)
    told = AnswerTable.of(result)
    cells = told.parts[0].cells["exact_match"]
    assert {arm: (c.value, c.judged, c.not_judged) for arm, c in cells.items()} == {
        "no retrieval": (0, 30, 0),
        "retrieved@1": (1, 30, 0),
        "oracle": (1, 30, 0),
    }
    assert [(p.wins, p.ties) for p in told.parts[0].pairs["exact_match"]].count((30, 0)) == 2
    assert any(note.startswith("10 questions have no accepted answer that") for note in told.notes)
    (by_metric,) = compare_answers([result]).comparison.by_source.values()
    compared = by_metric["exact_match@1"]
    assert (compared.queries, min(compared.means.values())) == (30, 0)
