"""Late fusion: several retrievers' rankings of a query made one.

The default was chosen on the train split of ``mini`` (1,783 queries): standardised scores with equal
weights reach R@5 (hit rate) .44, reciprocal ranks .42 and the best single member .38. No weights or
depth that were tried, from 100 to the whole pool, do better by as much as .01.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr import retrievers
from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.retrieval.protocol import (
    Modalities,
    RetrieverBase,
    RunStats,
    modalities_of,
)
from m2kr.retrieval.run import Run
from m2kr.retrieval.search_split import index_pool, rank_queries, stats_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.retrieval.protocol import Retriever

Method = Literal["zscore", "rrf"]
_RRF = 60  # Cormack et al., 2009


class Fusion(RetrieverBase):
    """Ranks passages by what several retrievers, the members, say of them together.

    Per query only those members speak that it gives something to: one that reads text alone needs a
    question (the instruction says nothing about the image), and any needs a ranking of its own. A
    passage that a member does not rank gets what that member's last passage gets.

    Args:
        members: Retrievers, as for `m2kr.retrievers.create`.
        weights: One per member; all 1 by default.
        method: ``zscore``: a member's scores, in standard deviations of its ranking, are added.
            ``rrf``: reciprocal ranks are added, 1 / (60 + rank).
        depth: Passages taken of each member's ranking, or ``k`` if that is more.
        device: Passed on to the members that take it.

    Raises:
        UsageError: fewer than one member, a weight missing or negative, or ``fusion`` as a member.
        MissingError: something a member needs is not installed.
    """

    name = "fusion"

    def __init__(
        self,
        *,
        members: tuple[str, ...] = ("bm25", "dense_text", "image_concepts"),
        weights: tuple[float, ...] = (),
        method: Method = "zscore",
        depth: int = 500,
        device: str = "auto",
    ) -> None:
        weights = tuple(weights) or (1.0,) * len(members)
        if not members or len(set(members)) < len(members) or self.name in members:
            raise UsageError(
                f"members is '{','.join(members)}'",
                expected="other retrievers, each once",
                fix="--set members=bm25,dense_text",
            )
        if len(weights) != len(members) or min(weights) < 0:
            raise UsageError(
                f"weights is '{','.join(map(str, weights))}'",
                expected=f"{len(members)} numbers, none negative: one per member",
                fix="--set weights=" + ",".join(["1"] * len(members)),
            )
        if method not in get_args(Method) or depth < 1:
            raise UsageError(
                f"method={method}, depth={depth}",
                expected=f"method {' or '.join(get_args(Method))}; depth at least 1",
            )
        self._members: dict[str, Retriever] = {m: _member(m, device) for m in members}
        self._weights, self._method, self._depth = weights, method, depth

    @property
    def settings(self) -> Mapping[str, Any]:
        """The members' settings, and how they are put together."""
        return {
            "method": self._method,
            "depth": self._depth,
            "weights": dict(zip(self._members, self._weights, strict=True)),
            "members": {name: dict(member.settings) for name, member in self._members.items()},
        }

    @property
    def members(self) -> "tuple[Retriever, ...]":
        """Whom it asks, in their order."""
        return tuple(self._members.values())

    @property
    def modalities(self) -> Modalities:
        """All that any member reads."""
        declared = [modalities_of(member) for member in self._members.values()]
        return Modalities(
            query=frozenset().union(*(m.query for m in declared)),
            passage=frozenset().union(*(m.passage for m in declared)),
        )

    def run_stats(self) -> RunStats:
        """What the members took together; a row counts for each member that encodes or reuses it."""
        total, stats = RunStats(), map(stats_of, self._members.values())
        for member in stats:
            for stage in member.seconds:
                total.spend(stage, member.spent(stage))
            for mine, theirs in ((total.encoded, member.encoded), (total.reused, member.reused)):
                for stage, rows in theirs.items():
                    mine[stage] = mine.get(stage, 0) + rows
        return total

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Has every member index the pool, each in a folder of its own."""
        for place, member in enumerate(self._members.values()):
            folder = workdir / f"member{place}"
            folder.mkdir(parents=True, exist_ok=True)
            # How to search is each member's own.
            index_pool(member, passages, replace(self.run_context, workdir=folder, search=None))

    def search(self, queries: Queries, k: int) -> Run:
        """Has every member search, and adds up what they say."""
        has_question = np.array([bool(q.strip()) for q in queries.column("question")], bool)
        runs, counts_for = [], []
        for member in self._members.values():
            runs.append(rank_queries(member, queries, max(k, self._depth)))
            counts_for.append(has_question | (modalities_of(member).query != {"text"}))
        ids = queries.ids.to_pylist()
        added = [
            weight * np.concatenate([normalised(run.scores(q), self._method) for q in ids])
            for run, weight in zip(runs, self._weights, strict=True)
        ]
        return _sum_up([run.select(ids) for run in runs], added, counts_for, self.name).top(k)


def normalised(scores: "NDArray[np.float64]", method: str) -> "NDArray[np.float64]":
    """What each passage of a ranking (best first) adds to the total; the last one adds least.

    ``zscore``: its distance from the ranking's last score in standard deviations; where all scores
    are equal, 1. ``rrf``: 1 / (60 + rank).
    """
    if method == "rrf":
        ranks = np.arange(1, len(scores) + 1, dtype=np.float64)
        return np.reciprocal(_RRF + ranks)
    spread = float(scores.std()) if len(scores) else 0.0
    # A spread of rounding errors is none.
    if spread <= 1e-12 * float(np.abs(scores).max(initial=0.0)):
        return np.ones(len(scores))
    above: NDArray[np.float64] = (scores - scores[-1]) / spread
    return above


def _sum_up(
    runs: "Sequence[Run]",
    added: "Sequence[NDArray[np.float64]]",
    counts_for: "Sequence[NDArray[np.bool_]]",
    name: str,
) -> Run:
    """One run whose scores are the sums over the given runs, which have the same queries.

    Args:
        runs: Rankings.
        added: Per run what each of its rows adds.
        counts_for: Per run the queries that it counts for.
        name: Name of the result.
    """
    names = pa.chunked_array([run.vocabulary for run in runs]).unique()
    queries, codes, values = [], [], []
    for run, parts, counted in zip(runs, added, counts_for, strict=True):
        place = np.repeat(np.arange(len(run)), run.counts())
        rows = counted[place]
        own = pc.index_in(run.vocabulary, value_set=names).to_numpy(zero_copy_only=False)
        queries.append(place[rows])
        codes.append(own[run.codes[rows]])
        values.append(parts[rows])
    keys = np.concatenate(queries).astype(np.int64) * len(names) + np.concatenate(codes)
    pairs, back = np.unique(keys, return_inverse=True)
    # Members are added in their order, so that the last bits do not depend on anything else.
    total = np.bincount(back, np.concatenate(values), len(pairs))
    place, code = np.divmod(pairs, max(1, len(names)))
    counts = np.bincount(place, minlength=len(runs[0]))
    ids = pa.DictionaryArray.from_arrays(code.astype(np.int32), names)
    return Run(runs[0].query_ids, counts, ids, total, name=name)


def _member(spec: str, device: str) -> "Retriever":
    from m2kr.retrievers._settings import arguments

    takes_device = "device" in arguments(retrievers.find(spec))
    return retrievers.create(spec, {"device": device} if takes_device else {})


RETRIEVER = Fusion
