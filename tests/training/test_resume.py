"""A run that stops anywhere and goes on makes the steps of one that never stopped."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from m2kr.training.loop import Trained, train
from m2kr.training.recipe import Recipe
from tests.support.tiny_training import Stopped, StopsAt, logged, make_source, tiny_recipe

STEPS = 9
RECIPES: dict[str, dict[str, Any]] = {
    "accumulated bfloat16 by GradCache": {
        "steps": {"batch": 2, "accumulate": 2, "precision": "bfloat16", "chunk": 1}
    },
    "layers computed again": {"steps": {"checkpoint_activations": True}},
    "frozen parts kept": {
        "data": {"keep_frozen": True},
        "trained": ("text_encoder", "mapping"),
        "text_layers": 1,
    },
    "float64": {"steps": {"precision": "float64"}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_source(root)
    return root


def same(one: Trained, other: Trained) -> None:
    """The same losses and other figures of all steps, each once, and the same weights."""
    assert logged(one.folder) == logged(other.folder)
    assert one.losses == other.losses
    first, second = (load_file(each.checkpoint / "model.safetensors") for each in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def recipe_of(name: str) -> Recipe:
    changes = {key: value for key, value in RECIPES[name].items() if key != "steps"}
    steps = {"steps": STEPS, **RECIPES[name].get("steps", {})}
    return tiny_recipe(saving={"every": 2}, steps=steps, **changes)


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("accumulated bfloat16 by GradCache", 5),
        ("frozen parts kept", 5),
        pytest.param("layers computed again", 10, marks=pytest.mark.slow),
        pytest.param("float64", 10, marks=pytest.mark.slow),
    ],
)
def test_stopped_at_random_steps_it_ends_with_the_same_bits(
    name: str, stops: int, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(name)
    whole = train(recipe, data=data, out=tmp_path / "whole")
    draw = random.Random(name)
    for _ in range(stops):
        torch.rand(draw.randrange(9))  # whatever else the process does with random numbers
        with pytest.raises(Stopped):
            train(recipe, data=data, out=tmp_path / "cut", progress=StopsAt(draw.randrange(1, 4)))
    same(train(recipe, data=data, out=tmp_path / "cut"), whole)
