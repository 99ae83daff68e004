"""Evaluating one retriever, or one run, on one split."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.data.load import Split
from m2kr.errors import UsageError
from m2kr.evaluation import experiment
from m2kr.evaluation.environment import peak_memory, versions
from m2kr.evaluation.metrics import Chosen, Spec, choose
from m2kr.evaluation.result import Result
from m2kr.evaluation.scoring import require_judgements, score_run
from m2kr.progress import SILENT, Progress, task
from m2kr.retrieval.calling import check, noted
from m2kr.retrieval.calling import reads as reads_of
from m2kr.retrieval.modalities import Modalities
from m2kr.retrieval.ordering import Ties
from m2kr.retrieval.own_code import settings_of
from m2kr.retrieval.protocol import Retriever
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.retrieval.search_split import MissingQueries, complete, search
from m2kr.sources import UNKNOWN, comparable_notes

if TYPE_CHECKING:
    from m2kr.retrieval.cache import EmbeddingCache
    from m2kr.search.config import SearchConfig

logger = logging.getLogger("m2kr.evaluation")

DEPTH = 500  # the published protocol's
_SHALLOWEST = 10  # metrics are computed at 1, 5 and 10 for lists shorter than that, too


@dataclass(frozen=True, slots=True)
class Plan:
    """How deep to search and what to compute.

    Attributes:
        k: Depth.
        chosen: Metrics.
        notes: What must be said of them.
    """

    k: int
    chosen: tuple[Chosen, ...]
    notes: tuple[str, ...] = ()


def plan(metrics: Spec, k: int | None, run: Run | None = None) -> Plan:
    """Metrics and depth of an evaluation.

    Args:
        metrics: As for `evaluate`.
        k: The depth that was asked for, if one was.
        run: The run, where it is already made. One that says how deep it was made knows nothing
            below that; another's lists may just be short, and count as they are.

    Raises:
        UsageError: an unknown metric, or one that is named and deeper than can be told.
    """
    if k is not None and k < 1:
        raise UsageError(f"k is {k}", expected="at least 1")
    notes: list[str] = []
    if run is None:
        depth, most = k or DEPTH, None
    elif run.depth is not None:
        depth, most = min(k or run.depth, run.depth), run.depth
        if k and k > run.depth:
            notes.append(
                f"the run '{run.name}' was made {run.depth} deep, so k is that and not {k}"
            )
    else:
        depth, most = k or max(_longest(run), _SHALLOWEST), None
    chosen = choose(metrics, depth)
    deepest = max(chosen, key=lambda one: one.k)
    if most is not None and deepest.k > most:
        raise UsageError(
            f"'{deepest.name}' needs {deepest.k} results a query, and the run was made {most} deep",
            expected=f"cut-offs up to {most}",
            fix=f"evaluate its retriever again with --k {deepest.k}",
        )
    if deepest.k > depth and (k or run is None):
        raise UsageError(
            f"'{deepest.name}' needs {deepest.k} results a query, and k is {depth}",
            fix=f"--k {deepest.k}",
        )
    reach = max(k or 0, *(one.k for one in chosen if one.named), 0)
    if run is not None and most is None and reach > _longest(run):
        notes.append(
            f"the longest list of the run '{run.name}' has {_longest(run)} passages, and it is scored to "
            f"rank {reach}"
        )
    return Plan(max(depth, deepest.k), tuple(chosen), tuple(notes))


def _longest(run: Run) -> int:
    return int(run.counts().max(initial=0))


def evaluate(
    split: Split,
    retriever: Retriever,
    *,
    k: int | None = None,
    metrics: Spec = "default",
    workdir: str | Path | None = None,
    out: str | Path | None = None,
    searching: "SearchConfig | None" = None,
    cache: "EmbeddingCache | None" = None,
    missing_queries: MissingQueries = "error",
    ties: Ties = "m2kr",
    label: str = "",
    arguments: Mapping[str, Any] | None = None,
    unjudged: bool = False,
    progress: Progress = SILENT,
) -> Result:
    """The scores of a retriever on a split.

    Args:
        split: A loaded split.
        retriever: See `m2kr.retrieval.protocol.Retriever`.
        k: Depth of the search; 500, the published protocol's, or a replayed run's own if absent.
        metrics: ``default``, ``full``, or names such as ``hit_rate@5``; see `choose`.
        workdir: Where the index goes; a temporary folder if absent.
        out: Folder that the result is saved in.
        searching: How token vectors are searched; see `search_split.search`.
        cache: Where encoded rows are kept across runs.
        missing_queries: What queries that the run lacks lead to: ``error``, or ``empty`` rankings,
            which are counted in the result (as trec_eval -c does).
        ties: Which passages come first of those that score alike: ``m2kr``: the lower id; ``trec``: the
            higher, as trec_eval; ``trec9``: that, in single precision (before trec_eval 10).
        label: Put behind the retriever's name in tables and file names.
        arguments: What the retriever was made with, where its attributes don't tell.
        unjudged: A split without judgements is searched and not scored, in place of an error.
        progress: Told of the stages.

    Raises:
        UsageError: an unknown metric, one deeper than the search, or a search that the retriever
            doesn't have or that would take too long.
        MissingError: images or a package are not there, or the split has no judgements.
        CheckError: the run lacks queries, or names queries or passages that don't exist.
    """
    started = time.perf_counter()
    check(retriever)
    asked = plan(metrics, k, retriever.run if isinstance(retriever, RunRetriever) else None)
    if not unjudged:
        require_judgements(split)
    found = search(
        split,
        retriever,
        k=asked.k,
        workdir=workdir,
        searching=searching,
        cache=cache,
        missing_queries=missing_queries,
        ties=ties,
        progress=progress,
    )
    who: dict[str, Any] = {
        "name": retriever.name,
        "settings": settings_of(retriever),
        "modalities": found.run.recorded.get("modalities", reads_of(retriever).as_dict()),
    }
    if label:
        who["label"] = label
    reused = {s: n for s, n in noted(retriever, "reused", Mapping, {}).items() if n}
    if reused:
        who["reused"] = reused
    done = experiment.of_retriever(retriever, arguments or {}, searching)
    run = found.run
    if "run" in done:
        who["run"] = done["run"]
    if made_with := done.get("arguments") or run.recorded.get("arguments"):
        who["arguments"] = made_with
        run = run.named(run.name, arguments=made_with)
    index_bytes = found.index_bytes / len(split.passages_view) if found.index_bytes else None
    with task(progress, "score", len(split.queries_view)):
        result = _result(
            split,
            run,
            asked,
            who,
            done=done,
            lacking=found.lacking,
            missing_queries=missing_queries,
            ties=ties,
            seconds={**found.seconds, "total": time.perf_counter() - started},
            bytes_per_passage=index_bytes,
            how=found.how,
        )
    if out is not None:
        logger.info("saved %s", result.save(out))
    return result


def score(
    split: Split,
    run: Run,
    metrics: Spec = "default",
    *,
    k: int | None = None,
    missing_queries: MissingQueries = "error",
    ties: Ties = "m2kr",
) -> Result:
    """The scores of a run that is already made.

    Args:
        split: A loaded split.
        run: Rankings for the split's queries.
        metrics: As for `evaluate`.
        k: Depth; by default the run's own.
        missing_queries: As for `evaluate`.
        ties: As for `evaluate`.

    Raises:
        UsageError: an unknown metric, or one deeper than the run was made.
        MissingError: the split has no judgements.
        CheckError: the run lacks queries, or names queries or passages that don't exist.
    """
    started = time.perf_counter()
    asked = plan(metrics, k, run)
    require_judgements(split)
    checked, lacking = complete(split, run, asked.k, missing_queries, ties)
    nothing = Modalities(frozenset(), frozenset()).as_dict()
    who = {
        "name": run.name or "run",
        "settings": run.recorded.get("settings", {}),
        "modalities": run.recorded.get("modalities", nothing),
    }
    if "arguments" in run.recorded:
        who["arguments"] = run.recorded["arguments"]
    seconds = {"encode": 0.0, "index": 0.0, "search": 0.0, "total": time.perf_counter() - started}
    return _result(
        split,
        checked,
        asked,
        who,
        done={"run": {"sha256": run.sha256()}},
        lacking=lacking,
        missing_queries=missing_queries,
        ties=ties,
        seconds=seconds,
        how=run.recorded.get("search"),
    )


def _result(
    split: Split,
    run: Run,
    asked: Plan,
    retriever: Mapping[str, Any],
    *,
    done: Mapping[str, Any],
    lacking: int,
    missing_queries: MissingQueries,
    ties: Ties,
    seconds: Mapping[str, float],
    bytes_per_passage: float | None = None,
    how: Mapping[str, Any] | None = None,
) -> Result:
    """Scores a complete run, and puts everything that they depend on beside them."""
    started = time.perf_counter()
    scores = score_run(split, run, asked.chosen, asked.k, ties=ties)
    if isinstance(split, Split):
        split.require_unharmed()
    counts, notes = dict(scores.counts), [*asked.notes, *scores.notes]
    if lacking:
        counts["queries_not_in_run"] = lacking
        notes.append(f"{lacking:,} of {len(run):,} queries are not in the run; they count as empty")
    if ties != "m2kr":
        notes.append(f"passages that score alike are ordered as trec_eval does (--ties {ties})")
    manifest, made = split.manifest, run.recorded
    images = made.get("images")
    apart = [manifest.get("comparable", UNKNOWN)]
    if images and images["found"] < images["total"]:
        gone = images["total"] - images["found"]
        apart.append(f"{gone:,} of {images['total']:,} images missing ({images['policy']})")
    kept = run.ordered("m2kr")
    policies = {"missing_queries": missing_queries, "ties": ties}
    return Result(
        source=split.source,
        split=split.split,
        edition=split.edition,
        retriever=retriever,
        k=asked.k,
        headline=str(manifest.get("headline", "")),
        metrics=scores.metrics,
        groups=scores.groups,
        counts=counts,
        images=images,
        fingerprints={
            **split.fingerprints,
            "images": made.get("fingerprints", {}).get("images"),
        },
        run_sha256=kept.sha256(),
        partial=bool(manifest.get("partial", False)),
        comparable=comparable_notes(apart),
        seconds={name: round(value, 6) for name, value in seconds.items()}
        | {"total": round(seconds["total"] + time.perf_counter() - started, 6)},
        peak_memory_bytes=peak_memory(),
        bytes_per_passage=bytes_per_passage,
        versions=versions(),
        search=how,
        experiment=experiment.of_split(split)
        | {**done, "label": retriever.get("label", ""), **policies}
        | {"k": asked.k, "metrics": [one.name for one in asked.chosen]},
        shown=[one.name for one in asked.chosen if one.shown and one.name in scores.metrics],
        notes=notes,
        query_ids=kept.query_ids,
        scores=scores.per_query,
        run=kept,
    )
