"""What `tests/training/test_torchrun.py` runs under torchrun: ``DATA OUT NAME…``, in turn.

A name is that of a combination; or ``whole`` and ``cut``, the same run twice, of which the second is slow
enough to be killed in; or ``death``, a run whose last process kills itself.
"""

import itertools
import os
import signal
import sys
import time
from pathlib import Path

from m2kr.progress import SILENT
from m2kr.training import loop
from m2kr.training.recipe import Recipe
from tests.support.own_process import WHOLE
from tests.support.tiny_training import tiny_recipe

WORLD, BATCH, STEPS = 2, 2, 3


def names() -> list[str]:
    """``PARALLEL NEGATIVES ACCUMULATE CHUNK``: half of all, in which any three meet in every way."""
    factors = [("ddp", "fsdp"), ("in_batch", "across_ranks"), (1, 2), (0, 1)]
    places = itertools.product(*(range(len(each)) for each in factors))
    return [
        " ".join(str(each[at]) for each, at in zip(factors, place, strict=True))
        for place in places
        if WHOLE or sum(place) % 2 == 0
    ]


def recipe_of(name: str) -> Recipe:
    """A combination's recipe, for ``WORLD`` processes."""
    parallel, negatives, accumulate, chunk = name.split()
    steps = {"steps": STEPS, "batch": BATCH, "precision": "float64", "parallel": parallel}
    return tiny_recipe(
        start={"dropout": 0.0},
        negatives={"across_ranks": negatives == "across_ranks"},
        optimiser={"clip": 0.5, "warmup": 1},
        steps=steps | {"accumulate": int(accumulate), "chunk": int(chunk) or None},
        saving={"every": 0},
    )


def alone(name: str) -> Recipe:
    """What one process must train for the same weights: a batch of all processes' queries."""
    _, negatives, accumulate, _ = name.split()
    apart = negatives == "in_batch"
    return tiny_recipe(
        start={"dropout": 0.0},
        negatives={"groups": WORLD if apart else 1},
        optimiser={"clip": 0.5, "warmup": 1},
        steps={
            "steps": STEPS,
            "batch": BATCH * WORLD,
            "precision": "float64",
            "accumulate": int(accumulate),
        },
        saving={"every": 0},
    )


def long() -> Recipe:
    """A run to be killed in, with dropout."""
    steps = {"steps": 6, "batch": 2, "accumulate": 2, "chunk": 1, "parallel": "fsdp"}
    return tiny_recipe(steps=steps, saving={"every": 2})


class Slow:
    """Progress that lets those who watch the folder come in time."""

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        pass

    def advance(self, name: str, n: int) -> None:
        if name == "training" and n == 1:
            time.sleep(0.5)

    def done(self, name: str) -> None:
        pass


def main(data: Path, out: Path, tasks: list[str]) -> None:
    for name in tasks:
        if name == "death" and os.environ["RANK"] == str(WORLD - 1):
            loop.clip_gradients = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        recipe = long() if name in ("whole", "cut", "death") else recipe_of(name)
        progress = Slow() if name == "cut" else SILENT
        loop.train(recipe, data=data, out=out / name, device="cpu", progress=progress)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
