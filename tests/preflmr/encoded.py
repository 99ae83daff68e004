"""What tests of the encoder compare it with: the model called plainly, one text at a time."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from m2kr.data.images.store import black_image
from m2kr.preflmr import PreFLMR

from .conftest import GOLDEN

WORDS = (
    "the",
    "river",
    "of a city",
    "was",
    "first in,",
    "new!",
    "[MASK]",
    "[PAD]",
    "film.",
    "of",
    "school:",
    "ünïcode",
    "山",
    "zzz",
)


UNIT = 2e-6


def differ(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    """The largest difference; infinite where numbers of rows differ."""
    assert len(some) == len(others)
    if any(a.shape != b.shape for a, b in zip(some, others, strict=True)):
        return float("inf")
    return max((float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True)), default=0)


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}_io.npz") as stored:
        return dict(stored)


def picture(seed: int, size: tuple[int, int] = (45, 37)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def plain_queries(model: PreFLMR, texts: list[str], images: list[Any]) -> list[np.ndarray]:
    """One at a time, every row: what the official script computes."""
    assert model.query_tokenizer is not None
    assert model.image_processor is not None
    found = []
    for text, image in zip(texts, images, strict=True):
        tokens = model.query_tokenizer([text])
        pixels = model.image_processor([image or black_image()])
        with torch.no_grad():
            rows = model.query(**tokens, pixel_values=pixels).late_interaction_output[0]
        found.append(rows.numpy())
    return found


def nonzero(matrices: Any) -> list[np.ndarray]:
    return [each[each.any(axis=1)] for each in matrices]
