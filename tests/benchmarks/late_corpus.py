"""A synthetic late-interaction corpus, the same for the same arguments.

Passages belong to subjects. A passage draws its tokens from centroids of its subject, from a pool of
frequent tokens that all share, and from a few centroids of its own, each with noise. A query copies
tokens of one passage with noise, and adds tokens of the shared pool, of the subject and of nowhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DIM, SHARED, A_SUBJECT = 128, 600, 40


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def noisy(rng: np.random.Generator, base: np.ndarray, noise: float) -> np.ndarray:
    spread = noise / np.sqrt(DIM)
    return unit(base + spread * rng.standard_normal(base.shape, np.float32))


@dataclass
class Corpus:
    """Passages come as a stream; queries are about passages that have passed."""

    passages: int = 10_000
    seed: int = 20261122

    def __post_init__(self) -> None:
        rng = self._rng = np.random.default_rng(self.seed)
        self._shared = unit(rng.standard_normal((SHARED, DIM), np.float32))
        subjects = max(2, self.passages // 40)
        self._subjects = unit(rng.standard_normal((subjects, A_SUBJECT, DIM), np.float32))
        often = 1.0 / np.arange(1, SHARED + 1) ** 0.8
        self._often = often / often.sum()
        self._chosen: list[tuple[int, np.ndarray]] = []

    def matrices(self, keep: int = 200) -> Iterator[np.ndarray]:
        """(60 to 120 tokens x 128) float16 each; ``keep`` of them are kept to ask about."""
        rng = self._rng
        asked = set(rng.choice(self.passages, min(keep, self.passages), replace=False).tolist())
        for number in range(self.passages):
            n, subject = int(rng.integers(60, 121)), int(rng.integers(len(self._subjects)))
            own = unit(rng.standard_normal((6, DIM), np.float32))
            kind = rng.random(n)[:, None]
            frequent = self._shared[rng.choice(SHARED, n, p=self._often)]
            about = self._subjects[subject, rng.integers(0, A_SUBJECT, n)]
            base = np.where(kind < 0.35, frequent, about)
            base = np.where(kind < 0.85, base, own[rng.integers(0, 6, n)])
            tokens = noisy(rng, base, 0.6).astype(np.float16)
            if number in asked:
                self._chosen.append((subject, tokens))
            yield tokens

    def queries(self, rows: int = 100) -> list[np.ndarray]:
        """One (rows x 128) float32 matrix for each kept passage."""
        rng, found = self._rng, []
        parts = [int(rows * share) for share in (0.4, 0.2, 0.2)]
        for subject, tokens in self._chosen:
            copied = tokens.astype(np.float32)[rng.integers(0, len(tokens), parts[0])]
            about = self._subjects[subject, rng.integers(0, A_SUBJECT, parts[1])]
            frequent = self._shared[rng.choice(SHARED, parts[2], p=self._often)]
            near = noisy(rng, np.concatenate([copied, about, frequent]), 1.0)
            noise = unit(rng.standard_normal((rows - len(near), DIM), np.float32))
            found.append(rng.permutation(np.concatenate([near, noise])))
        return found
