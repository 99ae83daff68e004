"""Which results a command was given, and what ``m2kr compare`` makes of them."""

import json

import pytest
from support.made_results import made_result
from support.tiny_rag import made_rag_result

from m2kr.errors import UsageError
from m2kr.rag.given_results import given_answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    for retriever in ("bm25", "fusion"):
        made_rag_result(folder, retriever=retriever, n=10, k=(1, 5))
    return folder


def names(results):
    return sorted(result.retriever["name"] for result in results)


def test_a_folder_a_pattern_and_files(folder):
    assert names(given_answers([folder], "m2kr compare")) == ["bm25", "fusion"]
    assert names(given_answers([folder / "*.rag.*.json"], "m2kr compare")) == ["bm25", "fusion"]
    files = sorted(folder.glob("*.json"))
    assert names(given_answers([*files, files[0]], "m2kr compare")) == ["bm25", "fusion"]
    tables = sorted(folder.glob("*.records.parquet"))
    assert names(given_answers(tables, "m2kr compare")) == ["bm25", "fusion"]
    assert given_answers([folder / "nothing-here.json"], "m2kr compare") == []


def test_both_kinds(folder, tmp_path, caplog):
    made_result("bm25", {"hit_rate@5": [0.0, 1.0]}).save(tmp_path)
    made_rag_result(tmp_path, n=10)
    assert given_answers([tmp_path], "m2kr compare") == []  # its results of retrieval, as before
    assert "1 of its results are of readers" in caplog.text
    with pytest.raises(UsageError, match="other files"):
        given_answers([tmp_path / "*.json"], "m2kr compare")
    with pytest.raises(UsageError, match="not scored alike"):
        given_answers(sorted(tmp_path.glob("*.json")), "m2kr compare")


def test_compare_shows_the_grid_in_every_format(cli, folder):
    shown = cli("compare", f"{folder}/*.rag.*.json").stdout
    assert "no retrieval" in shown and "parrot" in shown
    facts = json.loads(cli("compare", folder, "--json").stdout)
    assert facts["format"] == "m2kr-rag-grid-1"
    means = facts["by_source"]["tinyrag/test"]["exact_match@5"]["means"]
    assert means["parrot, no retrieval"] == 0.3  # 3 of 10
    for form, first in (("md", "**tinyrag"), ("latex", "% "), ("csv", "source,")):
        assert cli("compare", folder, "--format", form).stdout.startswith(first)
