"""Metrics by name, and how they are chosen.

A function under ``@metric("thing", ...)`` is chosen, computed and shown by that alone. Names carry their
cut-off: ``hit_rate@5``. A metric of one's own lies in a file of one's own: ``--metrics my_metric.py:fn@5``,
where ``fn(judged, k)`` returns a number for each query, NaN where it is undefined (see `JudgedRun`); under
the decorator it has a heading, too.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import InputError, UsageError, last_frame, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.evaluation.judgements import JudgedRun

# The published K grid.
GRID = (1, 5, 10, 20, 50, 100, 500)

Compute = Callable[["JudgedRun", int], "NDArray[np.float64]"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: per query one number at a cut-off, NaN where it is undefined.

    Attributes:
        name: Name before the ``@``.
        label: Heading in tables; ``{k}`` stands for the cut-off.
        compute: Judged run and cut-off -> (queries,) float64, in the run's query order.
        doc: What it measures, in one sentence.
        default: Whether it is computed when nothing was asked for.
        ks: Cut-offs unless named; empty means the published grid.
        shown: Cut-offs that tables show even if they weren't named.
    """

    name: str
    label: str
    compute: Compute
    doc: str
    default: bool = True
    ks: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()

    def scores(self, judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
        """Per query of a judged run the number at a cut-off.

        Raises:
            InputError: a function of the user's raised something, or returned something else.
        """
        if getattr(self.compute, "__module__", "") == __name__:
            return self.compute(judged, k).astype(np.float64)
        try:
            scores = np.asarray(self.compute(judged, k), np.float64)
        except Exception as error:
            place = last_frame(error, lambda file: file == _file_of(self.compute))
            raise InputError(one_line(error), where=place or f"metric {self.name}") from error
        if scores.shape != (len(judged.run),):
            raise InputError(
                f"it returned values of shape {scores.shape}",
                where=f"metric {self.name}",
                expected=f"a number for each of the {len(judged.run):,} queries, NaN if undefined",
            )
        if np.isinf(scores).any():
            raise InputError(
                "it returned infinity",
                where=f"metric {self.name}",
                expected="numbers, NaN if undefined",
            )
        return scores


def _file_of(compute: Callable[..., Any]) -> Path | None:
    code = compute if inspect.isroutine(compute) or inspect.isclass(compute) else type(compute)
    try:
        return Path(inspect.getfile(code))
    except (TypeError, OSError):
        return None


METRICS: dict[str, Metric] = {}


def metric(
    name: str,
    label: str,
    *,
    default: bool = True,
    ks: tuple[int, ...] = (),
    shown: tuple[int, ...] = (),
) -> Callable[[Compute], Compute]:
    """Registers the function below it as a metric; its docstring's first line becomes ``doc``.

    Raises:
        UsageError: one of ours has its name.
    """

    def register(compute: Compute) -> Compute:
        _require_free(name)
        METRICS[name] = Metric(name, label, compute, _first_line(compute), default, ks, shown)
        return compute

    return register


def _require_free(name: str) -> None:
    if name in METRICS and getattr(METRICS[name].compute, "__module__", "") == __name__:
        raise UsageError(f"m2kr has a metric '{name}' of its own", fix="give yours another name")


def _first_line(compute: Callable[..., Any]) -> str:
    return (compute.__doc__ or "").strip().partition("\n")[0]


@metric("hit_rate", "R@{k}", shown=(1, 5, 10))
def hit_rate(judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
    """1 if any of the top K passages is right, else 0 (a hit rate; M2KR's Recall@K).

    As in the official evaluation, where it is called Recall@K. Undefined without right passages.
    """
    return np.where(judged.defined, judged.hits(k) > 0, np.nan)


@metric("set_recall", "Recall@{k} (set)")
def set_recall(judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
    """The share of a query's right passages among the top K; undefined without right passages."""
    return np.where(judged.defined, judged.hits(k) / np.maximum(judged.positives, 1), np.nan)


@metric("precision", "P@{k}", default=False, ks=(1, 5, 10), shown=(5,))
def precision(judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
    """The right passages among the top K, by K; undefined without right passages."""
    return np.where(judged.defined, judged.hits(k) / k, np.nan)


@metric("mrr", "MRR@{k}", ks=(10,))
def mrr(judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
    """1 / rank of the first right passage in the top K, 0 if none; undefined without right passages."""
    first = judged.first_hit
    return np.where(judged.defined, np.where(first <= k, 1 / first, 0.0), np.nan)


@metric("map", "MAP@{k}", default=False, ks=(100,), shown=(100,))
def mean_average_precision(judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
    """The precisions at the ranks of right passages in the top K, summed, by all right passages.

    As trec_eval's ``map_cut``. Undefined without right passages.
    """
    counted = judged.right & (judged.ranks <= k)
    owners = judged.owners[counted]
    nth = np.arange(len(owners)) - np.searchsorted(owners, owners) + 1  # of its query's right ones
    summed = np.bincount(owners, weights=nth / judged.ranks[counted], minlength=len(judged.run))
    return np.where(judged.defined, summed / np.maximum(judged.positives, 1), np.nan)


@metric("ndcg", "nDCG@{k}", default=False, ks=(10, 100), shown=(10,))
def ndcg(judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
    """Grades over log2(rank + 1) in the top K, by those of the best ranking; undefined without grades.

    As trec_eval's ``ndcg_cut``: the gain is the grade, and the best ranking is that of all passages
    that were judged. The relevance threshold plays no part.
    """
    gained = _discounted(judged.owners, judged.ranks, judged.relevance, k, len(judged.run))
    owners, grades = judged.ideal
    first = np.searchsorted(owners, owners)  # owners ascend, so this is where each query's begin
    best = _discounted(owners, np.arange(len(owners)) - first + 1, grades, k, len(judged.run))
    return np.where(judged.graded, gained / np.where(best > 0, best, 1.0), np.nan)


def _discounted(
    owners: "NDArray[np.int64]",
    ranks: "NDArray[np.int64]",
    gains: "NDArray[np.float64]",
    k: int,
    queries: int,
) -> "NDArray[np.float64]":
    """Per query the sum of its gains over log2(rank + 1), up to rank ``k``."""
    counted = (ranks <= k) & (gains > 0)
    values = gains[counted] / np.log2(ranks[counted] + 1)
    return np.bincount(owners[counted], weights=values, minlength=queries).astype(np.float64)


@metric("pseudo_recall", "PR@{k}", shown=(5,))
def pseudo_recall(judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
    """1 if any of the top K texts contains any answer string, else 0 (pseudo recall).

    As the official evaluation computes it. Contains means ``answer.strip().lower() in text.lower()``:
    plain substrings, no word boundaries (`pseudo_recall_words` has them). An answer that is empty is
    therefore found in every text; such queries are counted in the result, and
    `pseudo_recall_nonempty` leaves them out. Undefined without answers.
    """
    return np.where(judged.has_answers, judged.first_answer <= k, np.nan)


@metric("pseudo_recall_nonempty", "PR@{k}, no blanks")
def pseudo_recall_nonempty(judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
    """`pseudo_recall` over the queries none of whose answers is blank; undefined where no query has one.

    Where no query has a blank answer it would repeat `pseudo_recall`, so it is undefined there.
    """
    if not judged.has_empty_answer.any():
        return np.full(len(judged.positives), np.nan)
    defined = judged.has_answers & ~judged.has_empty_answer
    return np.where(defined, judged.first_answer <= k, np.nan)


@metric("pseudo_recall_words", "PR@{k}, words")
def pseudo_recall_words(judged: "JudgedRun", k: int) -> "NDArray[np.float64]":
    """`pseudo_recall` where no letter or digit may go on before or after the answer.

    Infoseek accepts answers such as ``in`` and ``us``, which are within some word of nearly every text.
    A language without blanks between words has no edges for this.
    """
    return np.where(judged.has_answers, judged.first_answer_word <= k, np.nan)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A metric with its cut-off (0 for the whole run), and whether it was asked for by name."""

    metric: Metric
    k: int
    named: bool = False

    @property
    def name(self) -> str:
        """As in results and on the command line: ``hit_rate@5``."""
        return f"{self.metric.name}@{self.k}" if self.k else self.metric.name

    @property
    def shown(self) -> bool:
        """Whether tables show it."""
        return self.named or self.k in self.metric.shown


# What was asked for: ``default``, ``full``, names, joined by commas or in a list; also chosen ones.
Spec = str | Chosen | Sequence[str | Chosen]


def heading(name: str) -> str:
    """What tables call a metric: ``R@5`` for ``hit_rate@5``; one that we don't know keeps its name."""
    stem, _, k = name.partition("@")
    return metrics()[stem].label.format(k=k) if stem in metrics() and k else name


def metrics() -> dict[str, Metric]:
    """Every metric by name, sorted."""
    return dict(sorted(METRICS.items()))


def parse(name: str) -> Chosen:
    """The metric and cut-off that a name such as ``ndcg@10`` means; case doesn't matter.

    Raises:
        UsageError: there is none; a bare ``recall@5`` gets both of its meanings offered.
    """
    match = re.fullmatch(r"([a-z_]+)@([1-9][0-9]{0,5})", name.strip().lower())
    stem, k = (match[1], int(match[2])) if match else (name.strip().lower().partition("@")[0], 5)
    if stem in {"recall", "r"}:
        raise UsageError(
            f"'{name}' can mean two things",
            expected=f"hit_rate@{k} (M2KR's Recall@{k}: any right passage in the top {k}), or "
            f"set_recall@{k} (the share of the right passages in the top {k})",
            fix=f"--metrics hit_rate@{k}",
        )
    if match and stem in metrics():
        return Chosen(metrics()[stem], k, named=True)
    headings = {m.label.partition("@")[0].lower(): m.name for m in reversed(metrics().values())}
    near = [headings[stem]] if stem in headings else difflib.get_close_matches(stem, metrics(), n=1)
    raise UsageError(
        f"there is no metric '{name}'",
        expected=f"default, full, {', '.join(f'{m}@K' for m in metrics())}, or my_metric.py:fn@K",
        fix=f"did you mean '{near[0]}@{k}'?" if near else None,
    )


def own(compute: Callable[..., Any], k: int) -> Chosen:
    """A metric of the user's, at a cut-off.

    Args:
        compute: Called with a `JudgedRun` and the cut-off; returns a number for each of its queries.
        k: The cut-off; 0 for the depth of the run.

    Raises:
        UsageError: one of ours has its name.
    """
    for metric in METRICS.values():
        if metric.compute is compute:  # decorated
            return Chosen(metric, k, named=True)
    name = getattr(compute, "__name__", type(compute).__name__)
    _require_free(name)
    label = f"{name}@{{k}}"
    return Chosen(Metric(name, label, compute, _first_line(compute), default=False), k, named=True)


def choose(spec: Spec, depth: int | None = None) -> list[Chosen]:
    """What to compute, without repeats.

    Args:
        spec: ``default``, ``full``, names, or several of them (joined by commas, or a list).
        depth: Where the grids of ``default`` and ``full`` end: how deep the run was asked to go. None
            to check the names alone.

    Raises:
        UsageError: an unknown name, or two metrics have one name.
    """
    words = [spec] if isinstance(spec, Chosen) else spec
    words = words.split(",") if isinstance(words, str) else words
    chosen: dict[str, Chosen] = {}
    for word in words:
        if isinstance(word, Chosen):
            choices = [word]
        elif word.strip() in {"default", "full"}:
            choices = [
                Chosen(metric, k)
                for metric in metrics().values()
                if metric.default or word.strip() == "full"
                for k in metric.ks or GRID
                if depth is None or k <= depth
            ]
        else:
            choices = [parse(word)]
        for choice in choices:
            if choice.name in chosen and chosen[choice.name].metric is not choice.metric:
                raise UsageError(
                    f"two metrics are called '{choice.name}'",
                    fix="give the functions different names",
                )
        # A name says more than a grid that holds it.
        chosen.update((new.name, new) for new in choices if new.named or new.name not in chosen)
    return list(chosen.values())
