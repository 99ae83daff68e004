"""Scoring what was handed in: the harness that evaluates retrievers scores the runs, and no code of theirs.

Every metric of the published grid is computed as far as a run is deep, and what else is claimed of it.
"""

from dataclasses import replace
from pathlib import Path

from m2kr.errors import M2KRError
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.metrics import Chosen, choose
from m2kr.progress import SILENT, Progress, task
from m2kr.retrieval.replay import RunRetriever

from .anomalies import run_notes, run_sketch
from .checks import RunCase, check_run, check_scores
from .problems import Problem, SubmissionRefused
from .scored import ScoredRun, ScoredSubmission
from .submission import Submission
from .system_card import SystemCard


def recompute(
    submission: Submission, data: Path | None = None, progress: Progress = SILENT
) -> ScoredSubmission:
    """Checks every run of a submission, and scores it with our harness.

    Args:
        submission: Whose form holds; nothing of it is executed.
        data: Data root in which judge files and built sources are looked for, beside those that m2kr brings
            along; else ``M2KR_DATA``, else the user data folder.
        progress: Told of the runs.

    Returns:
        The runs in the order of the card's, each with notes on what is odd about it.

    Raises:
        SubmissionRefused: with every fault of every run.
    """
    card = submission.card
    problems: list[Problem] = []
    scored: list[ScoredRun] = []
    with task(progress, "runs", len(card.runs)):
        for submitted in card.runs:
            case = RunCase(submitted, submission.run_path(submitted))
            faults = check_run(case, data)
            if not faults:
                faults = _score(case, card)
            if not faults:
                assert case.result is not None and case.known is not None
                notes, sketch = run_notes(case, card), run_sketch(case.result.load_run())
                # Its rankings are of no more use, and ten such runs would take gigabytes.
                result = replace(case.result, run=None)
                scored.append(ScoredRun(submitted, result, case.known.verified, notes, sketch))
            problems += faults
            progress.advance("runs", 1)
    if problems:
        raise SubmissionRefused(problems)
    return ScoredSubmission(card, submission.sha256, tuple(scored))


def _score(case: RunCase, card: SystemCard) -> list[Problem]:
    """Scores a run without a fault; what is wrong with what is claimed of it."""
    run, known, submitted = case.ranked, case.known, case.submitted
    assert run is not None and known is not None
    # By grid and not by name: which metrics are shown must not depend on what is claimed.
    claimed = [Chosen(one.metric, one.k) for one in choose(list(submitted.scores))]
    metrics = {one.name: one for one in [*choose("full", submitted.k), *claimed]}
    try:
        result = evaluate_split(
            known.split,
            # What the file says of its making is its submitter's: only rankings go in.
            RunRetriever(run.named(card.name, k=submitted.k), card.name),
            k=submitted.k,
            metrics=list(metrics.values()),
        )
    except M2KRError as error:
        return [
            Problem("scored", submitted.file, error.what, error.expected or "", error.fix or "")
        ]
    case.result = replace(
        result,
        # Neither our folders nor what scoring took: a system's cost is what its card says.
        experiment={**result.experiment, "data": ""},
        seconds={"total": 0.0},
        cost={},
        peak_memory_bytes=None,
    )
    return check_scores(case)
