"""Results of readers: saved, read back, and refused where a file is something else."""

import json
from pathlib import Path

import pytest
from support.tiny_rag import made_rag_result

from m2kr.errors import InputError, MissingError
from m2kr.rag.records import RagResult, load_rag_results


def test_a_result_reads_back_as_it_was_saved_and_a_score_that_is_undefined_stays_null(
    tmp_path: Path,
) -> None:
    made = made_rag_result(
        tmp_path, right=lambda arm, k, i: None if i == 3 else float(arm != "none")
    )
    assert made.path is not None
    loaded = RagResult.load(made.path)
    assert loaded == made
    assert RagResult.load(tmp_path / loaded.files["records"]) == made
    table = loaded.records()
    assert table.num_rows == sum(arm["questions"] for arm in loaded.arms)
    rows = loaded.records(["question_id", "score:exact_match"]).to_pylist()
    assert {r["score:exact_match"] for r in rows if r["question_id"] == "q3"} == {None}
    assert loaded.totals["exact_match"][0] == {
        "arm": "none", "k": 0, "judged": 39, "not_judged": 1, "mean": None,
        "least": 0.0, "most": 1 / 40, "figures": {},
    }  # fmt: skip
    other = made_rag_result(tmp_path, retriever="random")
    assert other.name != made.name
    assert {r.name for r in load_rag_results(tmp_path)} == {made.name, other.name}


def test_what_is_no_result_of_a_reader_is_refused_with_its_file(tmp_path: Path) -> None:
    made = made_rag_result(tmp_path)
    assert made.path is not None
    facts = json.loads(made.path.read_text(encoding="utf-8"))
    for number, change in enumerate(
        (
            {"arms": {}},
            {"reader": {}},
            {"k": ["1"]},
            {"extra": 1},
            {"format": "m2kr-result-1"},
            {"notes": None},
        )
    ):
        path = tmp_path / f"bad{number}.json"
        path.write_text(json.dumps(facts | change), encoding="utf-8")
        with pytest.raises(InputError, match=path.name):
            RagResult.load(path)
    for text in ("", "[]", "{", '{"format": "m2kr-rag-1"}'):
        path = tmp_path / "worse.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="worse"):
            RagResult.load(path)
    with pytest.raises(MissingError):
        RagResult.load(tmp_path / "none.json")
    made.records_path.unlink()  # type: ignore[union-attr]
    with pytest.raises(MissingError, match="records"):
        made.records()
