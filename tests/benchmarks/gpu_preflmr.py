"""Encoding speed of PreFLMR on a GPU, with random weights of the released models' sizes.

    python tests/benchmarks/gpu_preflmr.py [--model vit-l] [--dtype bfloat16] [--device cuda] ...

Prints one JSON object: passages and queries a second and model FLOPs utilisation, which counts the
multiplications that the model needs for real tokens, without filling. Ends with 1 where utilisation
of a side is below ``--least``. Query images are pixel values in memory: decoding is not measured here.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from preflmr_cost import passages, vocabulary

from m2kr.preflmr import ContextTokenizer, PreFLMR, QueryTokenizer, preset
from m2kr.preflmr.encode.encoder import Encoder, Passage, Query
from m2kr.preflmr.model.configuration import BertSettings, PreFLMRConfig

H100_BF16 = 989e12  # dense, from the data sheet


def layer(tokens: int, seen: int, hidden: int, feed_forward: int) -> float:
    """FLOPs of a transformer layer over ``tokens`` that each see ``seen``."""
    return tokens * (8 * hidden**2 + 4 * hidden * feed_forward + 4 * seen * hidden)


def text_flops(config: PreFLMRConfig, tokens: int) -> float:
    text = config.text_config
    layers = text.num_hidden_layers * layer(
        tokens, tokens, text.hidden_size, text.intermediate_size
    )
    return layers + 2 * tokens * text.hidden_size * config.dim


def vision_flops(config: PreFLMRConfig) -> float:
    """The vision encoder on an image."""
    vision = config.vision_config
    states, patches = vision.patches + 1, vision.patches
    pixels = vision.num_channels * vision.patch_size**2
    return 2 * patches * pixels * vision.hidden_size + vision.num_hidden_layers * layer(
        states, states, vision.hidden_size, vision.intermediate_size
    )


def mapping_flops(config: PreFLMRConfig, tokens: int) -> float:
    """MLP and mapping network, for an image beside so many tokens."""
    vision, patches = config.vision_config, config.vision_config.patches
    prefix = config.dim * config.mapping_network_prefix_length
    found: float = vision.hidden_size * prefix + prefix**2
    if isinstance(config.mapping_config, BertSettings) and config.has_mapping:
        hidden = config.mapping_config.hidden_size
        width = config.mapping_config.intermediate_size
        seen = min(tokens, config.transformer_mapping_cross_attention_length)
        cross = patches * 4 * hidden**2 + seen * 4 * hidden**2 + patches * 4 * seen * hidden
        found += config.mapping_layers * (layer(patches, patches, hidden, width) + cross)
        found += 2 * patches * hidden * (vision.hidden_size + config.dim)
    return found


def query_flops(config: PreFLMRConfig, tokens: int) -> float:
    """A query with an image of its own."""
    return text_flops(config, tokens) + vision_flops(config) + mapping_flops(config, tokens)


def seconds(encode: Callable[[], int]) -> float:
    """Of the second run; the first one warms up."""
    encode()
    start = time.perf_counter()
    encode()
    return time.perf_counter() - start


def measure(options: argparse.Namespace) -> dict[str, object]:
    chosen = preset(options.model)
    config = chosen.config
    with tempfile.TemporaryDirectory() as folder:
        vocab = vocabulary(Path(folder))
        tokenizers = QueryTokenizer.from_vocab(vocab), ContextTokenizer.from_vocab(vocab)
    with torch.device(options.device):
        model = PreFLMR(config, *tokenizers).eval()
    model = model.to(getattr(torch, options.dtype))
    encoder = Encoder(
        model, token_budget=options.token_budget, compile=options.compile, output="float16"
    )
    texts = passages(options.passages)
    lengths = [len(tokenizers[1].encode(text)) + 1 for text in texts]
    size = config.vision_config.image_size
    pixels = [
        torch.from_numpy(each)
        for each in np.random.default_rng(0)
        .normal(size=(options.queries, 3, size, size))
        .astype(np.float32)
    ]
    asked = [Query(f"what is w{n}?", image, "Find it: ") for n, image in enumerate(pixels)]
    told = seconds(lambda: sum(map(len, encoder.stream_passages(map(Passage, texts)))))
    seen = seconds(lambda: sum(map(len, encoder.stream_queries(asked))))
    needed = sum(text_flops(config, length) for length in lengths)
    needed_by_queries = len(asked) * query_flops(config, chosen.query_maxlen)
    on_gpu = torch.device(options.device).type == "cuda"
    return {
        "model": options.model,
        "dtype": options.dtype,
        "device": torch.cuda.get_device_name(options.device) if on_gpu else options.device,
        "passages_per_second": round(len(texts) / told, 2),
        "queries_per_second": round(len(asked) / seen, 2),
        "median_tokens": float(np.median(lengths)),
        "passage_utilisation": round(needed / told / options.peak, 4),
        "query_utilisation": round(needed_by_queries / seen / options.peak, 4),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit-l", help="vit-b, vit-l, vit-h, vit-g or flmr")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=3_000)
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak", type=float, default=H100_BF16, help="FLOP/s of the device")
    parser.add_argument("--least", type=float, default=0.4, help="utilisation that must be reached")
    options = parser.parse_args()
    found = measure(options)
    print(json.dumps(found))
    return int(min(found["passage_utilisation"], found["query_utilisation"]) < options.least)


if __name__ == "__main__":
    sys.exit(main())
