"""Readers by retrievers on the same questions."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support.tiny_rag import made_rag_result

from m2kr.errors import CheckError, InputError, UsageError
from m2kr.rag.grid import compare_answers
from m2kr.rag.tables import AnswerTable


def shares(none, retrieved, oracle=1.0):
    """Scores of 10 questions: the first so many tenths are right."""

    def right(arm, k, i):
        share = {"none": none, "retrieved": retrieved, "oracle": oracle}[arm]
        return float(i % 10 < 10 * share)

    return right


@pytest.fixture
def four(tmp_path):
    return [
        made_rag_result(
            tmp_path, reader=reader, retriever=retriever, n=20, k=(1, 5), right=shares(none, best)
        )
        for reader, none, of in (
            ("parrot", 0.1, {"bm25": 0.3, "fusion": 0.5}),
            ("owl", 0.2, {"bm25": 0.4, "fusion": 0.9}),
        )
        for retriever, best in of.items()
    ]


def test_every_cell_is_a_system(four):
    grid = compare_answers(four)
    assert grid.readers == ("parrot", "owl")
    assert grid.columns == ("no retrieval", "bm25", "fusion", "oracle")
    compared = grid.comparison.by_source["tinyrag/test"]["exact_match@5"]
    assert compared.means == pytest.approx(
        {
            "parrot, no retrieval": 0.1,
            "parrot + bm25": 0.3,
            "parrot + fusion": 0.5,
            "parrot, oracle": 1.0,
            "owl, no retrieval": 0.2,
            "owl + bm25": 0.4,
            "owl + fusion": 0.9,
            "owl, oracle": 1.0,
        }
    )
    pair = next(p for p in compared.pairs if (p.a, p.b) == ("parrot + fusion", "owl + fusion"))
    assert (pair.wins, pair.ties, pair.losses) == (0, 12, 8)
    assert pair.p == pytest.approx(2 / 2**8)  # 8 questions differ, all one way
    assert ".900" in str(grid) and "owl" in grid.to_markdown()
    assert len(grid.to_csv().splitlines()) == 1 + 2 * 28  # 8 systems have 28 pairs, at two k
    assert json.loads(json.dumps(grid.as_dict()))["grid"][0] == {
        "reader": "parrot",
        "column": "no retrieval",
        "system": "parrot, no retrieval",
    }


def test_a_minus_stays_with_the_name_before_it(tmp_path):
    of_18 = made_rag_result(tmp_path, reader="extractive", n=20)  # "extractive, oracle"
    lines = str(compare_answers([of_18])).splitlines()
    assert any(line.startswith("oracle −") for line in lines)
    assert not any(line.strip() == "−" for line in lines)


def test_the_order_of_results_changes_no_number(four):
    def numbers(results):
        compared = compare_answers(results).comparison.by_source["tinyrag/test"]["exact_match@5"]
        return {frozenset((p.a, p.b)): (p.p, p.p_holm) for p in compared.pairs}, compared.letters

    assert numbers(four) == numbers(four[::-1])


def test_a_number_has_the_interval_that_its_results_table_has(four):
    compared = compare_answers(four).comparison.by_source["tinyrag/test"]["exact_match@5"]
    for result in four:
        cell = AnswerTable.of(result).cell("exact_match", "retrieved@5")
        assert compared.intervals[result.label] == (cell.low, cell.high)


def test_one_result_alone_has_its_arms(four):
    grid = compare_answers(four[:1])
    assert grid.columns == ("no retrieval", "bm25", "oracle")


def only(result, keep):
    table = pq.read_table(result.records_path)
    pq.write_table(table.filter(keep(table)), result.records_path)


def test_other_questions_are_refused_with_counts(four):
    only(four[1], lambda t: pc.not_equal(t.column("question_id"), "q3"))
    with pytest.raises(CheckError, match=r"19 .*|20 .*") as error:
        compare_answers(four[:2])
    assert "1 are not in both, such as 'q3'" in error.value.what
    assert "20 questions" in error.value.what and "19" in error.value.what


def test_an_oracle_of_fewer_questions_is_left_out_and_named(four):
    for result in four[:2]:
        only(
            result,
            lambda t: pc.invert(
                pc.and_(
                    pc.equal(t.column("arm"), "oracle"), pc.equal(t.column("question_id"), "q3")
                )
            ),
        )
    grid = compare_answers(four[:2])
    assert "oracle" not in grid.columns
    assert any("19 of 20" in note for note in grid.comparison.notes)


def test_an_oracle_of_other_questions_is_never_paired_with_them(tmp_path):
    result = made_rag_result(tmp_path, n=4, k=(1,))

    def keep(table):
        odd = pc.is_in(table.column("question_id"), value_set=pa.array(["q1", "q3"]))
        return pc.equal(pc.equal(table.column("arm"), "oracle"), odd)  # the others have q0 and q2

    only(result, keep)
    grid = compare_answers([result])
    assert grid.columns == ("no retrieval", "bm25")
    assert any("0 of 2 questions" in note for note in grid.comparison.notes)


def test_other_data_are_refused(four, tmp_path):
    other = made_rag_result(
        tmp_path / "other", reader="crow", n=20, fingerprints={"eval": "fp1:other"}
    )
    with pytest.raises(CheckError, match="eval fingerprints differ"):
        compare_answers([four[0], other])


def test_no_common_k_and_unknown_scorers_are_refused(four, tmp_path):
    deep = made_rag_result(tmp_path / "deep", reader="crow", n=20, k=(10,))
    with pytest.raises(UsageError, match="no number of passages") as failed:
        compare_answers([four[0], deep])
    assert "-1" not in str(failed.value)  # no retrieval and the oracle have no k
    with pytest.raises(UsageError, match="no result was scored by bleu"):
        compare_answers(four, metrics="bleu")
    assert list(
        compare_answers(four, metrics="exact_match@1").comparison.by_source["tinyrag/test"]
    ) == ["exact_match@1"]


def test_what_could_not_be_judged_is_never_compared(tmp_path):
    results = [
        made_rag_result(tmp_path, reader=reader, n=10, k=(1,), right=lambda a, k, i: None if i == 4 else 1.0)
        for reader in ("parrot", "owl")
    ]  # fmt: skip
    with pytest.raises(InputError, match="could not judge all"):
        compare_answers(results)


def test_readers_of_one_name_are_told_apart_by_what_differs(tmp_path):
    results = [
        made_rag_result(
            tmp_path / str(temperature),
            n=10,
            k=(1,),
            right=shares(0.1, temperature),
            reader="parrot",
        )
        for temperature in (0.5, 0.7)
    ]
    from dataclasses import replace

    results = [
        replace(result, reader={"name": "parrot", "facts": {"temperature": t}})
        for result, t in zip(results, (0.5, 0.7), strict=True)
    ]
    assert compare_answers(results).readers == (
        "parrot (temperature=0.5)",
        "parrot (temperature=0.7)",
    )
    same = [replace(result, reader=results[0].reader) for result in results]
    with pytest.raises(CheckError, match=r"differ in exact_match of 2 questions"):
        compare_answers(same)


def test_two_models_of_one_name_are_not_one_scorer(four):
    """Numbers of two BEMs have been published under one name."""

    def judged_by(result, model):
        return dataclasses.replace(
            result, scorers={"exact_match": {"name": "exact_match", "model": model}}
        )

    compare_answers([judged_by(result, "a") for result in four])
    mixed = [judged_by(result, "ab"[n % 2]) for n, result in enumerate(four)]
    with pytest.raises(InputError, match=r"not the same judge.*fusion: model=b"):
        compare_answers(mixed)
    with pytest.raises(InputError, match="not the same judge"):
        compare_answers(mixed, metrics="exact_match")
