"""Late fusion: several retrievers' rankings of a query, or runs, made one.

The default was chosen on the train split of ``mini`` (1,783 queries): standardised scores with equal
weights reach R@5 (hit rate) .44, reciprocal ranks .42 and the best single member .38. No weights or
depth that were tried, from 100 to the whole pool, do better by as much as .01.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from m2kr import retrievers
from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.retrieval.protocol import (
    Modalities,
    RetrieverBase,
    RunContext,
    RunStats,
    modalities_of,
)
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_fusion import FusedRuns, FusionMethod, FusionWeights, checked_weights
from m2kr.retrieval.search_split import index_pool, rank_queries, require_queries, stats_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split
    from m2kr.retrieval.protocol import Retriever


class Fusion(RetrieverBase):
    """Ranks passages by what several retrievers, the members, say of them together.

    A member that reads text alone is not counted for a query without a question, whose instruction says
    nothing about the image; the result notes for how many. Where all members are such, all are counted:
    so one member alone ranks as it does by itself. Runs are counted for every query. A passage that a
    member does not rank gets what that member's last passage gets.

    Args:
        members: Retrievers, as for `m2kr.retrievers.create`; by default ``bm25``, ``dense_text`` and
            ``image_concepts`` where no runs are given.
        runs: Run files, which are members as well: their rankings of the split that is searched.
        weights: One per member, then per run; all 1 by default. ``learned``: those that maximise the
            source's headline metric on the split ``learn_on``, which the members search for that.
        method: ``zscore``: a member's scores, in standard deviations of its ranking, are added.
            ``minmax``: so are its scores brought to 0 to 1. ``rrf``: reciprocal ranks, 1 / (60 + rank).
        depth: Passages taken of each member's ranking, or ``k`` if that is more.
        device: Passed on to the members that take it.
        learn_on: Split of the same source that weights are learned on; never the one that is searched.
        learn_runs: The run files of that split, one for each of ``runs``.

    Raises:
        UsageError: fewer than one member, a weight missing or negative, or ``fusion`` as a member.
        MissingError: something a member needs is not installed, or a run file is not there.
    """

    name = "fusion"

    def __init__(
        self,
        *,
        members: tuple[str, ...] | None = None,
        runs: tuple[str, ...] = (),
        weights: tuple[float, ...] | Literal["learned"] = (),
        method: FusionMethod = "zscore",
        depth: int = 500,
        device: str = "auto",
        learn_on: str = "valid",
        learn_runs: tuple[str, ...] = (),
    ) -> None:
        if members is None:
            members = () if runs else ("bm25", "dense_text", "image_concepts")
        specs = (*members, *(_run_spec(run) for run in runs))
        if not specs or len(set(specs)) < len(specs) or self.name in specs:
            raise UsageError(
                f"members is '{','.join(members)}'"
                + (f", runs is '{','.join(runs)}'" * bool(runs)),
                expected="other retrievers or runs, each once",
                fix="--set members=bm25,dense_text",
            )
        self._learns = weights == "learned"
        given = None if self._learns or not weights else weights
        self._weights = checked_weights(given, len(specs), method)  # type: ignore[arg-type]
        if depth < 1:
            raise UsageError(f"depth={depth}", expected="at least 1")
        if self._learns and len(learn_runs) != len(runs):
            raise UsageError(
                f"{len(runs)} runs and {len(learn_runs)} learn_runs",
                expected=f"one run file of the split '{learn_on}' for each of the runs",
                fix="--set learn_runs=" + ",".join(["FILE"] * len(runs)),
            )
        if learn_runs and not self._learns:
            raise UsageError("learn_runs are given", expected="weights=learned with them")
        self._members: dict[str, Retriever] = {spec: _member(spec, device) for spec in specs}
        # The members of the split that weights are learned on: runs are other ones there.
        self._learners: dict[str, Retriever] = {
            spec: _member(_run_spec(learn_runs[place - len(members)]), device)
            if place >= len(members)
            else self._members[spec]
            for place, spec in enumerate(specs)
            if self._learns
        }
        self._method, self._depth, self._learn_on = method, depth, learn_on
        self._learned: FusionWeights | None = None
        self._notes: list[str] = []

    @property
    def settings(self) -> Mapping[str, Any]:
        """The members' settings, the runs' hashes, and how they are put together."""
        learned = self._learned.as_dict() if self._learned else {"learn_on": self._learn_on}
        return {
            "method": self._method,
            "depth": self._depth,
            "weights": dict(zip(map(_shown, self._members), self._weights, strict=True)),
            "members": {_shown(spec): _facts(member) for spec, member in self._members.items()},
            **({"learned": learned} if self._learns else {}),
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
        total, stats = RunStats(notes=[*self._notes]), map(stats_of, self._members.values())
        for member in stats:
            total.notes += member.notes
            for stage in member.seconds:
                total.spend(stage, member.spent(stage))
            for mine, theirs in ((total.encoded, member.encoded), (total.reused, member.reused)):
                for stage, rows in theirs.items():
                    mine[stage] = mine.get(stage, 0) + rows
        return total

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Has every member index the pool, each in a folder of its own; learns weights before that."""
        if self._learns:
            self._learned = self._learn(workdir / "learning")
            self._weights = self._learned.values
        self._index(self._members, passages, workdir, self.run_context)

    def _index(
        self,
        members: "Mapping[str, Retriever]",
        passages: Passages,
        workdir: Path,
        context: RunContext,
    ) -> None:
        for place, member in enumerate(members.values()):
            folder = workdir / f"member{place}"
            folder.mkdir(parents=True, exist_ok=True)
            # How to search is each member's own.
            index_pool(member, passages, replace(context, workdir=folder, search=None))

    def search(self, queries: Queries, k: int) -> Run:
        """Has every member search, and adds up what they say."""
        runs, counts_for = self._rank(self._members, queries, max(k, self._depth))
        self._notes = _not_counted(self._members, counts_for)
        return FusedRuns(runs, self._method, counts_for).run(self._weights, self.name, k)

    def _rank(
        self, members: "Mapping[str, Retriever]", queries: Queries, k: int
    ) -> "tuple[list[Run], list[NDArray[np.bool_]]]":
        """The members' rankings, and the queries that each counts for."""
        ids = queries.ids.to_pylist()
        runs = []
        for spec, member in members.items():
            run = rank_queries(member, queries, k)
            require_queries(run, ids, spec.removeprefix("run:"))
            runs.append(run.select(ids).top(k))
        has_question = np.array([bool(q.strip()) for q in queries.column("question")], bool)
        read_text_alone = [modalities_of(m).query == {"text"} for m in members.values()]
        if all(read_text_alone):  # nobody else would answer
            has_question[:] = True
        every = np.ones_like(has_question)
        return runs, [has_question if text else every for text in read_text_alone]

    def _learn(self, workdir: Path) -> FusionWeights:
        """Weights from another split of the source that is searched."""
        from m2kr.data.load import load
        from m2kr.evaluation.fusion_weights import learn_weights

        searched: Split | None = self.run_context.split
        if searched is None:
            raise UsageError(
                "weights are learned for the split that an evaluation is of",
                where=self.name,
                fix="m2kr.evaluate(source, retriever), or m2kr.learn_weights(split, runs) and m2kr.fuse",
            )
        split = load(
            searched.source,
            self._learn_on,
            edition=searched.edition,
            data=searched.folder.parent,
            images=searched.image_roots,
            missing_images=searched.missing_images,
        )
        if split.fingerprints["queries"] == searched.fingerprints["queries"]:
            raise UsageError(
                f"weights would be learned on the queries that they are used on: {split.label}",
                where=self.name,
                expected="another split than the one that is searched",
                fix="--set learn_on=train",
            )
        context = replace(self.run_context, fingerprints=split.fingerprints, split=split)
        self._index(self._learners, split.passages_view, workdir, context)
        runs, counts_for = self._rank(self._learners, split.queries_view, self._depth)
        return learn_weights(split, runs, method=self._method, counts_for=counts_for)


def _not_counted(
    members: "Mapping[str, Retriever]", counts_for: "list[NDArray[np.bool_]]"
) -> list[str]:
    """Says who is not counted for which queries, if anybody."""
    left_out = [~counted for counted in counts_for if not counted.all()]
    if not left_out:
        return []
    names = [_shown(spec) for spec, of in zip(members, counts_for, strict=True) if not of.all()]
    are = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"
    return [
        f"{are} not counted for the {int(left_out[0].sum()):,} of {len(left_out[0]):,} queries that "
        "have no question"
    ]


def _run_spec(run: str) -> str:
    return run if run.startswith("run:") else f"run:{run}"


def _shown(spec: str) -> str:
    """A member's name in the settings; of a run the file's name, wherever it lies."""
    return f"run:{Path(spec).name}" if spec.startswith("run:") else spec


def _facts(member: "Retriever") -> dict[str, Any]:
    if isinstance(member, RunRetriever):
        return {"sha256": member.run.sha256(), "settings": dict(member.settings)}
    return dict(member.settings)


def _member(spec: str, device: str) -> "Retriever":
    from m2kr.retrievers._settings import arguments

    if spec.startswith("run:"):
        return retrievers.create(spec)
    takes_device = "device" in arguments(retrievers.find(spec))
    return retrievers.create(spec, {"device": device} if takes_device else {})


RETRIEVER = Fusion
