"""What exact MaxSim search costs, in a process of its own.

    python exact_cost.py STEP FOLDER PASSAGES

Prints one JSON object. Steps: ``write`` (the corpus into a token store), ``compare`` (CPU seconds a
query of exact search, in a batch, alone and of ten best, of packed float32 products in torch and of padded
ones, in turn), ``shapes`` (of queries with few rows and many), ``budget``
(memory of a search with a budget a tenth of the store), ``dense_file`` and ``dense_budget`` (the
same for dense search).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from late_corpus import Corpus

from m2kr.evaluation.result import peak_memory
from m2kr.search.exact import search
from m2kr.search.exact.canonical import rounded_queries
from m2kr.search.exact.cpu_fused import kernel, kernel_state
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.writer import TokenWriter

K, REPEATS = 100, 3
EXACT_QUERIES, PLAIN_QUERIES, PACKED_QUERIES, PADDED_QUERIES = 200, 40, 4, 1


def write(folder: Path, passages: int) -> dict:
    corpus = Corpus(passages)
    with TokenWriter(folder / "store", dim=128) as writer:
        for number, tokens in enumerate(corpus.matrices(EXACT_QUERIES)):
            writer.append([f"{number:07}"], [tokens])
    np.save(folder / "queries.npy", np.stack(corpus.queries()))
    return {}


def packed(
    tokens: torch.Tensor, offsets: np.ndarray, queries: list[torch.Tensor]
) -> list[np.ndarray]:
    """The plain way without padding: float32 products in slices, maxima by `reduceat`."""
    found = []
    for query in queries:
        parts = []
        for first in range(0, len(offsets) - 1, 100):
            span = offsets[first : first + 101]
            products = (query @ tokens[span[0] : span[-1]].T).numpy()
            parts.append(np.maximum.reduceat(products, span[:-1] - span[0], axis=1).sum(0))
        scores = np.concatenate(parts)
        best = np.argpartition(-scores, K)[:K]
        found.append(best[np.argsort(-scores[best], kind="stable")])
    return found


def padded(
    tokens: torch.Tensor, mask: torch.Tensor, queries: list[torch.Tensor]
) -> list[torch.Tensor]:
    """The usual way: every passage as long as the longest, masked."""
    found = []
    for query in queries:
        parts = []
        for first in range(0, len(tokens), 1000):
            products = torch.einsum("qd,nld->nql", query, tokens[first : first + 1000])
            products.masked_fill_(mask[first : first + 1000, None], -9999.0)
            parts.append(products.amax(2).sum(1))
        found.append(torch.topk(torch.cat(parts), K).indices)
    return found


def cpu_seconds(function: Callable[[], object], queries: int) -> float:
    start = time.process_time()
    function()
    return (time.process_time() - start) / queries


def enough(queries: list[np.ndarray], stats: search.SearchStats) -> list[np.ndarray]:
    """All, or where float32 is the fastest product some: it has no coding that queries share."""
    return queries if stats.passes != ("float32",) else queries[:PLAIN_QUERIES]


def compare(folder: Path, passages: int) -> dict:
    # One thread each: several wait for each other, and share a core's units where they are twins.
    torch.set_num_threads(1)
    store = TokenStore.open(folder / "store")
    queries = list(np.load(folder / "queries.npy"))
    rows = [torch.from_numpy(q.astype(np.float16)).float() for q in queries[:PACKED_QUERIES]]
    tokens = torch.from_numpy(store.read(0, passages)).float()
    longest = int(store.lengths.max())
    wide = torch.zeros((passages, longest, store.dim))
    mask = torch.arange(longest) >= torch.from_numpy(store.lengths)[:, None]
    wide[~mask] = tokens
    names = ("exact", "alone", "ten", "packed", "padded")
    costs: dict[str, list[float]] = {name: [] for name in names}
    _, _, stats = search.search_exactly(queries[:4], store, K, memory=1 << 30)
    queries = enough(queries, stats)
    few = rows[:PADDED_QUERIES]
    for _ in range(REPEATS):
        numbers, _, stats = search.search_exactly(queries, store, K, memory=1 << 30, threads=1)
        costs["exact"].append(stats.cpu_seconds / len(queries))
        for name, count, k in (("alone", 1, K), ("ten", len(queries), 10)):
            one = search.search_exactly(queries[:count], store, k, memory=1 << 30, threads=1)[2]
            costs[name].append(one.cpu_seconds / count)
        for name, run, count in (
            ("packed", lambda: packed(tokens, store.offsets, rows), PACKED_QUERIES),
            ("padded", lambda: padded(wide, mask, few), PADDED_QUERIES),
        ):
            costs[name].append(cpu_seconds(run, count))
    plain = packed(tokens, store.offsets, rows)
    agreed = np.mean(
        [len({*a.tolist()} & {*b.tolist()}) for a, b in zip(numbers, plain, strict=False)]
    )
    return {
        **{name: statistics.median(found) for name, found in costs.items()},
        "spread": {name: [min(found), max(found)] for name, found in costs.items()},
        "kernel": kernel_state(),
        "peak": in_cache(store, queries),
        "passes": stats.passes,
        "left a query": {name: n / len(queries) for name, n in stats.left.items()},
        "scored a query": stats.scored / len(queries),
        "seconds a query": stats.seconds / len(queries),
        "of packed's best 100": float(agreed),
    }


def in_cache(store: TokenStore, queries: list[np.ndarray]) -> float | None:
    """What the kernel would take for a query if all codes and rows were in the cache; None without one."""
    one = kernel()
    if one is None:
        return None
    count = 50
    codes = one.code(store.read(0, count), store.offsets[: count + 1])
    rows = one.rows(rounded_queries(queries[:8], store.dim), store.dim, one.bits)
    seconds = min(cpu_seconds(lambda: one.sums(codes, rows), 8) for _ in range(20))
    return seconds * store.tokens / int(store.offsets[count])


def shapes(folder: Path, passages: int) -> dict:
    """Of queries with 32, 100 and 320 rows: CPU seconds in a batch and alone, and what the passes left."""
    torch.set_num_threads(1)
    store = TokenStore.open(folder / "store")
    queries = list(np.load(folder / "queries.npy"))[:24]
    found: dict[str, dict] = {"passages": {"": passages}}
    for rows in (32, 100, 320):
        asked = [
            np.concatenate([queries[(i + n) % 24] for n in range(4)])[:rows] for i in range(20)
        ]
        costs: dict[int, list[float]] = {len(asked): [], 1: []}
        for _ in range(1 + REPEATS):
            for count in costs:
                stats = search.search_exactly(asked[:count], store, K, threads=1)[2]
                costs[count].append(stats.cpu_seconds / count)
                left = {name: n / count for name, n in stats.left.items()}
        batch, alone = (statistics.median(seconds[1:]) for seconds in costs.values())
        found[f"{rows} rows"] = {"batch": batch, "alone": alone, **left}
    return found


def budget(folder: Path, passages: int) -> dict:
    store = TokenStore.open(folder / "store")
    memory = store.tokens * store.dim * 2 // 10
    before = peak_memory()
    _, _, stats = search.search_exactly(
        list(np.load(folder / "queries.npy")[:8]), store, K, memory=memory
    )
    return {"memory": memory, "over": peak_memory() - before, "read": stats.bytes_read}


def dense_file(folder: Path, rows: int) -> dict:
    array = np.lib.format.open_memmap(folder / "dense.npy", "w+", np.float32, (rows, 256))
    rng = np.random.default_rng(0)
    for first in range(0, rows, 10_000):
        part = array[first : first + 10_000]
        part[:] = rng.standard_normal(part.shape, np.float32)
    array.flush()
    return {}


def dense_budget(folder: Path, rows: int) -> dict:
    from m2kr.search.exact import dense

    passages = np.load(folder / "dense.npy", mmap_mode="r")
    memory = passages.nbytes // 10
    queries = np.random.default_rng(1).standard_normal((200, 256), np.float32)
    before = peak_memory()
    dense.search_dense(queries, passages, K, np.arange(rows), memory=memory)
    return {"memory": memory, "over": peak_memory() - before}


if __name__ == "__main__":
    step, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    steps = (write, compare, shapes, budget, dense_file, dense_budget)
    print(json.dumps({f.__name__: f for f in steps}[step](where, count)))
