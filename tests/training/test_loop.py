"""A run from its first step to its published model."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from m2kr.errors import CheckError, M2KRError, MissingError
from m2kr.preflmr import PreFLMR
from m2kr.training.loop import Trained, train
from m2kr.training.mixture import open_splits
from m2kr.training.recipe import Optimiser, Recipe, Share, Validation
from m2kr.training.step_errors import enough_memory
from m2kr.training.trackers import open_trackers
from m2kr.training.training_state import Identity, RunFolder
from tests.support.tiny_training import (
    CHECKPOINT,
    SOURCE,
    Stopped,
    StopsAt,
    logged,
    tiny_recipe,
)


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


def test_validation_is_logged_and_changes_nothing(
    trained: Trained, data: Path, recipe: Recipe, tmp_path: Path
) -> None:
    looked_at = dataclasses.replace(
        recipe,
        validation=Validation(
            sources=(Share(SOURCE, "train"),),
            every=3,
            queries=5,
            passages=20,
            metric="loss",
            loss_queries=4,
        ),
        saving=dataclasses.replace(recipe.saving, every=1, keep=1),
    )
    again = train(looked_at, data=data, out=tmp_path)
    rows = logged(again.folder)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    scores = {row["step"]: row["validation"]["loss"] for row in rows if "validation" in row}
    assert list(scores) == [0, 3, 6]
    assert [row for row in rows if "loss" in row] == logged(trained.folder)
    best = min(scores, key=lambda step: scores[step])
    kept = sorted(path.name for path in (again.folder / "checkpoints").iterdir())
    assert kept == [f"step-{step:08}" for step in sorted({best, 6} - {0})]


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_batch(
    data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(recipe, optimiser=Optimiser())

    def set_rates(optimiser: torch.optim.Optimizer, *_: object) -> dict[str, float]:
        for group in optimiser.param_groups:
            group["lr"] = 1e15  # no recipe may have it
        return {}

    monkeypatch.setattr("m2kr.training.loop.set_rates", set_rates)
    with pytest.raises(
        CheckError, match=r"step 2 .* no finite number .*query 'q\d+', passages 'p\d+'"
    ):
        train(recipe, data=data, out=tmp_path)
    (folder,) = tmp_path.glob("*/checkpoints/*")
    assert folder.name == "nan-step-00000002"
    batch = json.loads((folder / "batch.json").read_text())
    assert [visit["visit"] for visit in batch["visits"]] == [6, 7, 8, 9, 10, 11]
    shares = open_splits(recipe, data)
    for visit in batch["visits"]:
        row = shares[0][visit["row"]]
        assert row["question_id"] == visit["question_id"]
        assert visit["passages"][0]["passage_id"] in row["pos_item_ids"]
    PreFLMR.from_pretrained(folder / "model")
    with pytest.raises(
        CheckError, match="step 2"
    ):  # the same again, not from the folder of the fault
        train(recipe, data=data, out=tmp_path)


def test_memory_that_is_not_enough_says_what_to_lower() -> None:
    recipe = tiny_recipe(steps={"batch": 8, "chunk": 4})
    said = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 1 bytes"
    for error in (MemoryError(), RuntimeError(said)):
        with pytest.raises(M2KRError, match=r"steps\.chunk=2"), enough_memory(recipe):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(recipe):
        raise RuntimeError("shapes differ")


def test_a_tracker_that_is_not_installed_is_named_with_its_installation(tmp_path: Path) -> None:
    recipe = tiny_recipe(saving={"trackers": ("trackio",)})
    with pytest.raises(MissingError, match="pip install trackio"):
        open_trackers(recipe, tmp_path, 0, {})


@pytest.mark.slow
def test_tensorboard_shows_the_log(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tiny_recipe(steps={"steps": 2, "batch": 1}, saving={"trackers": ("tensorboard",)})
    run = train(recipe, data=data, out=tmp_path)
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    shown = [(each.step, each.value) for each in events.Scalars("loss")]
    assert shown == [(n, pytest.approx(loss)) for n, loss in enumerate(run.losses, 1)]


def test_the_best_checkpoint_is_chosen_among_validations_that_compare(
    data: Path, recipe: Recipe, tmp_path: Path
) -> None:
    looked_at = dataclasses.replace(
        recipe,
        steps=dataclasses.replace(recipe.steps, steps=2, accumulate=1),
        validation=Validation(sources=(Share(SOURCE, "train"),), every=1, queries=6, passages=6),
        saving=dataclasses.replace(recipe.saving, every=1, keep=1),
    )
    with pytest.raises(Stopped):
        train(looked_at, data=data, out=tmp_path, progress=StopsAt(1))
    harder = dataclasses.replace(looked_at.validation, passages=None)
    done = train(dataclasses.replace(looked_at, validation=harder), data=data, out=tmp_path)
    by_step: dict[int, set[str]] = {}
    for row in logged(done.folder):
        if "validation" in row:
            by_step.setdefault(row["step"], set()).add(row["on"])
    assert [len(by_step[step]) for step in (0, 1, 2)] == [1, 2, 1]
    run = RunFolder(done.folder, Identity("", "", "", 1, 1, 1), 1)
    for of, steps in zip((by_step[0], by_step[2]), ({0, 1}, {1, 2}), strict=True):
        (run.validation,) = of
        assert run.best("hit_rate@5") in steps
        assert [run.validated(step) for step in (0, 1, 2)] == [step in steps for step in (0, 1, 2)]
