"""Runs on mini's test split that are made up, and submissions of them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import m2kr_leaderboard
from m2kr.evaluation.judge_file import JudgeFile
from m2kr.retrieval.run import Run
from m2kr_leaderboard.known_data import load_known_data
from m2kr_leaderboard.recompute import recompute
from m2kr_leaderboard.scored import ScoredSubmission
from m2kr_leaderboard.submission import Submission
from m2kr_leaderboard.system_card import SubmittedRun, SystemCard

MINI = next(d for d in load_known_data() if (d.source, d.split) == ("mini", "test"))
DEPTH = 100


@cache
def mini_judge() -> JudgeFile:
    """The judge file that the package has."""
    folder = Path(m2kr_leaderboard.__file__).parent
    return JudgeFile.load(folder / "data" / "judges" / MINI.judge["file"])


def random_rankings(seed: int = 0) -> list[list[str]]:
    """Of each query 100 passages by chance."""
    rng = np.random.default_rng(seed)
    pool = mini_judge().passages_view.ids.to_pylist()
    rows = (rng.choice(len(pool), DEPTH, replace=False) for _ in mini_judge().queries_view.ids)
    return [[pool[i] for i in chosen] for chosen in rows]


def ranked_run(seed: int = 0) -> Run:
    """A run that has a right passage for most queries, higher or lower."""
    rng = np.random.default_rng(seed)
    lists = random_rankings(seed)
    for ids, right in zip(lists, mini_judge().queries_view.column("pos_item_ids"), strict=True):
        if right and rng.random() < 0.6 and right[0] not in ids:
            ids[min(DEPTH - 1, int(rng.exponential(8)))] = right[0]
    return run_of(lists, [np.sort(rng.normal(size=DEPTH))[::-1] for _ in lists])


def run_of(lists: list[list[str]], scores: Any = None, **metadata: Any) -> Run:
    """A run of rankings in the order of the split's queries; without scores those of their ranks."""
    scores = [-np.arange(len(ids), dtype=float) for ids in lists] if scores is None else scores
    queries = mini_judge().queries_view.ids.to_pylist()
    return Run.from_lists(queries, lists, scores, metadata={"k": DEPTH, **metadata})


def mini_submission(
    folder: Path,
    run: Run | None,
    suffix: str = "parquet",
    *,
    card: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Submission:
    """A submission of one run; ``facts`` replace what its card says of the run, ``card`` of the system."""
    file = f"runs/mini.test.{suffix}"
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    if run is not None:
        run.save(folder / file)
    submitted = SubmittedRun(
        source="mini",
        split="test",
        edition="mini",
        file=file,
        fingerprint=MINI.eval,
        k=DEPTH,
        run_sha256=run.sha256() if run is not None else "0" * 64,
    )
    fields: dict[str, Any] = {
        "name": "tried",
        "title": "Tried",
        "version": "1",
        "authors": ("A. Body",),
        "contact": "a@example.org",
        "licence": "MIT",
        "kind": "single-stage",
        "query_modalities": ("text",),
        "passage_modalities": ("text",),
        "parameters": 0,
        "training_data": (),
        "zero_shot": {},
        "hardware": "a laptop",
        "m2kr_version": "0.1.0",
        "runs": (replace(submitted, **facts),),
    }
    return Submission(folder, SystemCard(**fields | dict(card or {})), "0" * 64)


def scored_on_mini(
    folder: Path, run: Run, suffix: str = "parquet", **facts: Any
) -> ScoredSubmission:
    """What the harness finds of such a submission, without any data but the package's."""
    return recompute(mini_submission(folder, run, suffix, **facts), folder / "no data")
