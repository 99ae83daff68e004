"""A recipe that trains a tiny random BLIP-2 to say the colour that a passage names."""

import dataclasses
from pathlib import Path
from typing import Any

import m2kr
from m2kr.rag.training.reader_recipe import (
    Lora,
    ReaderData,
    ReaderRecipe,
    ReaderStart,
    ReaderValidation,
)
from m2kr.retrieval.run import Run
from m2kr.training.recipe import Optimiser, Saving, Steps

SOURCE = "tiny-reading"
COLOURS = ("red", "green", "blue", "white", "black", "brown")
THINGS = ("hat", "cup", "door", "boat")
WORDS = (
    "question",
    "knowledge",
    "answer",
    ":",
    ".",
    "the",
    "is",
    "what",
    "colour",
    *COLOURS,
    *THINGS,
)


def make_reading(root: Path) -> Path:
    """A source of questions, of which every other has an image, and a run; gives the run's file."""
    from PIL import Image

    pairs = [(thing, colour) for colour in COLOURS for thing in THINGS]
    (root / "photos").mkdir(parents=True)
    for n, colour in enumerate(COLOURS):
        Image.new("RGB", (16, 16), (40 * n, 250 - 40 * n, 99)).save(
            root / "photos" / f"{colour}.png"
        )
    queries = []
    for n, (thing, colour) in enumerate(pairs):
        other = COLOURS[(n + 1) % 6]
        query = {
            "id": f"q{n}",
            "question": f"what colour is the {thing}",
            "positives": [f"p{n}"],
            "answers": [colour, colour, other],
            "gold_answer": colour,
        }
        if n % 2:
            query["img_path"] = f"{colour}.png"
        queries.append(query)
    passages = {f"p{n}": f"the {thing} is {colour}." for n, (thing, colour) in enumerate(pairs)}
    m2kr.from_records(
        passages, queries, name=SOURCE, split="train", data=root / "data", images=root / "photos"
    )
    ranked = {
        f"q{n}": {f"p{(n + 4 * k) % len(pairs)}": 9.0 - k for k in range(6)}
        for n in range(len(pairs))
    }
    return Run.from_dict(ranked, name="tiny").save(root / "train.parquet")


def tiny_reader_recipe(model: Path, run: Path | None, **changes: Any) -> ReaderRecipe:
    """The recipe, with other values by section: ``steps={"batch": 2}``."""
    recipe = ReaderRecipe(
        name="tiny-reader",
        reader=ReaderStart(str(model)),
        lora=Lora(r=4, alpha=16, dropout=0.1),
        data=ReaderData(source=SOURCE, run=None if run is None else str(run), target_tokens=3),
        optimiser=Optimiser(lr=1e-2, weight_decay=0.05, clip=5.0),
        steps=Steps(steps=6, batch=2, accumulate=2),
        validation=ReaderValidation(questions=2, scorer="exact_match"),
        saving=Saving(every=2),
    )
    for section, values in changes.items():
        value = values
        if isinstance(values, dict):
            value = dataclasses.replace(getattr(recipe, section), **values)
        recipe = dataclasses.replace(recipe, **{section: value})
    return recipe


def calm(model: Path, folder: Path) -> Path:
    """A tiny T5, or a BLIP-2 with one, with smaller weights and no dropout: it learns fast."""
    import torch
    import transformers
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    sees = config.model_type == "blip-2"
    text = config.text_config if sees else config
    text.dropout_rate, text.initializer_factor = 0.0, 1.0
    torch.manual_seed(2)
    kind = "Blip2ForConditionalGeneration" if sees else "T5ForConditionalGeneration"
    getattr(transformers, kind)(config).save_pretrained(folder)
    reads = transformers.Blip2Processor if sees else transformers.AutoTokenizer
    reads.from_pretrained(model).save_pretrained(folder)
    return folder
