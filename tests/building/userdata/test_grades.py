"""Grades from the file to the table, the fingerprint and the score."""

from math import log2

import pytest
from support.own_data import NOTE_QUERIES, NOTES, beir_folder, judged, read_back
from support.scores import score

import m2kr
from m2kr.building.userdata.importer import import_files
from m2kr.errors import InputError, UsageError
from m2kr.fingerprint import query_parts
from m2kr.retrieval.run import Run


def test_grades_are_kept(tmp_path, note_files):
    (tmp_path / "qrels.txt").write_text(
        "q0 0 d1 1\nq0 0 d2 3\nq0 0 d3 0\nq1 0 d4 0.2\nq2 0 d5 -1\n"
    )
    split = read_back(import_files("g", *note_files, tmp_path / "qrels.txt", data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 3}, "q1": {"d4": 0.2}}
    assert split.query("q0")["pos_item_grades"] == [1.0, 3.0]
    assert split.relevance_threshold == 1
    assert split.manifest["splits"]["test"]["judged"] == 1
    assert query_parts(split.queries.data.table)[1] == split.fingerprints["judgements"]


def test_grades_that_are_all_1_need_no_column(tmp_path, note_files):
    (tmp_path / "qrels.txt").write_text("q0 0 d1 1\nq0 0 d2 1.0\nq0 0 d3 0\n")
    split = read_back(import_files("g", *note_files, tmp_path / "qrels.txt", data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 1}}
    assert "pos_item_grades" not in split.queries.column_names
    assert "relevance_threshold" not in split.manifest


def test_a_threshold_is_held_by_the_manifest_and_the_fingerprint(tmp_path, note_files):
    (tmp_path / "qrels.txt").write_text("q0 0 d1 1\nq0 0 d2 3\nq1 0 d3 1\n")
    args = (*note_files, tmp_path / "qrels.txt")
    plain = read_back(import_files("a", *args, data=tmp_path))
    two = read_back(import_files("b", *args, data=tmp_path, relevance_threshold=2))
    assert two.relevance_threshold == two.manifest["relevance_threshold"] == 2
    assert two.manifest["splits"]["test"]["judged"] == 1
    assert judged(two) == judged(plain)
    for part, same in (("queries", True), ("pool", True), ("judgements", False), ("eval", False)):
        assert (plain.fingerprints[part] == two.fingerprints[part]) is same
    with pytest.raises(InputError, match="highest grade is 3"):
        import_files("c", *args, data=tmp_path, relevance_threshold=4)
    for wrong in (0, -1, float("nan"), float("inf"), "2", None):
        with pytest.raises(UsageError, match="relevance-threshold"):
            import_files("c", *args, data=tmp_path, relevance_threshold=wrong)


def test_the_oracle_ranks_by_grade(tmp_path):
    judged = {"q0": {"d1": 1, "d2": 3, "d3": 2}, "q1": ["d4", "d0"]}
    split = m2kr.from_records(NOTES, NOTE_QUERIES, qrels=judged, data=tmp_path)
    run = m2kr.evaluate(split, "oracle")[0].run
    assert run is not None
    assert run.passage_ids("q0") == ["d2", "d3", "d1"]
    assert run.passage_ids("q1") == ["d4", "d0"]


def test_a_lost_positive_counts_as_never_found(tmp_path):
    split = m2kr.from_records(
        NOTES,
        NOTE_QUERIES,
        qrels={"q0": ["d0"], "q1": {"d99": 2}},
        drop_missing=True,
        data=tmp_path,
    )
    assert judged(split) == {"q0": {"d0": 1}, "q1": {"d99": 2}}
    assert split.query("q1")["pos_item_ids"] == []
    plain = m2kr.from_records(NOTES, NOTE_QUERIES, data=tmp_path)
    assert split.queries_view.content == plain.queries_view.content  # what retrievers may read
    result = m2kr.evaluate(split, "bm25")[0]
    assert result.metrics["hit_rate@1"]["value"] == 0.5
    assert result.metrics["hit_rate@1"]["n"] == 2


GRADED = {"q0": {"d0": 1, "d1": 3, "d2": 2, "d3": 0}, "q1": {"d4": 2, "d5": 1}}


RANKED = {"q0": ["d0", "d2", "d3", "d1", "d4"], "q1": ["d5", "d0", "d4", "d1", "d2"]}


# trec_eval's, by hand: gains 1 2 0 3 over log2(rank + 1) by 3 2 1, and 1 0 2 by 2 1.
NDCG = (
    (1 + 2 / log2(3) + 3 / log2(5)) / (3 + 2 / log2(3) + 1 / 2),
    (1 + 2 / 2) / (2 + 1 / log2(3)),
)


def scores(split: m2kr.Split, *metrics: str) -> list[float]:
    ranked = {q: ids for q, ids in RANKED.items() if q in split.queries["question_id"]}
    lists = [[*map(float, range(len(ids), 0, -1))] for ids in ranked.values()]
    run = Run.from_lists([*ranked], [*ranked.values()], lists)
    result = score(split, run, metrics)
    return [result.metrics[name]["value"] for name in metrics]


def test_grades_reach_the_metrics(tmp_path):
    rows = "".join(f"{q}\t{d}\t{g}\n" for q, of in GRADED.items() for d, g in of.items())
    folder = beir_folder(tmp_path / "b", {"test.tsv": "query-id\tcorpus-id\tscore\n" + rows})
    args = {"layout": "beir", "folder": folder, "data": tmp_path}
    names = ("ndcg@10", "hit_rate@1", "mrr@5")
    plain = scores(read_back(import_files("a", **args)), *names)
    assert plain == pytest.approx([sum(NDCG) / 2, 1, 1])
    assert plain[0] == pytest.approx(0.7533, abs=5e-5)
    two = scores(read_back(import_files("b", **args, relevance_threshold=2)), *names)
    assert two == pytest.approx([sum(NDCG) / 2, 0, (1 / 2 + 1 / 3) / 2])
    (folder / "qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td0\t0.2\nq0\td3\t1\nq1\td4\t1.5\n"
    )
    fractions = scores(read_back(import_files("c", **args)), "hit_rate@1", "hit_rate@3")
    assert fractions == [0, 1]
