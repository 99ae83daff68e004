"""Some seconds of real training steps, to know how fast this machine makes them."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from m2kr.errors import M2KRError
from m2kr.training.recipe import Recipe

_SLOWEST = 7e10  # products a second of two CPU cores
_MOST_BYTES = 8 << 30  # of weights that are loaded for a try


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Steps that were made.

    Attributes:
        device: Where.
        steps: How many after the first, which is not counted.
        batch: Queries of each.
        seconds: A step.
        flop_per_second: Products a second, counted as in the plan: at passages of full length, so that
            it says less of the machine than of this training.
    """

    device: str
    steps: int
    batch: int
    seconds: float
    flop_per_second: float


@dataclasses.dataclass(frozen=True, slots=True)
class NotMeasured:
    """Why no steps were made."""

    why: str


def measure_steps(
    recipe: Recipe,
    data: Path,
    images: Sequence[str | Path],
    device: str,
    query_flop: float,
    seconds: float,
) -> Measured | NotMeasured:
    """Makes steps of one micro-batch, smaller than the recipe's where that would take too long.

    Args:
        recipe: To be run.
        data: The data root.
        images: Image roots searched before the sources' own.
        device: ``auto``, ``cpu``, ``cuda``.
        query_flop: Products of a query with its passages.
        seconds: Limit for all of it but loading.
    """
    if not seconds:
        return NotMeasured("no steps were asked for")
    from m2kr.training.parallel import joined

    try:
        with joined("ddp", device) as team:
            return _measure(recipe, data, images, team.device, query_flop, seconds)
    except (M2KRError, MemoryError) as error:
        return NotMeasured(str(error).splitlines()[0])
