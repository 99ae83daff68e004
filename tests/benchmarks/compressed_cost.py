"""What the compressed index costs and finds, in a process of its own.

    python compressed_cost.py STEP FOLDER PASSAGES

Prints one JSON object. Steps: ``write`` (the corpus into a token store), ``build2``, ``build4``, ``build8``
and ``build_official`` (CPU seconds, those of one plain pass, peak memory and bytes a token), ``search2``,
``search4``, ``search8`` (CPU seconds a query beside those of exact search, in turn; recall of the index, and
of its codes scored one and all), ``search_official`` (CPU seconds a query and recall of the published
protocol).
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from exact_cost import EXACT_QUERIES, enough
from late_corpus import Corpus

from m2kr.evaluation.result import peak_memory
from m2kr.ranking import id_ranks
from m2kr.search.dispatch import recall
from m2kr.search.exact import search
from m2kr.search.index import compressed, official, official_train
from m2kr.search.index.build import build_index
from m2kr.search.index.files import IndexFiles
from m2kr.search.index.settings import BuildSettings, pool_of
from m2kr.search.store.reader import ArraySource, TokenStore
from m2kr.search.store.writer import TokenWriter

K, REPEATS = 100, 3
CEILING_UP_TO = 10_000  # passages whose every code is scored


def write(folder: Path, passages: int) -> dict:
    corpus = Corpus(passages)
    with TokenWriter(folder / "store", dim=128) as writer:
        for number, tokens in enumerate(corpus.matrices(EXACT_QUERIES)):
            writer.append([f"{number:07}"], [tokens])
    np.save(folder / "queries.npy", np.stack(corpus.queries()))
    return {}


def plain_pass(tokens: int, centroids: int, dim: int) -> float:
    """CPU seconds of numpy's product of all tokens with all centroids, from a part of the tokens."""
    rng, part = np.random.default_rng(0), 2_048
    rows = rng.standard_normal((part, dim), dtype=np.float32)
    columns = rng.standard_normal((dim, centroids), dtype=np.float32)
    costs = []
    for _ in range(3):
        start = time.process_time()
        rows @ columns
        costs.append(time.process_time() - start)
    return statistics.median(costs) * tokens / part


def built(folder: Path, name: str, settings: BuildSettings) -> dict:
    store = TokenStore.open(folder / "store")
    start, cpu = time.perf_counter(), time.process_time()
    files = build_index(pool_of(store), folder / name, settings)
    return {
        "cpu": time.process_time() - cpu,
        "plain": plain_pass(files.tokens, files.header.centroids, store.dim),
        "seconds": time.perf_counter() - start,
        "centroids": files.header.centroids,
        "bytes a token": files.nbytes() / files.tokens,
        "peak MB": peak_memory() / 1e6,
    }


def build4(folder: Path, passages: int) -> dict:
    return built(folder, "4", BuildSettings(nbits=4))


def build2(folder: Path, passages: int) -> dict:
    return built(folder, "2", BuildSettings(nbits=2))


def build8(folder: Path, passages: int) -> dict:
    return built(folder, "8", BuildSettings(nbits=8))


def build_official(folder: Path, passages: int) -> dict:
    return built(folder, "official", official_train.official_build_settings())


def searched(folder: Path, name: str) -> dict:
    """Interleaved repeats with the same queries, threads and ranks on both sides."""
    store = TokenStore.open(folder / "store")
    queries = list(np.load(folder / "queries.npy"))
    ranks = id_ranks(store.ids())
    index = compressed.CompressedIndex(IndexFiles.open(folder / name))
    opened = peak_memory()
    compressed.search_compressed(queries[:4], index, K, ranks)
    _, _, done = search.search_exactly(queries[:4], store, K, ranks, memory=1 << 30)
    repeats = REPEATS if len(store) <= CEILING_UP_TO else 1
    timed = enough(queries, done) if repeats > 1 else queries
    costs: dict[str, list[float]] = {"exact": [], "compressed": []}
    for _ in range(repeats):
        true, _, done = search.search_exactly(timed, store, K, ranks, memory=1 << 30)
        costs["exact"].append(done.cpu_seconds / len(timed))
        found, _, stats = compressed.search_compressed(timed, index, K, ranks)
        costs["compressed"].append(stats.cpu_seconds / len(timed))
    if timed is not queries:
        true, _, _ = search.search_exactly(queries, store, K, ranks, memory=1 << 30)
        found, _, stats = compressed.search_compressed(queries, index, K, ranks)
    told = {
        **{side: statistics.median(each) for side, each in costs.items()},
        "spread": {side: [min(each), max(each)] for side, each in costs.items()},
        "left a query": {step: n / len(queries) for step, n in stats.left.items()},
        "peak MB after opening": opened / 1e6,
        **recalls("", found, true),
    }
    if len(store) <= CEILING_UP_TO:
        tokens = index.tokens(np.arange(len(store)))
        whole, _, _ = search.search_exactly(
            queries, ArraySource(tokens.tokens, tokens.offsets), K, ranks
        )
        told |= recalls("ceiling ", whole, true)
    return told


def recalls(what: str, found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {f"{what}R@{depth}": recall(found, true, depth) for depth in (10, K)}


def search4(folder: Path, passages: int) -> dict:
    return searched(folder, "4")


def search2(folder: Path, passages: int) -> dict:
    return searched(folder, "2")


def search8(folder: Path, passages: int) -> dict:
    return searched(folder, "8")


def search_official(folder: Path, passages: int) -> dict:
    store = TokenStore.open(folder / "store")
    queries = list(np.load(folder / "queries.npy"))[:40]
    ranks = id_ranks(store.ids())
    arrays = official.arrays_of(IndexFiles.open(folder / "official"))
    start = time.process_time()
    found, _ = official.search_official(queries, arrays, K, ranks)
    cpu = (time.process_time() - start) / len(queries)
    true, _, _ = search.search_exactly(queries, store, K, ranks)
    return {"cpu": cpu, **recalls("", found, true)}


if __name__ == "__main__":
    step, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    steps = (
        *(write, build2, build4, build8, build_official),
        *(search2, search4, search8, search_official),
    )
    print(json.dumps({f.__name__: f for f in steps}[step](where, count)))
