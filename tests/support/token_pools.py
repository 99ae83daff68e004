"""Small pools with structure, as arrays and as token stores."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from m2kr.search.index.settings import Pool
from m2kr.search.store.reader import ArraySource, TokenStore
from m2kr.search.store.writer import TokenWriter

DIM = 32


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def passages(rng: np.random.Generator, lengths: list[int], subjects: int = 60) -> list[np.ndarray]:
    """Tokens near a few shared directions, (tokens x DIM) float16 each."""
    shared = unit(np.random.default_rng(99).normal(size=(subjects, DIM)))
    found = []
    for n in lengths:
        near = shared[rng.integers(0, subjects, n)] + 0.4 * rng.normal(size=(n, DIM)) / np.sqrt(DIM)
        found.append(unit(near).astype(np.float16) if n else np.zeros((0, DIM), np.float16))
    return found


def queries(rng: np.random.Generator, pool: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Noisy copies of tokens of one passage, and rows of nowhere."""
    filled = [tokens for tokens in pool if len(tokens)]
    found = []
    for _ in range(count):
        tokens = filled[rng.integers(len(filled))].astype(np.float32)
        near = tokens[rng.integers(0, len(tokens), 9)] + 0.5 * rng.normal(size=(9, DIM)) / np.sqrt(
            DIM
        )
        rows = unit(np.concatenate([near, rng.normal(size=(3, DIM))]))
        found.append(rows.astype(np.float32))
    return found


def ids(count: int) -> list[str]:
    return [f"p{number:05}" for number in range(count)]


def pool(matrices: list[np.ndarray], identity: str = "one") -> Pool:
    offsets = np.cumsum([0, *map(len, matrices)])
    source = ArraySource(np.concatenate(matrices), offsets)
    return Pool(source, pa.array(ids(len(matrices))), identity)


def store(folder: Path, matrices: list[np.ndarray], names: list[str] | None = None) -> TokenStore:
    with TokenWriter(folder, dim=DIM, meta={"model": "m"}) as writer:
        writer.append(names or ids(len(matrices)), matrices)
    return TokenStore.open(folder)
