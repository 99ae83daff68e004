"""The Hub's file of a model's scores: read by the Hub's own client where it is new enough."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command_line import CommandLine

from m2kr.errors import UsageError
from m2kr_leaderboard.hub_yaml import require_dataset_id
from m2kr_leaderboard.scoring import packaged_submissions

BM25 = next(folder for folder in packaged_submissions() if folder.name == "bm25")
LINE = CommandLine()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hub")
    shutil.copytree(BM25, folder / "bm25")
    card = folder / "bm25" / "system.yaml"
    text = card.read_text(encoding="utf-8")
    # A claim that the check lets pass, and that is not what the harness computes.
    assert "hit_rate@5: 0.3743793445878848" in text
    text = text.replace("hit_rate@5: 0.3743793445878848", "hit_rate@5: 0.3743798")
    card.write_text(text, encoding="utf-8")
    words = ["submit", "pack", "bm25", "--out", "bm25.zip", "--hub-yaml", "ada/m2kr-mini"]
    done = LINE.run(words, folder)
    assert done.returncode == 0, done.stderr
    assert "bm25.eval_results.yaml" in done.stdout
    assert ".eval_results/bm25.yaml" in done.stdout
    assert (folder / "bm25.zip").is_file()
    entries = yaml.safe_load((folder / "bm25.eval_results.yaml").read_text(encoding="utf-8"))
    assert isinstance(entries, list)
    return entries


def test_it_has_the_recomputed_scores_and_nothing_else(written: list[dict[str, Any]]) -> None:
    card = yaml.safe_load((BM25 / "system.yaml").read_text(encoding="utf-8"))
    claims = card["runs"][0]["scores"]
    scores = {entry["dataset"]["task_id"]: entry["value"] for entry in written}
    assert {f"mini.test.{metric}" for metric in claims} <= scores.keys()
    for metric, value in claims.items():
        assert scores[f"mini.test.{metric}"] == pytest.approx(value, abs=1e-12)
    for entry in written:
        # The keys that the Hub's documentation has; `notes` must be there, `source` would need an address.
        assert entry.keys() == {"dataset", "value", "notes"}
        assert entry["dataset"].keys() == {"id", "task_id"}
        assert entry["dataset"]["id"] == "ada/m2kr-mini"
        assert isinstance(entry["value"], float)
        assert "recomputed" in entry["notes"]
        assert card["runs"][0]["fingerprint"][:16] in entry["notes"]


def test_the_hubs_own_client_reads_it(written: list[dict[str, Any]]) -> None:
    hub = pytest.importorskip("huggingface_hub")
    if not hasattr(hub, "parse_eval_result_entries"):
        pytest.skip("this version of huggingface_hub knows no .eval_results")
    entries = hub.parse_eval_result_entries(written)
    assert len(entries) == len(written)
    assert hub.eval_result_entries_to_yaml(entries) == written


@pytest.mark.parametrize(
    "dataset",
    ["m2kr", "a/b/c", "ada/", "/mini", "ada/mi ni", "ada/mini.git", "a--b/c", "a/b..c", ""],
)
def test_what_is_no_dataset_is_refused_before_anything_is_scored(
    dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no dataset's id"):
        require_dataset_id(dataset)
    hub = pytest.importorskip("huggingface_hub.utils")
    if dataset.count("/") == 1:
        with pytest.raises(hub.HFValidationError):
            hub.validate_repo_id(dataset)
    if dataset == "m2kr":
        words = ["submit", "pack", str(BM25), "--out", "bm25.zip", "--hub-yaml", dataset]
        assert LINE.run(words, tmp_path).returncode == 2
        assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("dataset", ["ada/m2kr", "cais/hle", "Idavidrein/gpqa", "a_b/c.d-e"])
def test_ids_of_datasets_are_taken(dataset: str) -> None:
    assert require_dataset_id(dataset) == dataset
