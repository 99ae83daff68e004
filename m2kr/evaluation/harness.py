"""Evaluating one retriever, or a run in its place, on one split."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from m2kr.data.load import Split
from m2kr.errors import UsageError
from m2kr.evaluation.cost import Meter, by_stage, rate
from m2kr.evaluation.judge_file import require_run
from m2kr.evaluation.metrics import Chosen, Spec, choose
from m2kr.evaluation.result import Result, json_sha256, peak_memory, versions
from m2kr.evaluation.scoring import require_judgements, score_run
from m2kr.progress import SILENT, Progress, task
from m2kr.retrieval.clock import Spent
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.own_code import json_settings
from m2kr.retrieval.protocol import Retriever
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_rows import Ties
from m2kr.retrieval.search_split import (
    MissingQueries,
    SplitSearch,
    check_retriever,
    declared_modalities,
    search_split,
)
from m2kr.sources import UNKNOWN, comparable_notes

if TYPE_CHECKING:
    from m2kr.search.config import SearchConfig

DEPTH = 500  # the published protocol's
# Of `SearchConfig`, what changes how fast it is and not what comes of it.
_COSTS = {"max_hours", "threads", "device"}
_LONGEST_ARGUMENT = 500  # characters; longer ones are kept as their hash
_SHALLOWEST = 10  # metrics are computed at 1, 5 and 10 for lists shorter than that, too


@dataclass(frozen=True, slots=True)
class MetricPlan:
    """How deep to search and what to compute.

    Attributes:
        k: Depth.
        metrics: Metrics and their cut-offs.
        notes: What must be said of them.
    """

    k: int
    metrics: tuple[Chosen, ...]
    notes: tuple[str, ...] = ()


def plan_metrics(metrics: Spec, k: int | None, run: Run | None = None) -> MetricPlan:
    """Metrics and depth of an evaluation.

    Args:
        metrics: As for `evaluate_split`.
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
    return MetricPlan(max(depth, deepest.k), tuple(chosen), tuple(notes))


def _longest(run: Run) -> int:
    return int(run.counts().max(initial=0))


def evaluate_split(
    split: Split,
    retriever: Retriever,
    *,
    k: int | None = None,
    metrics: Spec = "default",
    workdir: str | Path | None = None,
    searching: "SearchConfig | None" = None,
    cache: Path | None = None,
    missing_queries: MissingQueries = "error",
    ties: Ties = "m2kr",
    label: str = "",
    arguments: Mapping[str, Any] | None = None,
    require_qrels: bool = True,
    opening: Spent | None = None,
    progress: Progress = SILENT,
) -> Result:
    """The scores of a retriever on a split.

    Args:
        split: A loaded split.
        retriever: See `m2kr.retrieval.protocol.Retriever`.
        k: Depth of the search; 500, the published protocol's, or a replayed run's own if absent.
        metrics: ``default``, ``full``, or names such as ``hit_rate@5``; see `choose`.
        workdir: Where the index goes; a temporary folder if absent.
        searching: How token vectors are searched; see `search_split`.
        cache: Folder in which encoded rows are kept across runs.
        missing_queries: What queries that the run lacks lead to: ``error``, or ``empty`` rankings,
            which are counted in the result (as trec_eval -c does).
        ties: Which passages come first of those that score alike: ``m2kr``: the lower id; ``trec``: the
            higher, as trec_eval; ``trec9``: that, in single precision (before trec_eval 10).
        label: Put behind the retriever's name in tables and file names.
        arguments: What the retriever was made with, where its attributes don't tell.
        require_qrels: False has a split without judgements searched and not scored.
        opening: What it took to open the split, which is a part of the cost.
        progress: Told of the stages.

    Raises:
        UsageError: an unknown metric, one deeper than the search, or a search that the retriever
            doesn't have or that would take too long.
        MissingError: images or a package are not there, or the split has no judgements.
        CheckError: the run lacks queries, or names queries or passages that don't exist.
    """
    meter = Meter()
    check_retriever(retriever)
    require_run(split, retriever, isinstance(retriever, RunRetriever))
    plan = plan_metrics(metrics, k, retriever.run if isinstance(retriever, RunRetriever) else None)
    if require_qrels:
        require_judgements(split)
    searched = search_split(
        split,
        retriever,
        k=plan.k,
        workdir=workdir,
        searching=searching,
        cache=cache,
        missing_queries=missing_queries,
        ties=ties,
        progress=progress,
    )
    made_by = _describe_retriever(retriever, arguments or {}, searching)
    run = searched.run
    if "run" not in made_by and made_by["arguments"]:
        run = run.named(run.name, arguments=made_by["arguments"])
    scoring = meter.spent()
    with task(progress, "score", len(split.queries_view)):
        scores = score_run(split, run, plan.metrics, plan.k, ties=ties)
        split.require_unharmed()
    run = run.ordered("m2kr")
    counts = dict(scores.counts)
    if searched.lacking:
        counts["queries_not_in_run"] = searched.lacking
    rankings = run.sha256()
    opening = opening or Spent()
    ended, spent = meter.spent(), dict(searched.spent)
    total = ended + opening
    spent |= {"load": spent["load"] + opening, "score": ended - scoring}
    bytes_per_passage = searched.index_bytes / len(split.passages_view) or None
    return Result(
        source=split.source,
        split=split.split,
        edition=split.edition,
        retriever=_retriever_facts(retriever, run, made_by, label, searched.reused),
        k=plan.k,
        headline=str(split.manifest.get("headline", "")),
        metrics=scores.metrics,
        groups=scores.groups,
        counts=counts,
        images=run.recorded.get("images"),
        fingerprints={
            **split.fingerprints,
            "images": run.recorded.get("fingerprints", {}).get("images"),
        },
        run_sha256=rankings,
        partial=bool(split.manifest.get("partial", False)),
        comparable=_comparable(split, run),
        seconds=by_stage(spent, total, "wall"),
        cost={
            "cpu_seconds": by_stage(spent, total, "cpu"),
            **_rates(split, retriever, searched),
            **meter.machine(),
            "bytes_per_passage": bytes_per_passage,
            "reused": {
                "rows": {stage: rows for stage, rows in searched.reused.items() if rows},
                "seconds": round(searched.spent["reuse"].wall, 6),
            },
        },
        peak_memory_bytes=peak_memory(),
        bytes_per_passage=bytes_per_passage,
        versions=versions(),
        search=searched.how,
        experiment={
            **describe_split(split),
            **made_by,
            "label": label,
            "missing_queries": missing_queries,
            "ties": ties,
            "k": plan.k,
            "metrics": [one.name for one in plan.metrics],
        },
        shown=[one.name for one in plan.metrics if one.shown and one.name in scores.metrics],
        notes=[*plan.notes, *scores.notes, *_notes(run, searched, ties)],
        query_ids=run.query_ids,
        scores=scores.per_query,
        query_groups=scores.query_groups,
        run=run,
    )


def _rates(split: Split, retriever: Retriever, searched: SplitSearch) -> dict[str, float | None]:
    """Passages and queries a second, of those for which something was done."""
    if isinstance(retriever, RunRetriever):
        return {"passages_per_second": None, "queries_per_second": None}
    passages, stage = len(split.passages_view), "index"
    if searched.encoded:
        passages, stage = searched.encoded.get("encode document", 0), "encode document"
    else:
        passages -= searched.reused.get("index", 0)
    return {
        "passages_per_second": rate(passages, searched.spent[stage].wall),
        "queries_per_second": rate(len(split.queries_view), searched.spent["search"].wall),
    }


def over_seeds(results: Sequence[Result]) -> Result:
    """The first result, with mean and range over all of them in ``search["seeds"]``.

    The published indexer draws its sample unseeded, so its scores move between builds by some tenths of
    a point. A reproduction says by how much.

    Args:
        results: Of one retriever on one split, whose searches differ in the index's seed alone.
    """
    first = results[0]
    by_metric: dict[str, dict[str, float]] = {}
    for name in first.metrics:
        values = [result.value(name) for result in results]
        known = [value for value in values if value is not None]
        if known:
            by_metric[name] = {
                "mean": sum(known) / len(known),
                "low": min(known),
                "high": max(known),
            }
    seeds = [(result.search or {})["training"]["seed"] for result in results]
    return replace(
        first,
        search={**(first.search or {}), "seeds": {"seeds": seeds, "metrics": by_metric}},
        experiment={**first.experiment, "seeds": seeds},
    )


def _retriever_facts(
    retriever: Retriever,
    run: Run,
    made_by: Mapping[str, Any],
    label: str,
    reused: Mapping[str, int],
) -> dict[str, Any]:
    """What a result says of a retriever; of a replayed run, of the retriever that made it."""
    facts = {
        "name": retriever.name,
        "settings": json_settings(retriever),
        "modalities": run.recorded.get("modalities", declared_modalities(retriever).as_dict()),
        "label": label,
        "reused": {stage: rows for stage, rows in reused.items() if rows},
        "run": made_by.get("run"),
        "arguments": run.recorded.get("arguments"),
    }
    always = {"name", "settings", "modalities"}
    return {key: value for key, value in facts.items() if value or key in always}


def _comparable(split: Split, run: Run) -> str:
    """Why the scores don't compare with published ones; empty where they do."""
    reasons = [split.manifest.get("comparable", UNKNOWN)]
    images = run.recorded.get("images")
    if images and images["found"] < images["total"]:
        missing = images["total"] - images["found"]
        reasons.append(f"{missing:,} of {images['total']:,} images missing ({images['policy']})")
    return comparable_notes(reasons)


def _notes(run: Run, searched: SplitSearch, ties: Ties) -> list[str]:
    notes = list(searched.notes)
    if searched.lacking:
        notes.append(
            f"{searched.lacking:,} of {len(run):,} queries are not in the run; they count as empty"
        )
    if ties != "m2kr":
        notes.append(f"passages that score alike are ordered as trec_eval does (--ties {ties})")
    return notes


def describe_split(split: Split) -> dict[str, Any]:
    """Which data: where they lie, what they are, and which images go with them."""
    return {
        "source": split.source,
        "split": split.split,
        "edition": split.edition,
        "data": str(split.folder.resolve()),
        "fingerprint": split.fingerprints.get("eval"),
        "images": [str(root) for root in split.image_roots],
        "missing_images": split.missing_images,
    }


def _describe_retriever(
    retriever: Retriever, given: Mapping[str, Any], searching: "SearchConfig | None"
) -> dict[str, Any]:
    """Which retriever: its class, the arguments it was made with, and how it searches."""
    if isinstance(retriever, RunRetriever):
        return {"run": {"file": retriever.file, "sha256": retriever.run.sha256()}}
    kind = type(retriever)
    facts: dict[str, Any] = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "settings": json_settings(retriever),
        "arguments": _arguments(retriever, given),
    }
    if isinstance(retriever, EncoderRetriever):
        used = searching or retriever.searching
        facts["searching"] = {
            field.name: _json(getattr(used, field.name))
            for field in fields(used)
            if field.name not in _COSTS
        }
    return facts


def _arguments(retriever: Retriever, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a retriever was made with, so far as it can be told.

    Of each parameter of its class: the attribute of that name (or with ``_`` before it), else what was
    given on the command line, else the default. Those that its settings have are left out, and long
    ones are given as their SHA-256.
    """
    try:
        parameters = inspect.signature(type(retriever)).parameters.values()
    except (TypeError, ValueError):
        return {}
    settings, attributes = json_settings(retriever), getattr(retriever, "__dict__", {})
    arguments: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        name = parameter.name
        value = given.get(name, parameter.default)
        value = attributes.get(name, attributes.get(f"_{name}", value))
        plain = None if value is parameter.empty else _json(value)
        if len(str(plain)) > _LONGEST_ARGUMENT:
            plain = f"sha256:{json_sha256(plain)}"
        if plain is not None and settings.get(name) != plain:
            arguments[name] = plain
    return arguments


def _json(value: Any) -> Any:
    """A value as JSON has it; a path as text; None for what has no such form."""
    if isinstance(value, Mapping):
        value = dict(value)
    try:
        return json.loads(json.dumps(value, default=_path_text, sort_keys=True))
    except (TypeError, ValueError):
        return None


def _path_text(value: Any) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(value)
