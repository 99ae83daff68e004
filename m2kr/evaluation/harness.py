"""Evaluating one retriever, or one run, on one split."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.data.load import Split
from m2kr.evaluation.environment import peak_memory, versions
from m2kr.evaluation.metrics import choose
from m2kr.evaluation.protocol import check, settings_of
from m2kr.evaluation.protocol import reads as reads_of
from m2kr.evaluation.result import Result
from m2kr.evaluation.retriever import Modalities, Progress, Retriever
from m2kr.evaluation.run import Run
from m2kr.evaluation.scoring import Scores, answers_of, score_run
from m2kr.evaluation.searching import complete, image_fingerprint, search, stage
from m2kr.sources import UNKNOWN, comparable_notes

if TYPE_CHECKING:
    from m2kr.evaluation.cache import EmbeddingCache
    from m2kr.search.late.modes import Searching

logger = logging.getLogger("m2kr.evaluation")


def evaluate(
    split: Split,
    retriever: Retriever,
    *,
    k: int = 500,
    metrics: str | Sequence[str] = "default",
    workdir: str | Path | None = None,
    out: str | Path | None = None,
    searching: "Searching | None" = None,
    cache: "EmbeddingCache | None" = None,
    progress: Progress | None = None,
) -> Result:
    """The scores of a retriever on a split.

    Args:
        split: A loaded split.
        retriever: See `m2kr.evaluation.retriever.Retriever`.
        k: Depth of the search; the published protocol's is 500.
        metrics: ``default``, ``full``, or names such as ``hit_rate@5``.
        workdir: Where the index goes; a temporary folder if absent.
        out: Folder that the result is saved in.
        searching: How token vectors are searched; see `searching.search`.
        cache: Where encoded rows are kept across runs.
        progress: Called with stage, rows done and rows in all.

    Raises:
        UsageError: an unknown metric, one deeper than the search, or a search that the retriever
            doesn't have or that would take too long.
        MissingError: images or a package are not there, or the split has no judgements.
        CheckError: the run lacks queries, or names queries or passages that don't exist.
    """
    started = time.perf_counter()
    check(retriever)
    reads = reads_of(retriever)
    k = min(k, getattr(retriever, "depth", k))
    chosen = choose(metrics, k)
    answers = answers_of(split)
    found = search(
        split,
        retriever,
        k=k,
        workdir=workdir,
        searching=searching,
        cache=cache,
        progress=progress,
    )
    with stage(progress, "score", len(split.queries_view)):
        scores = score_run(split, found.run, chosen, answers, k)
    who: dict[str, Any] = {
        "name": retriever.name,
        "settings": settings_of(retriever),
        "modalities": reads.as_dict(),
    }
    if any(getattr(retriever, "reused", {}).values()):
        who["reused"] = {stage: n for stage, n in getattr(retriever, "reused", {}).items() if n}
    index_bytes = found.index_bytes / len(split.passages_view) if found.index_bytes else None
    result = _result(
        split,
        found.run,
        scores,
        who,
        k=k,
        images=found.images,
        image_fingerprint=image_fingerprint(split, reads),
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
    metrics: str | Sequence[str] = "default",
    *,
    k: int | None = None,
) -> Result:
    """The scores of a run that is already made.

    Args:
        split: A loaded split.
        run: Rankings for exactly the split's queries.
        metrics: As for `evaluate`.
        k: Depth; by default the run's own.

    Raises:
        UsageError: an unknown metric, or one deeper than the run.
        MissingError: the split has no judgements.
        CheckError: the run lacks queries, or names queries or passages that don't exist.
    """
    started = time.perf_counter()
    depth = k or int(run.metadata.get("k", run.counts().max(initial=0))) or 1
    chosen, answers = choose(metrics, depth), answers_of(split)
    checked = complete(split, run, depth)
    scores = score_run(split, checked, chosen, answers, depth)
    who = {
        "name": run.name or "run",
        "settings": run.metadata.get("settings", {}),
        "modalities": run.metadata.get(
            "modalities", Modalities(frozenset(), frozenset()).as_dict()
        ),
    }
    seconds = {"encode": 0.0, "index": 0.0, "search": 0.0, "total": time.perf_counter() - started}
    how = run.metadata.get("search")
    return _result(split, checked, scores, who, k=depth, seconds=seconds, how=how)


def _result(
    split: Split,
    run: Run,
    scores: Scores,
    retriever: Mapping[str, Any],
    *,
    k: int,
    seconds: Mapping[str, float],
    images: Mapping[str, Any] | None = None,
    image_fingerprint: str | None = None,
    bytes_per_passage: float | None = None,
    how: Mapping[str, Any] | None = None,
) -> Result:
    if isinstance(split, Split):
        split.require_unharmed()
    manifest = split.manifest
    notes = [manifest.get("comparable", UNKNOWN)]
    if images and images["found"] < images["total"]:
        gone = images["total"] - images["found"]
        notes.append(f"{gone:,} of {images['total']:,} images missing ({images['policy']})")
    return Result(
        source=split.source,
        split=split.split,
        edition=split.edition,
        retriever=retriever,
        k=k,
        headline=str(manifest.get("headline", "")),
        metrics=scores.metrics,
        groups=scores.groups,
        counts=scores.counts,
        images=images,
        fingerprints={**split.fingerprints, "images": image_fingerprint},
        run_sha256=run.sha256(),
        partial=bool(manifest.get("partial", False)),
        comparable=comparable_notes(notes),
        seconds={name: round(value, 6) for name, value in seconds.items()},
        peak_memory_bytes=peak_memory(),
        bytes_per_passage=bytes_per_passage,
        versions=versions(),
        search=how,
        query_ids=run.query_ids,
        scores=scores.per_query,
        run=run,
    )
