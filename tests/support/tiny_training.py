"""A recipe that trains the tiny golden checkpoint on a source of some words, in milliseconds a step."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import m2kr
from m2kr.training.recipe import Data, Negatives, Optimiser, Recipe, Saving, Share, Start, Steps

CHECKPOINT = Path(__file__).parent.parent / "golden" / "tiny_preflmr"
SOURCE = "tiny-training"
_THINGS = [
    "apple",
    "bear",
    "cherry",
    "dog",
    "elm",
    "fox",
    "grape",
    "horse",
    "iris",
    "jay",
    "kiwi",
    "lion",
]
_PLACES = ["lake", "hill", "wood", "town"]


def make_source(
    data: Path, name: str = SOURCE, *, things: int = 12, split: str = "train"
) -> m2kr.Split:
    """Twelve things at four places each: questions name both, passages tell of them."""
    pairs = [(thing, place) for thing in _THINGS[:things] for place in _PLACES]
    return m2kr.from_records(
        {
            f"p{n}": f"The {thing} of the {place} is number {n}."
            for n, (thing, place) in enumerate(pairs)
        },
        [
            {"id": f"q{n}", "question": f"Which {thing} is at the {place}?", "positives": [f"p{n}"]}
            for n, (thing, place) in enumerate(pairs)
        ],
        name=name,
        split=split,
        data=data,
    )


def tiny_recipe(**changes: Any) -> Recipe:
    """The recipe, with other values by section: ``steps={"batch": 2}``."""
    recipe = Recipe(
        name="tiny",
        stage="fine-tuning",
        start=Start(checkpoint=str(CHECKPOINT), dropout=0.1),
        data=Data(sources=(Share(SOURCE, "train"),), passage_tokens=24),
        negatives=Negatives(uniform=1),
        optimiser=Optimiser(lr=1e-3, mapping_lr=2e-3, schedule="linear", warmup=2, clip=5.0),
        steps=Steps(steps=12, batch=3),
        saving=Saving(every=3),
    )
    for section, values in changes.items():
        value = values
        if isinstance(values, dict):
            value = dataclasses.replace(getattr(recipe, section), **values)
        recipe = dataclasses.replace(recipe, **{section: value})
    return recipe


def logged(folder: Path) -> list[dict[str, Any]]:
    """The log's lines without what time decides."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {key: row[key] for key in row if key not in ("seconds", "queries_per_second")}
        for row in rows
    ]


class Stopped(Exception):
    """The power is gone."""


class StopsAt:
    """Progress that ends the process's work after some steps, before they are saved."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        pass

    def advance(self, name: str, n: int) -> None:
        self._left -= name == "training" and n == 1
        if self._left < 0:
            raise Stopped

    def done(self, name: str) -> None:
        pass
