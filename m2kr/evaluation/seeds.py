"""One evaluation over several seeds of its index: mean and range of every metric.

The published indexer draws its sample unseeded, so its scores move between builds by some tenths of a
point. A reproduction says by how much: three indexes, the mean, the lowest and the highest score.
"""

from collections.abc import Sequence
from dataclasses import replace

from m2kr.evaluation.result import Result


def over_seeds(results: Sequence[Result]) -> Result:
    """The first result, with mean and range over all of them in ``search["seeds"]``.

    Args:
        results: Of one retriever on one split, whose searches differ in the index's seed alone.
    """
    first = results[0]
    told: dict[str, dict[str, float]] = {}
    for name in first.metrics:
        values = [each.value(name) for each in results]
        known = [value for value in values if value is not None]
        if known:
            told[name] = {
                "mean": sum(known) / len(known),
                "low": min(known),
                "high": max(known),
            }
    seeds = [(each.search or {})["training"]["seed"] for each in results]
    return replace(
        first,
        search={**(first.search or {}), "seeds": {"seeds": seeds, "metrics": told}},
        experiment={**first.experiment, "seeds": seeds},
    )
