"""Learning rates, a pure function of the step."""

import math

from m2kr.training.recipe import Optimiser


def lr_factor(optimiser: Optimiser, step: int, steps: int) -> float:
    """What a step's learning rate is of the peak.

    The warm-up rises linearly and reaches the peak with its last step; after it, ``linear`` and
    ``cosine`` fall so that the step after the last would have 0.

    Args:
        optimiser: The schedule and its warm-up.
        step: Steps done before this one.
        steps: Of the whole run.
    """
    if step < optimiser.warmup:
        return (step + 1) / optimiser.warmup
    if optimiser.schedule == "constant":
        return 1.0
    part = (step - optimiser.warmup) / max(1, steps - optimiser.warmup)
    if optimiser.schedule == "linear":
        return max(0.0, 1 - part)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
