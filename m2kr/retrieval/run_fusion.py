"""Fusion: several rankings of the same queries made one, by ranks or by weighted scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.errors import InputError, UsageError
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

FusionMethod = Literal["zscore", "minmax", "rrf"]
_RRF = 60  # Cormack et al., 2009


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """Weights learned on a split; see `m2kr.evaluation.fusion_weights.learn_weights`.

    Attributes:
        values: One per run, in their order; they sum to 1.
        method: How scores are normalised before they are weighted.
        metric: What was maximised.
        score: The metric on that split, with these weights.
        equal_score: The same with equal weights.
        learned_on: ``source``, ``split``, ``edition`` and the split's ``queries`` and ``eval``
            fingerprints.
    """

    values: tuple[float, ...]
    method: FusionMethod
    metric: str
    score: float
    equal_score: float
    learned_on: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "metric": self.metric,
            "score": self.score,
            "equal_score": self.equal_score,
            "learned_on": dict(self.learned_on),
        }


def fuse(
    runs: Sequence[Run],
    *,
    method: FusionMethod = "rrf",
    weights: Sequence[float] | FusionWeights | None = None,
    name: str = "fusion",
) -> Run:
    """One run from several, whoever made them.

    Args:
        runs: At least two. A query that a run lacks, or ranks nothing for, gets nothing from it.
        method: ``rrf``: reciprocal ranks are added, 1 / (60 + rank). ``zscore``: scores, as standard
            deviations above the ranking's last one. ``minmax``: scores from 0 (the last) to 1 (the
            first). A passage that a run doesn't rank gets 0 from it.
        weights: One per run, none negative; all 1 if absent. Those of `learn_weights` bring their
            method.
        name: Name of the new run.

    Returns:
        A run whose metadata hold method, weights, and name and hash of each run.

    Raises:
        UsageError: fewer than two runs, wrong weights, or weights learned on the split that the runs
            were made for.
        InputError: the runs were made for different splits.

    Example:
        >>> one, two = Run.from_dict({"q": {"a": 9, "b": 8}}), Run.from_dict({"q": {"b": 0.7}})
        >>> fuse([one, two]).passage_ids("q")
        ['b', 'a']
    """
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} runs can't be fused", expected="two or more")
    learned = None
    if isinstance(weights, FusionWeights):
        learned, method, weights = weights, weights.method, weights.values
        _refuse_same(learned, runs)
    values = checked_weights(weights, len(runs), method)
    made_for = {r: run.recorded.get("fingerprints", {}) for r, run in enumerate(runs)}
    known = {str(prints["eval"]) for prints in made_for.values() if prints.get("eval")}
    if len(known) > 1:
        raise InputError(
            "the runs were made for different splits: "
            + ", ".join(
                f"'{run.name}' for {made_for[r].get('eval')}" for r, run in enumerate(runs)
            ),
            expected="runs of one split, whose eval fingerprints are equal",
        )
    queries = list(dict.fromkeys(query for run in runs for query in run.query_ids))
    complete = [
        run.with_empty([query for query in queries if query not in run]).select(queries)
        for run in runs
    ]
    fused = FusedRuns(complete, method).run(values, name)
    settings = {
        "method": method,
        "weights": list(values),
        "runs": [{"name": run.name, "sha256": run.sha256()} for run in runs],
        **({"learned": learned.as_dict()} if learned is not None else {}),
    }
    prints = next((made_for[r] for r in made_for if made_for[r].get("eval")), None)
    return fused.named(name, settings=settings, **({"fingerprints": prints} if prints else {}))


def checked_weights(weights: Sequence[float] | None, runs: int, method: str) -> tuple[float, ...]:
    """Weights of some runs; equal ones if there are none.

    Raises:
        UsageError: another number of them, a negative or infinite one, all 0, or no such method.
    """
    if method not in get_args(FusionMethod):
        raise UsageError(f"method={method}", expected="one of " + ", ".join(get_args(FusionMethod)))
    values = (1.0,) * runs if weights is None else tuple(map(float, weights))
    if len(values) != runs or not np.isfinite(values).all() or min(values) < 0 or not any(values):
        raise UsageError(
            f"weights is '{','.join(f'{value:g}' for value in values)}'",
            expected=f"{runs} numbers, none negative and not all 0: one per run",
            fix="--set weights=" + ",".join(["1"] * runs),
        )
    return values


def _refuse_same(learned: FusionWeights, runs: Sequence[Run]) -> None:
    """Refuses weights that were learned on the queries that they would be used on."""
    for run in runs:
        if run.recorded.get("fingerprints", {}).get("queries") == learned.learned_on["queries"]:
            raise UsageError(
                "the weights were learned on the split that the runs are of: "
                f"{learned.learned_on['source']}/{learned.learned_on['split']}",
                where=f"run '{run.name}'",
                expected="weights learned on another split, such as valid",
            )


def normalised(scores: "NDArray[np.float64]", method: str) -> "NDArray[np.float64]":
    """What each passage of a ranking (best first) adds to the total; the last one adds least.

    ``zscore``: its distance from the ranking's last score in standard deviations. ``minmax``: that
    distance as a share of the first one's. Where all scores are equal, both are 1. ``rrf``:
    1 / (60 + rank).
    """
    if method == "rrf":
        ranks = np.arange(1, len(scores) + 1, dtype=np.float64)
        return np.reciprocal(_RRF + ranks)
    if not len(scores):
        return np.ones(0)
    spread = float(scores.std() if method == "zscore" else scores[0] - scores[-1])
    # A spread of rounding errors is none.
    if spread <= 1e-12 * float(np.abs(scores).max()):
        return np.ones(len(scores))
    above: NDArray[np.float64] = (scores - scores[-1]) / spread
    return above


class FusedRuns:
    """Several runs of the same queries, in the same order, ready to be added up with any weights.

    Args:
        runs: Rankings.
        method: How their scores are normalised; see `normalised`.
        counts_for: Per run the queries that it counts for; all if absent.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        method: FusionMethod,
        counts_for: "Sequence[NDArray[np.bool_]] | None" = None,
    ) -> None:
        self._query_ids = runs[0].query_ids
        names = pa.chunked_array([run.vocabulary for run in runs]).unique()
        self._names = names
        keys: list[NDArray[np.int64]] = []
        self._added: list[NDArray[np.float64]] = []
        for number, run in enumerate(runs):
            parts = [normalised(scores, method) for _, _, scores in run.by_query()]
            added = np.concatenate(parts) if parts else np.empty(0)
            place = np.repeat(np.arange(len(run)), run.counts())
            own = pc.index_in(run.vocabulary, value_set=names).to_numpy(zero_copy_only=False)
            key = place.astype(np.int64) * len(names) + own[run.codes]
            if counts_for is not None:
                rows = counts_for[number][place]
                key, added = key[rows], added[rows]
            keys.append(key)
            self._added.append(added)
        self._pairs, self._back = np.unique(np.concatenate(keys), return_inverse=True)

    def run(self, weights: Sequence[float], name: str, k: int | None = None) -> Run:
        """The run whose scores are the weighted sums; with ``k``, its first passages alone."""
        # Runs are added in their order, so that the last bits do not depend on anything else.
        values = np.concatenate([w * a for w, a in zip(weights, self._added, strict=True)])
        total: NDArray[Any] = np.bincount(self._back, values, len(self._pairs))
        pairs = self._pairs
        if k is not None:
            kept = self._first(total, k)
            pairs, total = pairs[kept], total[kept]
        place, code = np.divmod(pairs, max(1, len(self._names)))
        counts = np.bincount(place, minlength=len(self._query_ids))
        ids = pa.DictionaryArray.from_arrays(code.astype(np.int32), self._names)
        run = Run(self._query_ids, counts, ids, total, name=name)
        return run if k is None else run.top(k)

    def _first(self, total: "NDArray[np.float64]", k: int) -> "NDArray[np.bool_]":
        """Which rows score at least as high as their query's k-th: of millions few are sorted then."""
        starts = np.arange(len(self._query_ids) + 1) * max(1, len(self._names))
        bounds = np.searchsorted(self._pairs, starts).tolist()
        kept = np.ones(len(total), bool)
        for start, end in pairwise(bounds):
            if end - start > k:
                scores = total[start:end]
                kept[start:end] = scores >= np.partition(scores, -k)[-k]
        return kept
