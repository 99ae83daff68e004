"""Hostile runs in the scorer itself, behind a door that looked at nothing."""

from pathlib import Path

import hostile_runs  # noqa: F401 - it fills CASES
import pytest
from hostile_kit import CASES, RIGHT, Case, Place, copy_of, params, plain, scored_unseen
from support.plain_scores import KNOWN, ranked, rows_of, value

from m2kr_leaderboard.problems import SubmissionRefused
from m2kr_leaderboard.scored import ScoredSubmission

RUNS = {name: case for name, case in CASES.items() if case.spoil.__module__ == "hostile_runs"}


def require_right(folder: Path, submission: ScoredSubmission) -> None:
    """The scores are those that plain loops find in the files."""
    for run in submission.runs:
        rows = rows_of(folder / run.submitted.file)
        split, ranking = plain(run.submitted.source), ranked(rows, run.submitted.k)
        names = [m for m in run.result.metrics if m.partition("@")[0] in KNOWN]
        assert len(names) > 10
        for name in names:
            mean, n = value(name, split, ranking)
            assert run.result.metrics[name]["value"] == pytest.approx(mean, abs=1e-12)
            assert run.result.metrics[name]["n"] == n


def test_the_harness_scores_as_plain_loops_do(place: Place) -> None:
    require_right(place.valid, scored_unseen(place.valid, place.data))


@pytest.mark.parametrize("case", params(RUNS))
def test_a_hostile_run_is_refused_or_scored_rightly(
    case: Case, place: Place, tmp_path: Path
) -> None:
    folder = copy_of(place.valid, tmp_path)
    case.spoil(folder)
    try:
        done = scored_unseen(folder.path, place.data)
    except SubmissionRefused as refused:
        assert set(case.checks) & {RIGHT, *(problem.check for problem in refused.problems)}, refused
        assert all(problem.fix for problem in refused.problems)
    else:
        assert case.checks == (RIGHT,)
        require_right(folder.path, done)
