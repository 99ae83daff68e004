"""Some seconds of real training steps, to know how fast this machine makes them."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from m2kr.errors import M2KRError
from m2kr.training.recipe import Recipe

_ENOUGH = 10  # steps after the first
_SLOWEST = 7e10  # products a second of two CPU cores


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
        recipe: To be run; nothing of it is kept (``keep_frozen``).
        data: The data root.
        images: Image roots searched before the sources' own.
        device: ``auto``, ``cpu``, ``cuda``.
        query_flop: Products of a query with its passages.
        seconds: Limit for all of it but loading.
    """
    if not seconds:
        return NotMeasured("no steps were asked for")
    if query_flop / _SLOWEST > seconds and not _on_gpu(device):
        return NotMeasured(f"a query takes {query_flop / 1e12:,.0f} TFLOP, too much for a try")
    try:
        return _measure(recipe, data, images, device, query_flop, seconds)
    except (M2KRError, MemoryError) as error:
        return NotMeasured(str(error).splitlines()[0])


def _on_gpu(device: str) -> bool:
    from m2kr.search.exact.search import device_name

    return device_name(device) != "cpu"


def _measure(
    recipe: Recipe,
    data: Path,
    images: Sequence[str | Path],
    device: str,
    query_flop: float,
    seconds: float,
) -> Measured:
    import torch

    from m2kr.search.exact.search import device_name
    from m2kr.training.batch_encoder import BatchEncoder
    from m2kr.training.loader import Loader
    from m2kr.training.mixture import Mixture, open_splits
    from m2kr.training.objective import Objective
    from m2kr.training.optimiser import make_optimiser
    from m2kr.training.start import build_model
    from m2kr.training.trained_parts import set_trained

    place = torch.device(device_name(device))
    half = recipe.steps.precision == "bfloat16"
    dtype = torch.float64 if recipe.steps.precision == "float64" else torch.float32
    batch = recipe.steps.batch
    while place.type == "cpu" and batch > 1 and batch * query_flop / _SLOWEST > seconds / 2:
        batch //= 2
    steps = dataclasses.replace(recipe.steps, batch=batch, accumulate=1, chunk=None)
    negatives = dataclasses.replace(recipe.negatives, groups=1, across_ranks=False)
    tried = dataclasses.replace(recipe, steps=steps, negatives=negatives)
    mixture = Mixture(tried, open_splits(tried, data, images))
    with torch.random.fork_rng():
        model = build_model(tried.start, place, dtype)
        groups = set_trained(model, tried)
        loader = Loader(tried, mixture, model)
        encoder, objective = BatchEncoder(model, tried).train(), Objective(tried)
        optimiser = make_optimiser(groups, tried)
        spent: list[float] = []
        began = time.perf_counter()
        batches = loader.steps()
        try:
            for (micro,) in batches:
                with torch.autocast(place.type, torch.bfloat16, enabled=half):
                    objective.backward(encoder, micro.to(place), 1.0)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                if place.type == "cuda":
                    torch.cuda.synchronize(place)
                spent.append(time.perf_counter())
                if spent[-1] - began > seconds or len(spent) > _ENOUGH:
                    break
        finally:
            batches.close()
    # The first one warms up, and waits for its data.
    count = max(1, len(spent) - 1)
    each = (spent[-1] - (spent[0] if len(spent) > 1 else began)) / count
    return Measured(str(place), count, batch, each, batch * query_flop / each)
