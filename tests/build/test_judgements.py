"""Judgements of people's own data: grades kept from file to table, and what is refused."""

import json
from pathlib import Path

import pytest

import m2kr
from m2kr.build.imports.importer import import_files
from m2kr.data.load import load
from m2kr.errors import InputError, UsageError
from m2kr.fingerprint import query_parts

PASSAGES = [{"id": f"d{i}", "text": f"note {i}"} for i in range(8)]
QUERIES = [{"id": f"q{i}", "question": f"note {i}"} for i in range(3)]


def jsonl(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return jsonl(tmp_path / "p.jsonl", PASSAGES), jsonl(tmp_path / "q.jsonl", QUERIES)


def read_back(built, split: str = "test") -> m2kr.Split:
    name = built.manifest["source"]["name"]
    return load(name, split, edition=built.folder.name, data=built.folder.parent)


def judged(split: m2kr.Split) -> dict[str, dict[str, float]]:
    """Grades by query and passage as the accessor gives them; the tables must agree."""
    grades: dict[str, dict[str, float]] = {}
    for row in split.queries_view.judgements().to_pylist():
        grades.setdefault(row["question_id"], {})[row["passage_id"]] = row["relevance"]
    listed = zip(
        *(split.qrels[name] for name in ("question_id", "passage_id", "relevance")), strict=True
    )
    assert {(q, p): g for q, p, g in listed} == {
        (q, p): g for q, of in grades.items() for p, g in of.items()
    }
    return grades


def test_grades_are_kept(tmp_path, files):
    (tmp_path / "qrels.txt").write_text(
        "q0 0 d1 1\nq0 0 d2 3\nq0 0 d3 0\nq1 0 d4 0.2\nq2 0 d5 -1\n"
    )
    split = read_back(import_files("g", *files, tmp_path / "qrels.txt", data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 3}, "q1": {"d4": 0.2}}
    assert split.query("q0")["pos_item_grades"] == [1.0, 3.0]
    assert split.relevance_threshold == 1
    assert split.manifest["splits"]["test"]["judged"] == 1
    assert query_parts(split.queries.data.table)[1] == split.fingerprints["judgements"]


def test_grades_that_are_all_1_need_no_column(tmp_path, files):
    (tmp_path / "qrels.txt").write_text("q0 0 d1 1\nq0 0 d2 1.0\nq0 0 d3 0\n")
    split = read_back(import_files("g", *files, tmp_path / "qrels.txt", data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 1}}
    assert "pos_item_grades" not in split.queries.column_names
    assert "relevance_threshold" not in split.manifest


def test_a_threshold_is_held_by_the_manifest_and_the_fingerprint(tmp_path, files):
    (tmp_path / "qrels.txt").write_text("q0 0 d1 1\nq0 0 d2 3\nq1 0 d3 1\n")
    args = (*files, tmp_path / "qrels.txt")
    plain = read_back(import_files("a", *args, data=tmp_path))
    two = read_back(import_files("b", *args, data=tmp_path, relevance_threshold=2))
    assert two.relevance_threshold == two.manifest["relevance_threshold"] == 2
    assert two.manifest["splits"]["test"]["judged"] == 1
    assert judged(two) == judged(plain)
    for part, same in (("queries", True), ("pool", True), ("judgements", False), ("eval", False)):
        assert (plain.fingerprints[part] == two.fingerprints[part]) is same
    with pytest.raises(InputError, match="highest grade is 3"):
        import_files("c", *args, data=tmp_path, relevance_threshold=4)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="relevance-threshold"):
            import_files("c", *args, data=tmp_path, relevance_threshold=wrong)


def test_a_lost_positive_counts_as_never_found(tmp_path):
    split = m2kr.from_records(
        PASSAGES,
        QUERIES,
        qrels={"q0": ["d0"], "q1": {"d99": 2}},
        drop_missing=True,
        data=tmp_path,
    )
    assert judged(split) == {"q0": {"d0": 1}, "q1": {"d99": 2}}
    assert split.query("q1")["pos_item_ids"] == []
    result = m2kr.evaluate(split, "bm25")[0]
    assert result.metrics["hit_rate@1"]["value"] == 0.5
    assert result.metrics["hit_rate@1"]["n"] == 2
