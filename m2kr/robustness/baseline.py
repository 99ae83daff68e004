"""What perturbed searches are compared with: a result, the split and retriever behind it, its search."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.evaluation.harness import MetricPlan
from m2kr.evaluation.paired_tests import paired_tests
from m2kr.evaluation.result import Result
from m2kr.evaluation.scoring import score_run
from m2kr.progress import SILENT, Progress
from m2kr.retrieval.perturb import PERTURBATIONS, Perturbation, perturb
from m2kr.retrieval.protocol import Retriever
from m2kr.retrieval.run_rows import Ties
from m2kr.retrieval.search_split import checked_run, declared_modalities, rank_queries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split
    from m2kr.retrieval.run import Run
    from m2kr.search.config import SearchConfig


@dataclass(frozen=True)
class Baseline:
    """An evaluation that is just over.

    Attributes:
        split: Its split.
        retriever: Its retriever, which has the split's passages indexed.
        result: Its result, with per-query scores and run.
        plan: Its metrics and depth.
        workdir: A folder for what is indexed otherwise.
        ties: Its order of equal scores.
        searching: How it searched, if it was told.
        progress: Told of each search.
    """

    split: "Split"
    retriever: Retriever
    result: Result
    plan: MetricPlan
    workdir: Path
    ties: Ties = "m2kr"
    searching: "SearchConfig | None" = None
    progress: Progress = SILENT

    @property
    def tested(self) -> list[str]:
        """The metrics that are tested: the primary one, and those that tables show."""
        names = dict.fromkeys((self.result.headline, *self.result.shown))
        return [name for name in names if name in self.result.metrics]

    def unread(self, change: Perturbation) -> str:
        """Why a change says nothing of the retriever; empty if it does."""
        if change.reads and change.reads not in declared_modalities(self.retriever).query:
            what = {"image": "images", "text": "texts"}[change.reads]
            return f"{self.retriever.name} reads no {what} of queries"
        return ""

    def changes(self, *, matters: bool) -> list[Perturbation]:
        """All ablations, or all bands."""
        return [change for change in PERTURBATIONS.values() if change.matters == matters]

    def ask(self, change: Perturbation) -> "Run":
        """The run of the changed queries, searched in what is indexed.

        Raises:
            UsageError: the split has nothing to change.
            M2KRError: the retriever failed.
        """
        changed = perturb(self.split, change.name)
        return rank_queries(self.retriever, changed.queries_view, self.plan.k)

    def compare(self, run: "Run", *, test: bool = False) -> dict[str, Any]:
        """What a run's scores differ by from the result's.

        Args:
            run: All queries, ranked.
            test: Adds ``low``, ``high`` and ``p`` to the metrics of `tested`.

        Returns:
            ``metrics``: by name ``value`` and ``delta``; ``flips``: by name the queries whose score is
            another; ``reranked``: queries whose ranking is another.
        """
        split, plan, before = self.split, self.plan, self.result
        run = checked_run(split, run, plan.k, ties=self.ties)[0]
        after = score_run(split, run, plan.metrics, plan.k, ties=self.ties)
        metrics, flips = {}, {}
        for name, scores in before.scores.items():
            now = after.per_query.get(name)
            value, old = after.metrics.get(name, {}).get("value"), before.value(name)
            if now is None or value is None or old is None:
                continue
            metrics[name] = {"value": value, "delta": value - old}
            if test and name in self.tested:
                metrics[name] |= _tested(now, scores)
            flips[name] = int((np.nan_to_num(now) != np.nan_to_num(scores)).sum())
        reranked = 0 if before.run is None else _reranked(before.run, run.ordered("m2kr"))
        return {"metrics": metrics, "flips": flips, "reranked": reranked}


def _reranked(one: "Run", other: "Run") -> int:
    """Queries whose passages, or their order, are not the same in two runs of the same queries."""
    import pyarrow.compute as pc

    known = pc.fill_null(pc.index_in(other.vocabulary, value_set=one.vocabulary), -1).to_numpy()
    codes = known[other.codes] if len(known) else other.codes
    ends, other_ends = one.offsets[1:], other.offsets[1:]
    return sum(
        not np.array_equal(one.codes[a:b], codes[c:d])
        for a, b, c, d in zip(one.offsets, ends, other.offsets, other_ends, strict=False)
    )


def _tested(now: "NDArray[np.float64]", before: "NDArray[np.float64]") -> dict[str, float]:
    """The paired 95 % interval of a difference, and the p value of its randomisation test."""
    both = np.stack([now, before], axis=1)
    both = both[~np.isnan(both).any(1)]
    if (both[:, 0] == both[:, 1]).all():
        return {"low": 0.0, "high": 0.0, "p": 1.0}
    tests = paired_tests([both])
    return {"low": float(tests.low[0]), "high": float(tests.high[0]), "p": float(tests.p[0])}
