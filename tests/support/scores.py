"""Scores of a run that is already made."""

from m2kr.data.load import Split
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.metrics import Spec
from m2kr.evaluation.result import Result
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run


def score(split: Split, run: Run, metrics: Spec = "default", **options) -> Result:
    return evaluate_split(split, RunRetriever(run), metrics=metrics, **options)
