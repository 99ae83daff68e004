"""A training step of PreFLMR on a GPU, with random weights of the released models' sizes.

    python tests/benchmarks/gpu_training.py [--model vit-l] [--batch 8] [--negatives 4] [--tokens 512] ...

Prints one JSON object: seconds of a step, peak memory, and model FLOPs utilisation, which counts a
forward pass of all and a backward pass of what is trained (two forward passes' worth), but no second
forward pass of ``--chunk`` or ``--checkpoint-activations``. Ends with 1 where it is below ``--least``.
Batches are in memory: loading is not measured here.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from gpu_preflmr import H100_BF16, mapping_flops, text_flops, vision_flops
from preflmr_cost import vocabulary

from m2kr.preflmr import ContextTokenizer, PreFLMR, QueryTokenizer, preset
from m2kr.preflmr.encode.device_workers import compile_modules
from m2kr.training.batch import TrainingBatch
from m2kr.training.batch_encoder import BatchEncoder
from m2kr.training.objective import Objective
from m2kr.training.optimiser import clip_gradients, make_optimiser
from m2kr.training.recipe import Negatives, Recipe, Steps
from m2kr.training.trained_parts import set_trained

WARM_UP, STEPS = 3, 10


def batch_of(options: argparse.Namespace, query_tokens: int, side: int) -> TrainingBatch:
    """Every passage of full length, every query with an image of its own."""
    made = torch.Generator().manual_seed(0)
    passages = options.batch * (1 + options.negatives)
    # Ids of plain words, and no others: all passage tokens count.
    query_ids = torch.randint(1000, 20_000, (options.batch, query_tokens), generator=made)
    passage_ids = torch.randint(1000, 20_000, (passages, options.tokens), generator=made)
    return TrainingBatch(
        query_ids,
        torch.ones_like(query_ids),
        passage_ids,
        torch.ones_like(passage_ids),
        passage_keys=torch.arange(passages),
        positive_keys=torch.arange(0, passages, 1 + options.negatives)[:, None],
        pixel_values=torch.randn(options.batch, 3, side, side, generator=made),
    ).to(options.device)


def measure(options: argparse.Namespace) -> dict[str, object]:
    chosen = preset(options.model)
    config = chosen.config
    recipe = Recipe(
        name="benchmark",
        negatives=Negatives(uniform=options.negatives),
        steps=Steps(
            batch=options.batch,
            chunk=options.chunk,
            precision="bfloat16",
            checkpoint_activations=options.checkpoint_activations,
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        vocab = vocabulary(Path(folder))
        tokenizers = QueryTokenizer.from_vocab(vocab), ContextTokenizer.from_vocab(vocab)
    with torch.device(options.device):
        model = PreFLMR(config, *tokenizers)
    groups = set_trained(model, recipe)
    if options.compile:
        compile_modules([model])
    encoder = BatchEncoder(model, recipe).train()
    optimiser, objective = make_optimiser(groups, recipe), Objective(recipe)
    parameters = [each for own in groups.values() for each in own]
    device = torch.device(options.device)
    batch = batch_of(options, chosen.query_maxlen, config.vision_config.image_size)

    taken = []
    for _ in range(WARM_UP + STEPS):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            objective.backward(encoder, batch)
        clip_gradients(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    seconds = statistics.median(taken[WARM_UP:])

    passages, rows = len(batch.passage_ids), config.vision_rows + chosen.query_maxlen
    queries = options.batch * 3 * text_flops(config, chosen.query_maxlen)
    images = options.batch * (vision_flops(config) + 3 * mapping_flops(config, chosen.query_maxlen))
    documents = passages * 3 * text_flops(config, options.tokens)
    # The gradient of MaxSim goes to the largest products alone.
    scores = 2 * options.batch * rows * passages * options.tokens * config.dim
    on_gpu = device.type == "cuda"
    return {
        "model": options.model,
        "device": torch.cuda.get_device_name(device) if on_gpu else options.device,
        "batch": options.batch,
        "passages": passages,
        "tokens": options.tokens,
        "seconds": round(seconds, 4),
        "queries_per_second": round(options.batch / seconds, 2),
        "utilisation": round((queries + images + documents + scores) / seconds / options.peak, 4),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit-l", help="vit-b, vit-l, vit-h or vit-g")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--negatives", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak", type=float, default=H100_BF16, help="FLOP/s of the device")
    parser.add_argument(
        "--least", type=float, default=0.35, help="utilisation that must be reached"
    )
    options = parser.parse_args()
    found = measure(options)
    print(json.dumps(found))
    return int(float(str(found["utilisation"])) < options.least)


if __name__ == "__main__":
    sys.exit(main())
