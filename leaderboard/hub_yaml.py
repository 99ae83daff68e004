"""Recomputed scores as ``.eval_results/*.yaml``, which the Hugging Face Hub reads in models' repositories.

Source: the Hub's documentation, "Evaluation Results" (huggingface.co/docs/hub/eval-results).
"""

import re
from pathlib import Path
from typing import Any

import yaml

from m2kr.atomic import write_text
from m2kr.errors import UsageError

from .scored import ScoredSubmission

_PART = r"(?!.*(--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_DATASET = re.compile(rf"{_PART}/{_PART}", re.ASCII)


def require_dataset_id(dataset: str) -> str:
    """The id of a dataset on the Hub.

    Raises:
        UsageError: it is none.
    """
    if not _DATASET.fullmatch(dataset) or dataset.endswith(".git"):
        raise UsageError(
            f"{dataset!r} is no dataset's id on the Hub",
            expected="OWNER/DATASET, the benchmark whose eval.yaml defines the tasks",
            fix="--hub-yaml OWNER/DATASET",
        )
    return dataset


def hub_entries(scored: ScoredSubmission, dataset: str) -> list[dict[str, Any]]:
    """One entry for each shown metric of each run, with our value, from 0 to 1.

    Args:
        scored: A submission whose checks hold.
        dataset: OWNER/DATASET. The task is ``<source>.<split>.<metric>@<K>``, which the dataset's
            ``eval.yaml`` must define.

    Raises:
        UsageError: that is no dataset's id.
    """
    require_dataset_id(dataset)
    entries = []
    for run in scored.runs:
        data = f"{run.submitted.edition}, {run.submitted.fingerprint[:16]}"
        notes = f"recomputed from the run by m2kr {scored.harness} on {data}" + (
            "" if run.verified else "; unverified data"
        )
        for metric in run.result.shown:
            value = run.result.value(metric)
            if value is not None:
                task = f"{run.submitted.source}.{run.submitted.split}.{metric}"
                place = {"id": dataset, "task_id": task}
                entries.append({"dataset": place, "value": float(value), "notes": notes})
    return entries


def write_hub_yaml(scored: ScoredSubmission, dataset: str, path: Path) -> Path:
    """Writes `hub_entries`, whole or not at all.

    Raises:
        UsageError: that is no dataset's id.
    """
    text = yaml.safe_dump(hub_entries(scored, dataset), sort_keys=False, width=1000)
    write_text(path, text)
    return path
