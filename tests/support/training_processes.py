"""What `tests/training/test_parallel.py` runs under torchrun: ``MODE DATA OUT``."""

import dataclasses
import sys
from pathlib import Path

from m2kr.training.loop import train
from m2kr.training.recipe import Recipe
from tests.support.tiny_training import StopsAt, tiny_recipe

STEPS = 6
EXACT = {"steps": STEPS, "batch": 2, "accumulate": 2, "precision": "float64"}


def recipes() -> dict[str, Recipe]:
    """By name; ``ddp`` is the one that is stopped."""
    ddp = tiny_recipe(steps=EXACT, saving={"every": 2})
    sharded = tiny_recipe(steps=EXACT | {"parallel": "fsdp"}, saving={"every": 2})
    chunked = tiny_recipe(
        steps={"steps": 3, "batch": 2, "chunk": 1, "precision": "float64"},
        start={"dropout": 0.0},
        negatives={"across_ranks": True},
    )
    return {
        "ddp": ddp,
        "fsdp": sharded,
        "across": chunked,
        "across fsdp": dataclasses.replace(
            chunked, steps=dataclasses.replace(chunked.steps, parallel="fsdp")
        ),
    }


def main() -> None:
    mode, data, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if mode == "stop":
        train(recipes()["ddp"], data=data, out=out / "cut", device="cpu", progress=StopsAt(3))
        return
    train(recipes()["ddp"], data=data, out=out / "cut", device="cpu")
    for name, recipe in recipes().items():
        train(recipe, data=data, out=out / name, device="cpu")


if __name__ == "__main__":
    main()
