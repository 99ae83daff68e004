"""Runs scored by hand: grades, ties, missing queries, depth, and what a run recorded."""

import logging

import pytest
from support.scores import score
from support.toys import toy_split

from m2kr.errors import CheckError, UsageError
from m2kr.report.tables import as_text
from m2kr.retrieval.run import Run


@pytest.mark.parametrize(
    "said",
    [
        {"settings": 5},
        {"modalities": "text", "arguments": [1]},
        {"fingerprints": []},
        {"images": {"found": 1}},
        {"images": {"found": "1", "total": 2, "policy": "black"}},
        {"search": {"mode": 5}},
        {"search": {"mode": "compressed", "audit": {"recall@1": "all"}}},
        {"search": {"mode": "official", "seeds": 3}},
    ],
)
def test_metadata_of_another_form_are_no_record(tmp_path, said):
    path = _saved(tmp_path, k=3, **said)
    result = score(toy_split(), Run.load(path))
    assert (result.k, result.images, result.search) == (3, None, None)
    assert result.retriever["settings"] == {}
    assert "mine" in as_text([result])


def test_a_perfect_run_of_ranks_is_perfect(tmp_path):
    passages = {f"d{i:02}": f"note {i}" for i in range(20)}
    queries = {f"q{i}": ("?", [f"d{i:02}"], [], None, None) for i in range(4)}
    split = toy_split(passages=passages, queries=queries)
    text = ""
    for i, query in enumerate(queries):
        others = [p for p in passages if p != f"d{i:02}"]
        rows = enumerate([f"d{i:02}", *others], 1)
        text += "".join(f"{query}\t{p}\t{rank}\n" for rank, p in rows)
    (tmp_path / "ranks.txt").write_text(text)
    assert score(split, Run.load(tmp_path / "ranks.txt")).value("hit_rate@1") == 1.0


def test_graded_run_by_hand():
    """NDCG of trec_eval's definition, worked out by hand for two queries of grades up to 3."""
    passages = dict.fromkeys([f"d{i}" for i in range(14)], "note")
    queries = {
        "q1": ("?", ["d1", "d2", "d3"], [], None, None),
        "q2": ("?", ["d5", "d6"], [], None, None),
    }
    split = toy_split(
        passages=passages, queries=queries, grades={"q1": [1.0, 3.0, 2.0], "q2": [2.0, 1.0]}
    )
    order = {"q1": "d1 d3 d4 d2 d5 d6 d7 d8 d9 d10", "q2": "d6 d1 d5 d2 d3 d4 d7 d8 d9 d10"}
    run = Run.from_dict(
        {q: {p: -float(i) for i, p in enumerate(ids.split())} for q, ids in order.items()}
    )
    assert round(score(split, run, "ndcg@10").value("ndcg@10"), 4) == 0.7533
    split.manifest["relevance_threshold"] = 2
    binary = score(split, run, "hit_rate@1,mrr@10,set_recall@2,precision@2,map@10,ndcg@10")
    assert {n: round(m["value"], 4) for n, m in binary.metrics.items()} == {
        "hit_rate@1": 0.0,
        "mrr@10": round((1 / 2 + 1 / 3) / 2, 4),
        "set_recall@2": (1 / 2 + 0) / 2,
        "precision@2": (1 / 2 + 0) / 2,
        "map@10": round(((1 / 2 + 2 / 4) / 2 + 1 / 3) / 2, 4),
        "ndcg@10": 0.7533,
    }


def test_queries_without_lines():
    queries = {f"q{i}": ("?", ["p/apple"], [], None, None) for i in range(3)}
    split = toy_split(queries=queries)
    run = Run.from_dict({"q1": {"p/apple": 1.0, "p/bear": 0.5}})
    with pytest.raises(CheckError, match=r"lacks 2 queries(.|\n)*--missing-queries empty"):
        score(split, run)
    found = score(split, run, missing_queries="empty")
    assert found.value("hit_rate@10") == found.value("mrr@10") == pytest.approx(1 / 3)
    assert found.counts["queries_not_in_run"] == 2
    assert "2 of 3 queries are not in the run" in found.notes[0]
    with pytest.raises(CheckError, match="'nowhere'"):
        score(split, Run.from_dict({"q1": {"nowhere": 1.0}}), missing_queries="empty")
    with pytest.raises(CheckError, match=r"1 of the run's \d+ queries are unknown"):
        score(split, Run.from_dict({"other": {"p/apple": 1.0}}), missing_queries="empty")


def test_ties_decide_where_a_run_is_cut_and_single_precision_is_told():
    queries = {"q": ("?", ["p/dog"], [], None, None)}
    split = toy_split(queries=queries)
    tied = Run.from_dict({"q": {"p/apple": 1.0, "p/dog": 1.0}})
    assert score(split, tied, "hit_rate@1", k=1).value("hit_rate@1") == 0
    by_trec = score(split, tied, "hit_rate@1", k=1, ties="trec")
    assert by_trec.value("hit_rate@1") == 1
    assert by_trec.run.passage_ids("q") == ["p/dog"]
    assert "--ties trec" in by_trec.notes[-1]
    close = Run.from_dict({"q": {"p/apple": 1.0 + 1e-12, "p/dog": 1.0}})
    told = score(split, close, "hit_rate@1", ties="trec")
    assert told.value("hit_rate@1") == 0
    assert "single precision" in told.notes[0]
    assert score(split, close, "hit_rate@1", ties="trec9").value("hit_rate@1") == 1


def test_k_deeper_than_a_run_is_told(tmp_path, caplog):
    split = toy_split()
    made = score(split, Run.load(_saved(tmp_path, k=2)), k=50)
    assert (made.k, made.notes[0]) == (2, "the run 'mine' was made 2 deep, so k is that and not 50")
    with pytest.raises(UsageError, match="made 2 deep"):
        score(split, Run.load(_saved(tmp_path, k=2)), "ndcg@10")
    for odd in ("many", -1, 2.5, None, [3]):
        assert score(split, Run.load(_saved(tmp_path, k=odd))).k == 10
    with caplog.at_level(logging.WARNING):
        assert not caplog.records


def _saved(folder, **metadata):
    ranking = {f"q{i}": {"p/apple": 1.0, "p/bear": 0.5} for i in range(1, 5)}
    return Run.from_dict(ranking, name="mine", **metadata).save(folder / "mine.parquet")
