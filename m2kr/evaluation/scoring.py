"""Scoring one run on one split: metrics, intervals, groups and counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.data.lookup import values_at
from m2kr.errors import CheckError, MissingError
from m2kr.evaluation.answer_ranks import Answers, AnswersInTexts
from m2kr.evaluation.judge_file import JudgeFile
from m2kr.evaluation.judgements import JudgedRun
from m2kr.evaluation.metrics import Chosen
from m2kr.evaluation.significance import bootstrap_interval
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_rows import Ties

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split


_MANY = 0.05  # of a split's queries


@dataclass(frozen=True)
class Scores:
    """What metrics say about a run; the fields are those of `Result`."""

    metrics: dict[str, dict[str, float | int | None]]
    groups: dict[str, dict[str, dict[str, Any]]]
    per_query: "dict[str, NDArray[np.float64]]"
    counts: dict[str, int]
    query_groups: dict[str, list[str]]
    notes: tuple[str, ...] = ()


def is_judged(split: "Split") -> bool:
    """Whether a split has a right passage or an answer."""
    queries = split.queries_view
    return len(queries.judgements()) > 0 or any(map(len, queries.column("answers")))


def require_judgements(split: "Split") -> None:
    """Refuses a split that has nothing to score by.

    Raises:
        MissingError: it has neither right passages nor answers.
    """
    if not is_judged(split):
        raise MissingError(
            "the split has no judgements, so it can be searched but not scored",
            where=split.label,
            expected="queries with right passages (positives, or --qrels of an import) or answers",
            fix="import it anew with them; or m2kr eval all, which writes the runs of such splits",
        )


def score_run(
    split: "Split", run: Run, chosen: Sequence[Chosen], k: int, *, ties: Ties = "m2kr"
) -> Scores:
    """The chosen metrics of a complete run.

    Args:
        split: The split, or its judge file.
        run: Every query of the split, in its order, cut at ``k``; equal scores in the order of ``ties``.
        chosen: Metrics; those that are nowhere defined are left out unless they were named.
        k: Depth of the run.
        ties: The order of equal scores.

    Raises:
        CheckError: the run names passages that the pool lacks.
    """
    whole = _pool_rows(split, run)
    counts = run.counts()
    facts = {
        "queries": len(run),
        "passages": len(split.passages_view),
        "empty_rankings": int((counts == 0).sum()),
        "short_rankings": int((counts < min(k, len(split.passages_view))).sum()),
    }
    if not is_judged(split):
        return Scores({}, {}, {}, facts, {}, ("no judgements: searched, not scored",))
    qrels = split.queries_view.judgements()
    miss = split.manifest.get("unjudged") == "miss" and len(qrels) > 0

    def judge(part: Run) -> JudgedRun:
        rows = whole
        if part is not run:
            rows = whole[
                pc.index_in(part.vocabulary, run.vocabulary).to_numpy(zero_copy_only=False)
            ]
        return JudgedRun(
            part,
            qrels,
            _answers(split, rows),
            same=counted_as(split, rows),
            missed_without_positives=miss,
            threshold=split.manifest.get("relevance_threshold", 1),
        )

    deepest = max(one.k or k for one in chosen)
    judged = judge(run.top(deepest))
    per_query = {one.name: one.metric.scores(judged, one.k or k) for one in chosen}
    named = {one.name for one in chosen if one.named}
    per_query = {n: s for n, s in per_query.items() if n in named or not np.isnan(s).all()}
    facts |= {
        "queries_without_positives": int((judged.positives == 0).sum()),
        "queries_without_answers": int((~judged.has_answers).sum()),
        "queries_with_empty_answer": int(judged.has_empty_answer.sum()),
    }
    if miss:
        facts["queries_counted_as_missed"] = facts["queries_without_positives"]
    notes = []
    if short := int(judged.has_short_answer.sum()):
        facts["queries_with_short_answer"] = short
        if short >= _MANY * judged.has_answers.sum():
            notes.append(_on_short_answers(per_query, short, int(judged.has_answers.sum())))
    if ties == "trec":
        single = judge(run.ordered("trec9").top(deepest))
        if moved := _differing(judged, single):
            notes.append(
                f"in {moved:,} queries a right passage's score equals another's in single precision "
                "alone: trec_eval before 10 and pytrec_eval order those by id (--ties trec9)"
            )
    summary = {name: _summary(scores) for name, scores in per_query.items()}
    query_groups = _query_groups(split)
    groups = _groups(query_groups, per_query)
    return Scores(summary, groups, per_query, facts, query_groups, tuple(notes))


def _answers(split: "Split", rows: "NDArray[np.int64]") -> Answers:
    """A split's answers, for a run whose vocabulary lies in these rows of the pool."""
    if isinstance(split, JudgeFile):
        return split.answers(rows)
    column = split.passages_view.table.column("passage_content")
    answers = [given or [] for given in split.queries_view.column("answers")]
    return AnswersInTexts(answers, lambda places: values_at(column, rows[places]))


def _on_short_answers(
    per_query: "dict[str, NDArray[np.float64]]", short: int, answered: int
) -> str:
    """What to say where many queries accept one or two characters as an answer."""
    note = (
        f"{short:,} of {answered:,} queries accept an answer of one or two characters, which most texts "
        "hold somewhere"
    )
    for name in per_query:
        stem, _, k = name.partition("@")
        words = per_query.get(f"pseudo_recall_words@{k}")
        if stem == "pseudo_recall" and words is not None and int(k) == min(5, int(k)):
            note += f"; PR@{k} {np.nanmean(per_query[name]):.3f}, by whole words {np.nanmean(words):.3f}"
    return note


def _differing(one: JudgedRun, other: JudgedRun) -> int:
    """Queries whose grades come in another order."""
    changed = one.owners[one.relevance != other.relevance]
    return len(np.unique(changed))


def _summary(scores: "NDArray[np.float64]") -> dict[str, float | int | None]:
    n = int((~np.isnan(scores)).sum())
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = bootstrap_interval(scores)
    return {"value": float(np.nanmean(scores)), "low": low, "high": high, "n": n}


def _query_groups(split: "Split") -> dict[str, list[str]]:
    """Each query's value of the columns that the source breaks its results down by."""
    here = split.queries_view.table.column_names
    return {
        name: ["(none)" if v is None else str(v) for v in split.queries_view.column(name)]
        for name in split.manifest.get("groups", ())
        if name in here  # else built before its source had the column
    }


def _groups(
    query_groups: dict[str, list[str]], per_query: "dict[str, NDArray[np.float64]]"
) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores by those values."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, column in query_groups.items():
        values = np.array(column, object)
        groups[name] = {}
        for value in sorted(set(column)):
            of_group = values == value
            summaries = {m: _summary(scores[of_group]) for m, scores in per_query.items()}
            metrics = {m: summary for m, summary in summaries.items() if summary["n"]}
            groups[name][value] = {"n": int(of_group.sum()), "metrics": metrics}
    return groups


def counted_as(
    split: "Split", rows: "NDArray[np.int64]"
) -> "tuple[NDArray[np.int64], pa.Array] | None":
    """Passages that count as another one (E-VQA's pool has some), as `JudgedRun` takes them.

    Args:
        split: A split.
        rows: Of its pool; -1 for passages that it lacks.

    Returns:
        Places in ``rows``, and the ids that the passages there count as; None in most pools.
    """
    data = split.passages_view.table
    if "scored_as" not in data.column_names:
        return None
    values = values_at(data.column("scored_as"), rows.clip(0))
    others = zip(values, rows.tolist(), strict=True)
    places = [i for i, (value, row) in enumerate(others) if value is not None and row >= 0]
    return np.array(places, np.int64), pa.array([values[i] for i in places], pa.string())


def _pool_rows(split: "Split", run: Run) -> "NDArray[np.int64]":
    """Per place in the run's vocabulary the row of that passage; the first, if an id repeats."""
    pool_rows = split.passages_view.row_numbers(run.vocabulary)
    unknown = np.flatnonzero(pool_rows < 0)
    if len(unknown):
        examples = ", ".join(repr(run.vocabulary[int(i)].as_py()) for i in unknown[:3])
        raise CheckError(
            f"the run ranks {len(unknown):,} passages that the pool lacks, such as {examples}",
            where=f"run '{run.name}' on {split.label}",
            expected="passage_id values of the pool",
            fix="check that source, split and edition are those that the run was made for",
        )
    return pool_rows
