"""Draws that depend on a seed and an id alone: the same row is drawn whatever else is there."""

import hashlib

import numpy as np
from numpy.typing import NDArray

_PART = 1 << 18


def keyed_hash(text: str, purpose: str, seed: int = 0) -> int:
    """A uniform 64-bit number for a string; ``purpose`` keeps several draws apart."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=_key(purpose, seed)).digest()
    return int.from_bytes(digest, "little")


def keyed_numbers(numbers: NDArray[np.int64], purpose: str, seed: int = 0) -> NDArray[np.uint64]:
    """A uniform 64-bit number for each of many whole numbers (SplitMix64 of the number and the key)."""
    start = np.uint64(int.from_bytes(_key(purpose, seed)[:8], "little"))
    mixed = np.empty(len(numbers), np.uint64)
    with np.errstate(over="ignore"):
        for at in range(0, len(numbers), _PART):  # temporaries of a part, not of all
            z = numbers[at : at + _PART].astype(np.uint64) + np.uint64(1)
            z = z * np.uint64(0x9E3779B97F4A7C15) + start
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed[at : at + _PART] = z ^ (z >> np.uint64(31))
    return mixed


def draw_places(keys: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """Places of the ``n`` smallest keys, ascending; all of them if there are no more."""
    if n >= len(keys):
        return np.arange(len(keys))
    if n <= 0:
        return np.empty(0, np.int64)
    last = np.partition(keys, n - 1)[n - 1]
    below = np.flatnonzero(keys < last)
    return np.sort(np.concatenate([below, np.flatnonzero(keys == last)[: n - len(below)]]))


def _key(purpose: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{purpose}\0{seed}".encode(), digest_size=16).digest()
