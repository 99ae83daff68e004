"""Exact MaxSim search on a GPU: seconds and the share of its bfloat16 peak, by kernel.

    python tests/benchmarks/gpu_exact.py [--passages 200000] [--queries 5120] [--device cuda] ...

Prints one JSON object. ``search`` is the whole search, from tokens in the host's memory to ranked
passages: with the fused kernel where it works, and with plain torch. ``kernels`` are bounds alone, of
one block that is on the device: fused, plain, and flash-maxsim's scores where that is installed. FLOPs
are what the scores need, 2 x tokens x rows x dim, without filling; the peak is that of a big bfloat16
product in the same run. Ends with 1 where the search that would be chosen reaches less than ``--least``
of it, or where a sample of queries isn't answered as the reference does, to the bit.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch

from m2kr.concurrency import workers
from m2kr.search.exact import canonical, choose, gpu_fused, gpu_rounds, passes, reference, search
from m2kr.search.exact.blocks import code_block
from m2kr.search.store.reader import ArraySource, Block

DIM = 128
_MADE_AT_ONCE = 1 << 20  # tokens
_COPIED = 0.25  # of a query's rows, from the tokens of one passage


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def corpus(options: argparse.Namespace) -> tuple[ArraySource, list[np.ndarray]]:
    """Unit tokens in host memory, made on the device, and queries that each resemble a passage."""
    lengths = np.random.default_rng(0).integers(
        options.tokens * 2 // 3, options.tokens * 4 // 3 + 1, options.passages
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    vectors = np.empty((offsets[-1], DIM), np.float16)
    random = torch.Generator(options.device).manual_seed(1)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, device=options.device)

    for first in range(0, len(vectors), _MADE_AT_ONCE):
        part = vectors[first : first + _MADE_AT_ONCE]
        part[:] = unit(made(len(part), DIM)).half().cpu().numpy()
    queries = []
    copied = int(options.rows * _COPIED)
    for number in range(options.queries):
        about = number * 7919 % options.passages
        own = torch.from_numpy(vectors[offsets[about] : offsets[about + 1]][:copied])
        rows = unit(made(options.rows, DIM))
        own = own.to(options.device).float()
        rows[: len(own)] = unit(own + 0.6 * rows[: len(own)])
        queries.append(rows.half().cpu().numpy())
    return ArraySource(vectors, offsets), queries


def seconds(device: str, function: Callable[[], object], repeats: int = 3) -> float:
    """The best of some, after one that warms up."""
    found = []
    for _ in range(repeats + 1):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak(device: str) -> float:
    """FLOP/s of a bfloat16 product."""
    size = 16384 if device.startswith("cuda") else 512
    # Not ones: they switch few transistors, and a GPU then runs faster than it can with numbers.
    left = torch.randn((size, size), dtype=torch.bfloat16, device=device)
    return 2 * size**3 / seconds(device, lambda: left @ left, 10)


def kernels(
    options: argparse.Namespace, source: ArraySource, queries: list[np.ndarray], most: float
) -> dict[str, object]:
    """Bounds of some passages and queries, which are on the device already."""
    device = choose.named(options.device)
    passages = min(options.kernel_passages, options.passages)
    some = canonical.rounded_queries(queries[: options.kernel_queries], DIM)
    block = Block(0, source.read(0, passages), source.offsets[: passages + 1])
    flops = 2 * DIM * len(block.tokens) * sum(len(query.rows) for query in some)
    found: dict[str, object] = {}

    def add(name: str, run: Callable[[], object]) -> None:
        took = seconds(options.device, run)
        found[name] = {"tflops": flops / took / 1e12, "of peak": flops / took / most}

    with workers(torch.get_num_threads()) as pool:
        parts = gpu_rounds.group_queries(some, options.k, np.arange(passages), torch.device(device))
        for name in passes.FLAT:
            if name == "fused" and gpu_fused.fastest_shape(device, DIM) is None:
                continue
            storage = torch.empty((len(block.tokens), DIM), dtype=torch.float16, device=device)
            coded = code_block(passes.PASSES[name], block, pool, storage)
            columns = gpu_rounds.BatchedBlock(block, coded, np.arange(passages))
            add(name, lambda columns=columns: [columns.upper(part) for part in parts])
    if options.device.startswith("cuda") and find_spec("flash_maxsim"):
        add("flash-maxsim", flash(block, some, device))
    return {"shape": str(gpu_fused.fastest_shape(device, DIM)), **found}


def flash(block: Block, queries: list[canonical.RoundedQuery], device: str) -> Callable[[], object]:
    """Its scores of padded passages, as it wants them; the padding isn't counted as work."""
    from flash_maxsim import flash_maxsim_batched

    lengths = np.diff(block.offsets)
    padded = torch.zeros((len(lengths), int(lengths.max()), DIM), dtype=torch.float16)
    padded[torch.arange(padded.shape[1]) < torch.from_numpy(lengths)[:, None]] = torch.from_numpy(
        block.tokens
    )
    padded = padded.to(device)
    rows = torch.from_numpy(np.stack([query.rows for query in queries])).to(device)
    counts = torch.from_numpy(lengths.astype(np.int32)).to(device)
    return lambda: flash_maxsim_batched(rows, padded, doc_lengths=counts)


def measure(options: argparse.Namespace) -> dict[str, object]:
    on_gpu = options.device.startswith("cuda")
    source, queries = corpus(options)
    most = peak(options.device)
    ranks = np.arange(options.passages)
    flops = 2 * DIM * len(source.vectors) * options.rows * options.queries
    # The kernels come first: what they need compiled or measured isn't counted as a search's.
    by_kernel = kernels(options, source, queries, most)
    usable = gpu_fused.fastest_shape(choose.named(options.device), DIM) is not None
    searches: dict[str, object] = {}
    results = []
    for name in ("fused", "fp16") if usable else ("fp16",):
        numbers, scores, stats = search.search_exactly(
            queries,
            source,
            options.k,
            ranks,
            memory=int(options.memory * 2**30),
            device=options.device,
            passes=(name,),
        )
        searches[name] = {
            "seconds": stats.seconds,
            "of peak": flops / stats.seconds / most,
            "scored a query": stats.scored / options.queries,
            "cpu seconds": stats.cpu_seconds,
        }
        results.append((numbers, scores))
    sample = range(0, options.queries, max(1, options.queries // options.sample))
    right = reference.search_by_reference(
        [queries[i] for i in sample], source.vectors, source.offsets, options.k, ranks
    )
    return {
        "device": torch.cuda.get_device_name(options.device) if on_gpu else options.device,
        "peak tflops": most / 1e12,
        "passages": options.passages,
        "tokens": len(source.vectors),
        "queries": options.queries,
        "rows": options.rows,
        "k": options.k,
        "search": searches,
        "kernels": by_kernel,
        "peak gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "checked": len(sample),
        "right": all(
            numbers[sample].tolist() == right[0].tolist()
            and scores[sample].tobytes() == right[1].tobytes()
            and numbers.tolist() == results[0][0].tolist()
            for numbers, scores in results
        ),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--tokens", type=int, default=90, help="of a passage, on average")
    parser.add_argument("--queries", type=int, default=5_120)
    parser.add_argument("--rows", type=int, default=320, help="of a query")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--memory", type=float, default=8, help="GiB for a search")
    parser.add_argument("--kernel-passages", type=int, default=8_192)
    parser.add_argument("--kernel-queries", type=int, default=512)
    parser.add_argument("--sample", type=int, default=3, help="queries to check")
    parser.add_argument("--least", type=float, default=0.5, help="share of the peak to be reached")
    options = parser.parse_args(arguments)
    found = measure(options)
    print(json.dumps(found))
    reached = next(iter(found["search"].values()))["of peak"]
    return int(not found["right"] or reached < options.least)


if __name__ == "__main__":
    sys.exit(main())
