"""One retriever under test: made anew, run on a corpus, its runs compared."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.conformance.corpus import Corpus, corpus
from m2kr.progress import SILENT, Progress
from m2kr.retrieval.protocol import Modalities, RunContext
from m2kr.retrieval.search_split import declared_modalities, index_pool, rank_queries
from m2kr.retrievers._memo import MEMO

if TYPE_CHECKING:
    import numpy as np

    from m2kr.retrieval.protocol import Retriever
    from m2kr.retrieval.run import Run

DEPTH = 100  # below the whole corpus
# Scores are the same within this share of a query's largest: what other batches round otherwise.
TOLERANCE = 1e-3


class Failed(Exception):
    """A check found something wrong; says what."""


class Differs(Failed):
    """Two runs differ that should not, which tells nothing of a retriever that doesn't repeat itself.

    Attributes:
        exact: Whether a difference below `TOLERANCE` may be what it is.
    """

    def __init__(self, what: str, *, exact: bool = False) -> None:
        super().__init__(what)
        self.exact = exact


class NotApplicable(Exception):
    """A check has nothing to look at; says why."""


@dataclass
class Bench:
    """A retriever under test.

    Attributes:
        make: Makes a fresh one, with some settings changed.
        scratch: A folder for all that is written meanwhile.
        first: The one that was made first; see `kept`.
        settings: Names and values of the settings that can be given anew.
        shares: Whether that one may serve again; to find out takes two runs, so not for a few checks.
    """

    make: "Callable[..., Retriever]"
    scratch: Path
    first: "Retriever"
    settings: Mapping[str, Any] = field(default_factory=dict)
    shares: bool = True
    _folders: "count[int]" = field(default_factory=count)
    _raised: bool = False

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus as it is."""
        return corpus(self.folder("pictures"))

    @cached_property
    def reads(self) -> Modalities:
        """What the retriever declares to read."""
        return declared_modalities(self.first)

    @cached_property
    def baseline(self) -> "Run":
        """The run of a fresh retriever on the corpus."""
        return self.run(self.corpus, retriever=self.first)

    @cached_property
    def repeated(self) -> "tuple[Run, Run, Run]":
        """The run of a fresh retriever, of the same once more, and of another fresh one."""
        retriever = self.fresh()
        run = self.run(self.corpus, retriever=retriever)
        return run, self.ask(retriever, self.corpus), self.run(self.corpus, retriever=self.fresh())

    def repeats(self, *, exact: bool) -> bool:
        """Whether the same search gives the same, to the bit or but for rounding."""
        run, *others = self.repeated
        return not any(differs(run, other, exact=exact) for other in others)

    @cached_property
    def _reusable(self) -> bool:
        """Whether one that has searched a corpus searches another as a fresh one does."""
        other = self.corpus.with_other_texts().with_other_questions()
        other = replace(other, passages=other.passages[2:9])
        _ = self.baseline  # the corpus that it has searched
        try:
            run = self.run(other, retriever=self.first)
            return not differs(run, self.run(other, retriever=self.make()))
        except Exception:  # noqa: BLE001 - whatever it raises, fresh ones may not
            return False

    def kept(self) -> "Retriever":
        """The first one again, whose model is loaded; a fresh one where that is something else."""
        if not (self.shares and self._reusable):
            return self.make()
        if self._raised:  # nobody knows what state it was left in
            self.first, self._raised = self.make(), False
        return self.first

    def folder(self, name: str) -> Path:
        """A new folder."""
        path = self.scratch / f"{next(self._folders)}-{name}"
        path.mkdir(parents=True)
        return path

    def fresh(self, **changes: Any) -> "Retriever":
        """A fresh retriever in a process that has encoded nothing."""
        MEMO.clear()
        return self.make(**changes)

    def run(
        self,
        over: Corpus,
        k: int = DEPTH,
        *,
        retriever: "Retriever | None" = None,
        workdir: Path | None = None,
        cache: Path | None = None,
        progress: Progress = SILENT,
    ) -> "Run":
        """What a retriever ranks for a corpus's queries; the one of `kept`, unless one is given.

        Raises:
            Failed: queries are missing or unknown, passages are unknown, or a ranking is too long.
        """
        asked = self.kept() if retriever is None else retriever
        passages, queries = over.records()
        folder = self.folder("work") if workdir is None else workdir
        context = RunContext(
            folder, cache, progress=progress, fingerprints={"pool": passages.fingerprint}
        )
        try:
            index_pool(asked, passages, context)
            run = rank_queries(asked, queries, k)
        except Exception:
            self._raised = self._raised or asked is self.first
            raise
        require_complete(run, over, k)
        return run

    def ask(self, retriever: "Retriever", over: Corpus, k: int = DEPTH) -> "Run":
        """What a retriever that has indexed ranks for a corpus's queries."""
        run = rank_queries(retriever, over.records()[1], k)
        require_complete(run, over, k)
        return run


def require_complete(run: "Run", over: Corpus, k: int) -> None:
    """Refuses a run that isn't one of this corpus's queries and passages, at most k deep.

    Raises:
        Failed: says which query or passage.
    """
    asked, known = [row["question_id"] for row in over.queries], set(run.query_ids)
    if lacking := [query for query in asked if query not in known]:
        raise Failed(
            f"the run lacks {len(lacking)} of {len(asked)} queries, such as {lacking[0]!r:.60}"
        )
    if unknown := known - set(asked):
        raise Failed(f"the run has a query that was not asked: {min(unknown)!r:.60}")
    pool = {row["passage_id"] for row in over.passages}
    if unknown := set(run.vocabulary.to_pylist()) - pool:
        raise Failed(f"the run has a passage that was not indexed: {min(unknown)!r:.60}")
    if (deepest := int(run.counts().max(initial=0))) > k:
        raise Failed(f"a ranking has {deepest} passages, and k is {k}")


def require_alike(one: "Run", other: "Run", where: str, *, exact: bool = False) -> str:
    """Refuses two runs that differ by more than rounding, in the queries that both have.

    Returns:
        By how much scores differ, if they do.

    Raises:
        Differs: says which query and passage differ first.
    """
    most = 0.0
    for query in one.query_ids:
        if query not in other:
            continue
        first, second = scores_of(one, query), scores_of(other, query)
        if only := set(first) ^ set(second):
            raise Differs(f"{where}: query {query!r:.40} ranks {min(only)!r:.40} in one case alone")
        largest = max([1e-9, *map(abs, first.values()), *map(abs, second.values())])
        for passage, score in first.items():
            share = abs(score - second[passage]) / largest
            most = max(most, share)
            if (exact and share) or not share <= TOLERANCE:
                raise Differs(
                    f"{where}: for query {query!r:.40}, passage {passage!r:.40} scores {score:.6g} "
                    f"in one case and {second[passage]:.6g} in the other"
                )
    return f"scores differ by up to {_power(most)} of the largest" if most else ""


def differs(one: "Run", other: "Run", *, exact: bool = False) -> bool:
    """Whether two runs differ by more than rounding, or at all."""
    try:
        require_alike(one, other, "", exact=exact)
    except Differs:
        return True
    return False


def renamed(run: "Run", passages: Mapping[str, str], queries: Mapping[str, str]) -> "Run":
    """A run under other ids."""
    from m2kr.retrieval.run import Run

    return Run.from_dict(
        {
            queries[query]: {passages[p]: s for p, s in scores_of(run, query).items()}
            for query in run.query_ids
        },
        name=run.name,
    )


def scores_of(run: "Run", query: str) -> dict[str, float]:
    """A query's scores by passage."""
    scores: np.ndarray = run.scores(query)
    return dict(zip(run.passage_ids(query), scores.tolist(), strict=True))


def _power(share: float) -> str:
    return f"1e{math.ceil(math.log10(share))}"
