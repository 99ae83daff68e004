"""What a study found: its runs, systems with their scores, and comparisons; and its runs' logs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2kr.evaluation.compare import Comparison
from m2kr.evaluation.result import Result, versions
from m2kr.training.recipe_file import recipe_fingerprint
from m2kr.training.study_file import Study
from m2kr.training.study_plan import PlannedStage, System

FORMAT = "m2kr-study-1"


@dataclass(frozen=True, slots=True)
class Scored:
    """A system with its scores.

    Attributes:
        system: The system.
        results: By the evaluation's name.
    """

    system: System
    results: Mapping[str, Result]


@dataclass(frozen=True, slots=True)
class Tested:
    """Systems compared on one evaluation.

    Attributes:
        evaluation: Its name.
        repeat: The value of the study's ``repeat``; empty without one.
        comparison: What it found.
    """

    evaluation: str
    repeat: str
    comparison: Comparison


@dataclass(frozen=True)
class StudyOutcome:
    """A finished study.

    Attributes:
        study: What was asked for.
        folder: Where everything is.
        stages: The runs, each once.
        scored: Systems with their scores.
        tests: Comparisons.
    """

    study: Study
    folder: Path
    stages: Sequence[PlannedStage]
    scored: Sequence[Scored]
    tests: Sequence[Tested]

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values; paths from the study's folder on."""
        study = {k: v for k, v in asdict(self.study).items() if k != "folder"}
        return {
            "format": FORMAT,
            "study": study,
            "stages": [self._stage(stage) for stage in self.stages],
            "systems": [
                {
                    "name": one.system.name,
                    "arm": one.system.arm,
                    "after": [stage.key for stage in one.system.stage.chain]
                    if one.system.stage
                    else [],
                    "last": one.system.last,
                    "point": dict(one.system.point),
                    "results": {name: self._result(r) for name, r in one.results.items()},
                }
                for one in self.scored
            ],
            "tests": [
                {"evaluation": t.evaluation, "repeat": t.repeat, **t.comparison.as_dict()}
                for t in self.tests
            ],
            "versions": dict(versions()),
        }

    def _stage(self, stage: PlannedStage) -> dict[str, Any]:
        record = stage.record or {}
        model = stage.model.relative_to(self.folder).as_posix()
        return {
            "key": stage.key,
            "stage": stage.stage,
            "before": stage.before.key if stage.before else None,
            "recipe": recipe_fingerprint(stage.recipe),
            "model": model,
            **{name: record.get(name) for name in ("steps", "seconds")},
        }

    def _result(self, result: Result) -> dict[str, Any]:
        file = result.path.relative_to(self.folder).as_posix() if result.path else None
        return {"file": file, "metrics": dict(result.metrics)}


def read_log(stage: PlannedStage) -> list[dict[str, Any]]:
    """The rows of a finished run's log."""
    file = stage.model.parent / "log.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
