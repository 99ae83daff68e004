"""The whole pipeline learns what can be learned, and nothing where labels are shuffled."""

import math
from pathlib import Path

import pytest

import m2kr
from m2kr.training.loop import train
from m2kr.training.recipe_file import load_recipe
from tests.support.known_answer import PASSAGES, known_model, known_task

pytestmark = pytest.mark.slow
TRAIN, TEST = 16, 3  # images of each passage
QUERIES = TEST * PASSAGES


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("known")
    known_task(root, TRAIN, TEST)
    known_model(root / "start")
    return root


def learned(task: Path, **overrides: str) -> float:
    """Queries of images never seen whose right passage comes first, after training."""
    recipe = load_recipe(
        "fine-tuning",
        {
            "start.checkpoint": str(task / "start"),
            "start.dropout": "0",
            "data.sources": "taught",
            "data.passage_tokens": "16",
            "negatives.uniform": "1",
            "optimiser.lr": "1e-2",
            "optimiser.schedule": "linear",
            "optimiser.warmup": "0",
            "steps.steps": "150",
            "steps.batch": "32",
            "steps.accumulate": "1",
            "steps.precision": "float32",
            "validation.every": "0",
            "saving.every": "0",
        }
        | {key.replace("__", "."): value for key, value in overrides.items()},
    )
    trained = train(recipe, data=task, out=task / "trained", device="cpu")
    return hits_of(task, trained.checkpoint)


def hits_of(task: Path, checkpoint: Path) -> float:
    settings = {"checkpoint": str(checkpoint), "device": "cpu"}
    results = m2kr.evaluate(
        "held", "preflmr", data=task, settings=settings, metrics="hit_rate@1", k=10, cache=False
    )
    return QUERIES * float(results[0].value("hit_rate@1") or 0)


def test_what_can_be_learned_is(task: Path) -> None:
    assert hits_of(task, task / "start") <= by_chance()
    assert learned(task) >= 0.95 * QUERIES


def test_shuffled_labels_stay_at_chance(task: Path) -> None:
    assert learned(task, data__shuffle_labels="true") <= by_chance()


def by_chance() -> int:
    """Hits that a ranking without knowledge has at most, but for 1 time in 10,000."""
    p, left = 1 / PASSAGES, 1.0
    for hits in range(QUERIES):
        left -= math.comb(QUERIES, hits) * p**hits * (1 - p) ** (QUERIES - hits)
        if left < 1e-4:
            return hits
    return QUERIES
