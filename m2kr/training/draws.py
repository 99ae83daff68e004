"""Random numbers that depend on nothing but the seed, what they are for, and a number of two."""

from collections.abc import Callable
from enum import IntEnum

import numpy as np

_WORD = (1 << 64) - 1
_TRIES = 64  # for each passage, before the whole corpus is looked at


class Purpose(IntEnum):
    """What numbers are drawn for; the value decides them, so it stays."""

    ORDER = 1
    ROWS = 2
    TAKE = 3
    VISIT = 4
    LABELS = 5


def generator(seed: int, purpose: Purpose, first: int = 0, second: int = 0) -> np.random.Generator:
    """The numbers drawn for something, such as visit ``first``: the same wherever they are asked for.

    Philox's counter begins at the numbers given, 2^128 apart, so that no two streams overlap.
    """
    key = np.array([seed & _WORD, purpose], np.uint64)
    counter = np.array([0, 0, first & _WORD, second & _WORD], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def draw_uniform(
    rng: np.random.Generator, size: int, count: int, refused: Callable[[int], bool]
) -> list[int]:
    """Some of ``range(size)``, each with the same chance, none twice, none that is refused.

    A draw takes constant time, whatever the size, unless nearly all are refused.

    Returns:
        ``count`` numbers, or fewer if there are no more.
    """
    drawn: list[int] = []
    for _ in range(_TRIES * count):
        if len(drawn) == count:
            return drawn
        place = int(rng.integers(size))
        if place not in drawn and not refused(place):
            drawn.append(place)
    for place in map(int, rng.permutation(size)):
        if len(drawn) == count:
            break
        if place not in drawn and not refused(place):
            drawn.append(place)
    return drawn
