"""A small source with photographs, and a tiny recipe over it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import m2kr
from m2kr.preflmr import PreFLMR
from m2kr.training.loader import Loader
from m2kr.training.mixture import Mixture, open_splits
from m2kr.training.recipe import Data, Negatives, Recipe, Share, Steps

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_preflmr"
_TEXT = "the city of Lima is on a river. A badger has stripes, and an apple is a small fruit"
WORDS = _TEXT.split(" ")


def photo_source(root: Path) -> m2kr.Split:
    """Twelve questions: every third without a photograph, every fourth without words."""
    photos = root / "photos"
    photos.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.jpg")
    texts = {f"p{n}": f"{n} " + " ".join(WORDS[: 1 + 3 * n]) for n in range(16)}
    texts |= {"again": texts["p1"].upper()}
    queries = [
        {
            "id": f"q{n}",
            "question": f"what is {WORDS[n]}?" if n % 4 else "",
            "instruction": "Find the text of this: " if n % 2 else "Using the image:",
            "positives": [f"p{n}", f"p{n + 3}"],
        }
        | ({"img_path": f"{n % 4}.jpg"} if n % 3 or not n % 4 else {})
        for n in range(12)
    ]
    return m2kr.from_records(texts, queries, name="pics", split="train", images=photos, data=root)


def photo_recipe(data: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """Batches of four, each query with two negatives."""
    recipe = Recipe(
        "photos",
        data=replace(Data((Share("pics"),), passage_tokens=40), **(data or {})),
        negatives=Negatives(uniform=2),
        steps=Steps(batch=4, steps=5),
    )
    return replace(recipe, **changes)


def photo_loader(root: Path, model: PreFLMR, recipe: Recipe, *ranks: int) -> Loader:
    """What one rank loads."""
    return Loader(recipe, Mixture(recipe, open_splits(recipe, root)), model, *ranks)
