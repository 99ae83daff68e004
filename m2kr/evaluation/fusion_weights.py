"""Weights of a fusion, learned on one split to be used on another."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import CheckError, UsageError
from m2kr.evaluation.metrics import choose
from m2kr.evaluation.scoring import require_judgements, score_run
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_fusion import FusedRuns, FusionMethod, FusionWeights, checked_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split

_STEPS = 20  # of a weight's way from 0 to 1
_ROUNDS = 3


def learn_weights(
    split: "Split",
    runs: Sequence[Run],
    *,
    method: FusionMethod = "zscore",
    metric: str | None = None,
    counts_for: "Sequence[NDArray[np.bool_]] | None" = None,
) -> FusionWeights:
    """The weights that maximise a metric on a split; to be used on another.

    Each run's share goes from 0 to 1 in steps of .05 while the others keep their proportions, in turn,
    until a round changes nothing (three at most). Of shares that score alike the first one stays, and
    equal shares come first: nothing is random.

    Args:
        split: What to learn on, such as the source's ``valid``.
        runs: Rankings of its queries; all of them.
        method: How scores are normalised; see `m2kr.fuse`.
        metric: Name with cut-off; by default the source's headline metric.
        counts_for: Per run the queries that it counts for; all if absent.

    Raises:
        UsageError: an unknown metric or method, or a metric that no query has.
        MissingError: the split has no judgements.
        CheckError: a run lacks queries of the split, or ranks passages that its pool lacks.
    """
    require_judgements(split)
    name = metric or str(split.manifest.get("headline") or "hit_rate@5")
    deepest = max(int(run.counts().max(initial=1)) for run in runs)
    chosen = choose([name], deepest)
    if len(chosen) != 1:
        raise UsageError(f"'{name}' is {len(chosen)} metrics", expected="one, such as hit_rate@5")
    k = chosen[0].k or deepest
    queries = split.queries_view.ids.to_pylist()
    for run in runs:
        lacking = [query for query in queries if query not in run]
        if lacking:
            raise CheckError(
                f"the run lacks {len(lacking):,} queries (of {len(queries):,}), such as '{lacking[0]}'",
                where=f"run '{run.name}' on {split.label}",
                expected="each query of the split that the weights are learned on",
            )
    checked_weights(None, len(runs), method)
    fused = FusedRuns([run.select(queries) for run in runs], method, counts_for)
    plain = replace(split, manifest={**split.manifest, "groups": ()})  # nobody looks at groups here

    def score(weights: "NDArray[np.float64]") -> float:
        run = fused.run(weights.tolist(), "fusion", k)
        scores = score_run(plain, run, chosen, k).per_query[chosen[0].name]
        known = scores[~np.isnan(scores)]
        return float(known.mean()) if len(known) else math.nan

    best = np.full(len(runs), 1 / len(runs))
    equal_score = best_score = score(best)
    if np.isnan(best_score):
        raise UsageError(
            f"{chosen[0].name} is defined for no query, so no weights can be learned by it",
            where=split.label,
            expected="a metric of what the split is judged by, such as pseudo_recall@5 of answers",
        )
    for _ in range(_ROUNDS):
        before = best_score
        for place in range(len(runs)):
            others = np.delete(best, place)
            total = others.sum()
            others = others / total if total else np.full(len(others), 1 / max(1, len(others)))
            for share in np.linspace(0, 1, _STEPS + 1):
                weights = np.insert(others * (1 - share), place, share)
                value = score(weights)
                if value > best_score:
                    best, best_score = weights, value
        if best_score == before:
            break
    return FusionWeights(
        values=tuple(best.tolist()),
        method=method,
        metric=chosen[0].name,
        score=best_score,
        equal_score=equal_score,
        learned_on={
            "source": split.source,
            "split": split.split,
            "edition": split.edition,
            "queries": split.fingerprints["queries"],
            "eval": split.fingerprints["eval"],
        },
    )
