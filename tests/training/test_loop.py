"""A run from its first step to its published model."""

from pathlib import Path

import pytest
import torch

from m2kr.preflmr import PreFLMR
from m2kr.training.loop import Trained, train
from m2kr.training.recipe import Recipe
from tests.support.tiny_training import CHECKPOINT, logged, make_source, tiny_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_source(root)
    return root


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return tiny_recipe(steps={"steps": 6, "accumulate": 2}, saving={"every": 2, "keep": 2})


@pytest.fixture(scope="module")
def trained(data: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(recipe, data=data, out=tmp_path_factory.mktemp("runs"))


def test_the_folder_holds_log_checkpoints_and_a_model_that_loads(trained: Trained) -> None:
    rows = logged(trained.folder)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["visits"] for row in rows] == [6, 12, 18, 24, 30, 36]
    assert tuple(row["loss"] for row in rows) == trained.losses
    assert [row["lr"] for row in rows] == pytest.approx(
        [0.5e-3, 1e-3, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3]
    )
    assert all(row["mapping_lr"] == 2 * row["lr"] for row in rows)
    kept = sorted(path.name for path in (trained.folder / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000006"]
    before, after = (PreFLMR.from_pretrained(each) for each in (CHECKPOINT, trained.checkpoint))
    changed = {
        name
        for (name, old), new in zip(
            before.state_dict().items(), after.state_dict().values(), strict=True
        )
        if not torch.equal(old, new)
    }
    assert "query_text_encoder_linear.weight" in changed
    assert not any("vision_encoder" in name or "pooler" in name for name in changed)


def test_a_finished_run_is_given_back(trained: Trained, data: Path, recipe: Recipe) -> None:
    assert train(recipe, data=data, out=trained.folder.parent) == trained
