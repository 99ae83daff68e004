"""Hostile pools and queries for exact search."""

import numpy as np

DIM = 16


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def ordinary(rng, lengths):
    return [unit(rng.normal(size=(n, DIM))).astype(np.float16) for n in lengths]


def duplicates(rng, lengths):
    """Few different passages, many times."""
    base = ordinary(rng, lengths[:4])
    return [base[i] for i in rng.integers(0, len(base), len(lengths))]


def near_ties(rng, lengths):
    """One passage, with one number of it moved by float16's smallest step: scores differ by 1e-7 or less."""
    base = unit(rng.normal(size=(max(1, int(lengths[0])), DIM))).astype(np.float16)
    base[:, 3] = np.float16(2e-7)
    found = []
    for _ in lengths:
        copy = base.copy()
        copy[rng.integers(len(base)), 3] = np.float16(6e-8) * rng.integers(1, 5)
        found.append(copy)
    return found


def negative(rng, lengths):
    """Nothing but negative products, with `positive` queries."""
    return [-np.abs(unit(rng.normal(size=(n, DIM)))).astype(np.float16) for n in lengths]


def holes(rng, lengths):
    """Zero tokens among the others, passages of nothing else, and ones without tokens."""
    found = ordinary(rng, lengths)
    for tokens in found:
        tokens[rng.random(len(tokens)) < rng.choice([0.0, 0.3, 1.0])] = 0
    return found


def huge(rng, lengths):
    """Beyond where BLAS gives the canonical bits; some products are 1e9."""
    scales = rng.choice([1.0, 100.0, 30000.0], len(lengths))
    return [
        (tokens * scale).astype(np.float16)
        for tokens, scale in zip(ordinary(rng, lengths), scales, strict=True)
    ]


def tiny(rng, lengths):
    """Subnormal float16 numbers, and zeros."""
    return [(rng.integers(-3, 4, (n, DIM)) * 2.0**-24).astype(np.float16) for n in lengths]


def coarse(rng, lengths):
    """Numbers that bfloat16 and int8 round as badly as can be, all of a token the same way."""
    middle = 0.25 + 2.0**-10  # half-way between two bfloat16 numbers
    return [np.full((n, DIM), middle + rng.choice([-1, 1]) * 2.0**-12, np.float16) for n in lengths]


KINDS = [ordinary, duplicates, near_ties, negative, holes, huge, tiny, coarse]


def queries(rng, pool, count):
    """Rows near the pool's tokens, random ones, positive ones, zero ones."""
    found = []
    for _ in range(count):
        rows = unit(rng.normal(size=(int(rng.integers(1, 9)), DIM)))
        kind = rng.integers(4)
        if kind == 0:
            tokens = pool[rng.integers(len(pool))].astype(np.float64)
            rows[: len(tokens)] = (unit(tokens) + 0.1 * unit(rng.normal(size=tokens.shape)))[
                : len(rows)
            ]
        elif kind == 1:
            rows = np.abs(rows)
        elif kind == 2:
            rows[rng.random(len(rows)) < 0.5] = 0
        found.append(rows.astype(np.float32))
    return found


def hostile(rng, kind, count, longest):
    """A pool of a kind with empty passages in it, ranks with ties in them or not, and five queries."""
    pool = kind(rng, rng.integers(1, longest + 1, count))
    for number in np.flatnonzero(rng.random(count) < 0.1):
        pool[number] = pool[number][:0]
    ranks = rng.integers(0, count, count) if rng.random() < 0.3 else rng.permutation(count)
    ranks = np.unique(ranks, return_inverse=True)[1]
    return pool, ranks, queries(rng, pool, 5)
