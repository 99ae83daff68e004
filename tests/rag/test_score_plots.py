"""Plots of scores against K, and ``m2kr report`` of readers' results."""

import json

import pytest
from support.tiny_rag import made_rag_result

from m2kr.errors import UsageError
from m2kr.rag.score_plots import write_score_plots


def test_a_plot_a_scorer(tmp_path):
    odd = "a/b $x$ <b>"
    results = [
        made_rag_result(tmp_path, reader=reader, n=20, k=(1, 5), scorers=("exact_match", odd))
        for reader in ("parrot", "_owl $1$")
    ]
    paths = write_score_plots(results, tmp_path / "plots")
    assert sorted(path.name for path in paths) == [
        f"tinyrag-test.{name}.by-k.{form}" for name in ("a-b-x-b-", "exact_match") for form in ("png", "svg")
    ]  # fmt: skip
    assert all(path.stat().st_size > 5_000 for path in paths)
    again = write_score_plots(results, tmp_path / "again")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]


def test_nothing_judged_is_nothing_drawn(tmp_path):
    result = made_rag_result(tmp_path, n=4, right=lambda *_: None)
    with pytest.raises(UsageError, match="no scores to draw"):
        write_score_plots([result], tmp_path / "plots")


def test_report_shows_and_writes(cli, tmp_path):
    made_rag_result(tmp_path / "results", n=10, k=(1, 5))
    shown = cli("report", tmp_path / "results").stdout
    assert "no retrieval" in shown and "retrieved@5" in shown
    done = cli(
        *("report", tmp_path / "results", "--html", tmp_path / "page", "--out", tmp_path / "plots"),
        *("--data", tmp_path, "--json"),
    )
    facts = json.loads(done.stdout)
    assert len(facts["results"]) == 1 and len(facts["plots"]) == 2
    assert (tmp_path / "page" / "index.html").is_file()
