"""A benchmark audited: findings, and what each metric can reach and has by chance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from m2kr.audit import (  # noqa: F401 - their checks register themselves
    checks_duplicates,
    checks_fields,
    checks_judgements,
    checks_shortcuts,
)
from m2kr.audit.benchmark import Benchmark, read_source
from m2kr.audit.checks_shortcuts import random_hit_rate
from m2kr.audit.facts import KS, Facts, SplitFacts
from m2kr.audit.findings import CHECKS, SEVERITIES, Finding
from m2kr.audit.folders import read_folder
from m2kr.errors import M2KRError, UsageError, plainly
from m2kr.evaluation.judgements import JudgedRun
from m2kr.evaluation.metrics import metrics
from m2kr.progress import SILENT, Progress, task
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    import os

    from m2kr.audit.findings import Severity


@dataclass(frozen=True)
class SplitSummary:
    """A split in numbers.

    Attributes:
        queries: Queries.
        judged: Queries with a right passage, in the corpus or not.
        corpus: What it is searched in.
        passages: Passages there.
        ceilings: The most that a retriever can have, by metric such as ``set_recall@5``.
        by_chance: What a random order of the corpus has, in expectation.
    """

    queries: int
    judged: int
    corpus: str
    passages: int
    ceilings: Mapping[str, float]
    by_chance: Mapping[str, float]


@dataclass(frozen=True)
class AuditReport:
    """What an audit says.

    Attributes:
        name: Of the benchmark.
        kind: What it is.
        splits: In numbers, by name.
        findings: Errors first, the most frequent first.
        checks: Codes of all checks that were made.
    """

    name: str
    kind: str
    splits: Mapping[str, SplitSummary]
    findings: Sequence[Finding]
    checks: Sequence[str]

    @property
    def counts(self) -> dict[str, int]:
        """Findings by severity."""
        counts = Counter(finding.hit.severity for finding in self.findings)
        return {severity: counts[severity] for severity in SEVERITIES}

    def fails(self, severity: str) -> bool:
        """Whether there is a finding of a severity or a worse one; never of ``never``."""
        worse = SEVERITIES[: SEVERITIES.index(severity) + 1] if severity in SEVERITIES else ()
        return any(finding.hit.severity in worse for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "benchmark": self.name,
            "kind": self.kind,
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "findings": [
                {"code": f.code, **asdict(f.hit), "share": f.hit.share, "advice": f.advice}
                for f in self.findings
            ],
            "counts": self.counts,
            "checks": list(self.checks),
        }


@plainly()
def audit(
    target: "str | os.PathLike[str]",
    splits: Sequence[str] | None = None,
    *,
    edition: str | None = None,
    data: "str | os.PathLike[str] | None" = None,
    images: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> AuditReport:
    """Looks for what makes a benchmark's scores wrong or doubtful.

    Args:
        target: A built source; or a folder of BEIR, M-BEIR, ReT-M2KR or MTEB's form.
        splits: Which; all if absent.
        edition: Of a built source.
        data: Data root of built sources.
        images: Image roots searched before the benchmark's own.
        progress: Is told how far it is.

    Raises:
        UsageError: the name may be a source and a folder, or is neither.
        MissingError: a folder is of no form that is known, or the source is not built.
    """
    return audited(_opened(target, splits, edition, data, images, progress), progress)


def _opened(
    target: "str | os.PathLike[str]",
    splits: Sequence[str] | None,
    edition: str | None,
    data: "str | os.PathLike[str] | None",
    images: Sequence[Path],
    progress: Progress,
) -> Benchmark:
    text, folder = str(target), Path(target)
    if not text.strip():
        raise UsageError("the name is empty; is a variable unset?", expected="a source or a folder")
    plain = isinstance(target, str) and folder.name == text and text not in (".", "..")
    if not plain or (folder.is_dir() and edition is None):
        if plain:
            try:
                read_source(text, splits, data=data)
            except M2KRError:
                pass
            else:
                raise UsageError(
                    f"'{text}' is a built source and a folder here",
                    fix=f"m2kr audit ./{text} for the folder; --edition NAME for the source",
                )
        return read_folder(folder, splits, images=images, progress=progress)
    try:
        return read_source(text, splits, edition=edition, data=data, images=images)
    except UsageError as error:
        if not error.what.startswith("there is no source"):
            raise
        what = f"{error.what}, and no folder of this name here"
        raise UsageError(what, expected=error.expected, fix=error.fix) from error


def audited(benchmark: Benchmark, progress: Progress = SILENT) -> AuditReport:
    """The report on a benchmark that was read."""
    facts = Facts(benchmark, progress)
    findings = []
    with task(progress, "checks", len(CHECKS), "checks"):
        for check in CHECKS.values():
            findings += [Finding(check.code, check.advice, hit) for hit in check.look(facts)]
            progress.advance("checks", 1)
    order: dict[Severity, int] = {severity: place for place, severity in enumerate(SEVERITIES)}
    findings.sort(key=lambda f: (order[f.hit.severity], -f.hit.share))
    summaries = {split.name: _summary(split) for split in facts.splits}
    return AuditReport(benchmark.name, benchmark.kind, summaries, findings, list(CHECKS))


def _summary(split: SplitFacts) -> SplitSummary:
    judged = split.positives > 0
    ceilings: dict[str, float] = {}
    by_chance: dict[str, float] = {}
    if judged.any():
        ceilings = _ceilings(split)
        total = max(1, len(split.corpus))
        share = float((split.reachable[judged] / split.positives[judged]).mean())
        for k in KS:
            by_chance[f"hit_rate@{k}"] = float(random_hit_rate(split, k)[judged].mean())
            by_chance[f"set_recall@{k}"] = share * min(1.0, k / total)
    return SplitSummary(
        len(split), int(judged.sum()), split.corpus.name, len(split.corpus), ceilings, by_chance
    )


def _ceilings(split: SplitFacts) -> dict[str, float]:
    """Every metric of judgements for the best ranking there is: right passages, best grade first."""
    graded = split.pairs(split.grades > 0)
    inside = graded[split.rows[graded] >= 0]
    owners, grades = split.owners[inside], split.grades[inside]
    order = np.lexsort((-grades, owners))
    owners, inside = owners[order], inside[order]
    first = np.searchsorted(owners, owners)
    keep = np.arange(len(owners)) - first < max(KS)
    owners, inside, rank = owners[keep], inside[keep], (np.arange(len(owners)) - first)[keep]
    asked = np.unique(split.owners[graded])
    names = split.ids.take(pa.array(asked)).to_pylist()
    counts = np.bincount(owners, minlength=len(split))[asked]
    passages = split.qrels.column("passage_id").take(pa.array(inside)).combine_chunks()
    passages = passages if isinstance(passages, pa.Array) else pa.concat_arrays(passages.chunks)
    run = Run(names, counts, passages, -rank)
    qrels = split.qrels.take(pa.array(graded))
    qrels = qrels.rename_columns(["question_id", "passage_id", "relevance"])
    judged = JudgedRun(run, qrels, [()] * len(names), lambda _: [], threshold=split.data.threshold)
    return {
        f"{metric.name}@{k}": float(scores[defined].mean())
        for metric in metrics().values()
        if not metric.name.startswith("pseudo_recall")
        for k in metric.ks or KS
        if (defined := ~np.isnan(scores := metric.scores(judged, k))).any()
    }
