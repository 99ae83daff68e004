"""How fast late-interaction search is on this machine, by its engines on random tokens, in seconds."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import missing_dependency
from m2kr.search.late import compressed, exact
from m2kr.search.late.index import format as index_format
from m2kr.search.late.index import funnel
from m2kr.search.late.index.files import IndexFiles, IndexShard, code_type
from m2kr.search.late.index.ivf import InvertedLists, offsets_of
from m2kr.search.late.index.scaled import ScaledCodec
from m2kr.search.late.sources import ArraySource
from m2kr.search.late.workers import workers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.search.late.planning.plan import Pool

_SEED = 7
_EXACT_TOKENS = 240_000
_EXACT_QUERIES = (2, 14)
_LONGEST = 96  # tokens of a passage; longer ones are calculated from these
_CENTROIDS = 1 << 15  # of a real index; more are calculated from these
_SMALL_CENTROIDS = 1 << 12
_NBITS = 4
_REPEATS = 3
_PATIENCE = 0.5  # seconds of one measurement's repeats


def calibrate(
    pool: "Pool", *, rows: int, k: int, threads: int | None = None
) -> tuple[dict[str, float], int]:
    """Seconds by mode, as in `plan.Plan`, and the threads that they hold for.

    On a CPU these are CPU seconds divided by threads: what others run meanwhile doesn't count.

    Raises:
        MissingError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_dependency("torch", "models", "a calibration") from error
    threads = threads or torch.get_num_threads()
    once, each = _exact(pool, rows, k, threads)
    found = {"exact pass": once, "exact": each, "compressed": _compressed(pool, rows, k, threads)}
    return found, threads


def _exact(pool: "Pool", rows: int, k: int, threads: int) -> tuple[float, float]:
    """Seconds of reading and coding the pool once, and of a query on it."""
    rng = np.random.default_rng(_SEED)
    length = max(1, min(_LONGEST, round(pool.tokens)))
    source = _source(rng, max(4, min(pool.passages, _EXACT_TOKENS // length)), length, pool.dim)
    few, many = _EXACT_QUERIES
    queries = [_query(rng, source.vectors, rows) for _ in range(many)]
    ranks = np.arange(len(source.offsets) - 1)

    def seconds(asked: int) -> float:
        stats = exact.search(queries[:asked], source, k, ranks, threads=threads)[2]
        return stats.cpu_seconds / threads if stats.device == "cpu" else stats.seconds

    seconds(few)  # which passes are fastest is found out once a process
    fewer, more = (_best(partial(seconds, asked)) for asked in (few, many))
    a_query = max(0.0, more - fewer) / (many - few)
    a_pass = max(0.0, fewer - few * a_query)
    # Both in proportion to the tokens. Scoring the best k, which no bigger pool makes longer, is a
    # part of it; bigger blocks, which fit no cache, outweigh that.
    factor = pool.all_tokens / len(source.vectors)
    return a_pass * factor, a_query * factor


def _source(rng: np.random.Generator, count: int, length: int, dim: int) -> ArraySource:
    """Passages of frequent tokens, of tokens of their subject, and of their own, with noise."""
    words = _unit(rng.standard_normal((600 + count, dim), np.float32))
    kind = rng.random((count, length))
    often = (600 * rng.random((count, length)) ** 3).astype(np.int64)
    subject = rng.integers(0, max(1, count // 40), (count, 1)) * 20
    about = 600 + (subject + rng.integers(0, 20, (count, length))) % count
    own = 600 + (np.arange(count)[:, None] * 7919) % count + np.zeros((1, length), np.int64)
    chosen = np.where(kind < 0.35, often, np.where(kind < 0.85, about, own))
    vectors = words[chosen.reshape(-1)]
    vectors += rng.standard_normal(vectors.shape, np.float32) * np.float32(0.6 / dim**0.5)
    return ArraySource(_unit(vectors).astype(np.float16), np.arange(count + 1) * length)


def _query(
    rng: np.random.Generator, vectors: "NDArray[np.floating]", rows: int
) -> "NDArray[np.float32]":
    """Noisy copies of a passage's tokens and of ones from anywhere, and nothing but noise."""
    place = int(rng.integers(len(vectors)))
    near = (place + rng.integers(0, 64, rows)) % len(vectors)
    anywhere = rng.integers(0, len(vectors), rows)
    kind = rng.random((rows, 1))
    found = np.where(kind < 0.4, vectors[near], vectors[anywhere]).astype(np.float32)
    found[kind[:, 0] > 0.8] = 0
    noise = rng.standard_normal(found.shape, np.float32) / np.float32(found.shape[1] ** 0.5)
    return _unit(found + noise)


def _unit(x: "NDArray[np.float32]") -> "NDArray[np.float32]":
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x / np.maximum(lengths, 1e-12), np.float32)


def _compressed(pool: "Pool", rows: int, k: int, threads: int) -> float:
    """Seconds of a query: products with centroids, look-ups in every shard, and all the rest."""
    import torch

    from m2kr.search.late.index.kmeans import product_dtype
    from m2kr.search.late.planning.plan import centroids_of

    rng = np.random.default_rng(_SEED)
    settings = compressed.SearchSettings.suited(k, pool.passages)
    centroids = centroids_of(pool)
    query = _unit(rng.standard_normal((rows, pool.dim), np.float32)).astype(np.float16)

    tried = min(centroids, _CENTROIDS)
    matrix = torch.from_numpy(_unit(rng.standard_normal((tried, pool.dim), np.float32)))
    matrix = matrix.to(product_dtype())

    def look() -> None:
        funnel.cells(funnel.look_at(matrix, 1.0, query), settings.probes)

    look_seconds = _each(look, threads) / tried
    found = look_seconds * centroids
    if pool.passages > settings.candidates:
        found += _look_ups(rng, pool, rows, settings.probes, centroids, threads)
    index, length = _index(rng, pool, settings)
    ranks = np.arange(len(index))
    queries = [query] * (2 * threads)

    def search() -> float:
        _, _, stats = compressed.search(
            queries, index, k, ranks, settings=settings, threads=threads
        )
        return stats.cpu_seconds / threads

    search()
    rest = _best(search) / len(queries)
    rest -= look_seconds * len(index.codec.centroids)
    return found + max(0.0, rest) * max(1.0, pool.tokens / length)


def _look_ups(
    rng: np.random.Generator, pool: "Pool", rows: int, probes: int, centroids: int, threads: int
) -> float:
    """Seconds of a query's look-ups in all shards, from those in one of true size."""
    passages = min(pool.passages, index_format.MOST_PASSAGES)
    counts = rng.poisson(passages * pool.tokens / centroids, centroids)
    documents = rng.integers(0, passages, int(counts.sum())).astype(np.uint16)
    lists = InvertedLists(documents, offsets_of(counts))
    pairs = rows * probes
    chosen = funnel.Cells(
        rng.integers(0, rows, pairs),
        rng.integers(0, centroids, pairs),
        np.sort(rng.integers(1, 100, pairs)).astype(np.uint8),
        rows,
    )
    return _each(lambda: funnel.probe(chosen, lists, passages), threads) * pool.passages / passages


def _index(
    rng: np.random.Generator, pool: "Pool", settings: compressed.SearchSettings
) -> tuple[compressed.CompressedIndex, int]:
    """An index in memory, just big enough for all steps of a search, and its passages' length."""
    from isal.isal_zlib import crc32

    length = max(1, min(_LONGEST, round(pool.tokens)))
    passages = max(1, min(pool.passages, settings.candidates * 5 // 4))
    lengths = np.full(passages, length)
    tokens = passages * length
    count = min(_SMALL_CENTROIDS, tokens)
    codec = ScaledCodec(_unit(rng.standard_normal((count, pool.dim), np.float32)), _NBITS)
    codes: NDArray[np.integer] = rng.integers(0, count, tokens).astype(code_type(count))
    packed = rng.integers(0, 256, (tokens, codec.packed_bytes), np.uint8)
    crcs = np.array([crc32(part.data) for part in packed.reshape(passages, -1)], np.uint32)
    told = index_format.Settings("compressed", pool.dim, _NBITS, count, {})
    record = index_format.Shard(0, passages, tokens, "", 0, "", {})
    lists = InvertedLists.of(codes, lengths, count)
    files = IndexFiles(
        Path(),
        told,
        codec,
        [IndexShard(record, lists, packed, crcs)],
        codes,
        np.full(tokens, 0.01, np.float16),
        offsets_of(lengths),
        np.array([0, passages]),
    )
    return compressed.CompressedIndex(files), length


def _each(function: Callable[[], object], threads: int) -> float:
    """Seconds a call, where every thread is busy with such calls; the best of some."""
    with workers(threads) as pool:

        def measured() -> float:
            started = time.process_time()
            pool.map(lambda _: function(), range(threads))
            return (time.process_time() - started) / threads / threads

        return _best(measured)


def _best(measured: Callable[[], float]) -> float:
    """The least of some measurements, of fewer where they take long."""
    started = time.perf_counter()
    least = measured()
    for _ in range(_REPEATS - 1):
        if time.perf_counter() - started > _PATIENCE:
            break
        least = min(least, measured())
    return least
