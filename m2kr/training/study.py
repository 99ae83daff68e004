"""Runs a study: mines, trains, scores and compares what its plan lists, and goes on where it was stopped.

    OUT/study.json  study.md  figures/*.png, *.svg
    OUT/stages/STAGE.KEY/stage.json  NAME.FINGERPRINT/ (of `m2kr.training.loop.train`)
    OUT/results/SYSTEM.EVALUATION.KEY/ (of `m2kr.evaluate`)  OUT/mined/  OUT/starts/

What is done has a key of all that decides it, and is found again by it; nothing is written over.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic, locks
from m2kr.data.load import Split, load
from m2kr.evaluation.compare import compare_results
from m2kr.evaluation.result import Result, file_word
from m2kr.evaluation.result_files import result_in
from m2kr.paths import data_root
from m2kr.progress import SILENT, Progress, task
from m2kr.report.plots import require_matplotlib
from m2kr.training.recipe import Recipe
from m2kr.training.recipe_file import recipe_fingerprint
from m2kr.training.study_figures import write_figures
from m2kr.training.study_file import Evaluation, Study
from m2kr.training.study_outcome import Scored, StudyOutcome, Tested
from m2kr.training.study_plan import (
    PlannedStage,
    StudyPlan,
    System,
    digest,
    known_start,
    known_system,
)
from m2kr.training.study_tables import as_markdown

if TYPE_CHECKING:
    from m2kr.retrieval.protocol import Retriever

log = logging.getLogger("m2kr.training")


def run_study(
    study: Study,
    *,
    data: Path | None = None,
    out: Path,
    progress: Progress = SILENT,
    tell: Callable[[str], None] = log.info,
) -> StudyOutcome:
    """Does what a study's plan lists and isn't done yet, and writes its outcome.

    Args:
        study: The study.
        data: Data root.
        out: Its folder; the same call goes on with what is there.
        progress: Told of stages and what they do.
        tell: Told a line of each stage and evaluation that is begun.

    Raises:
        MissingError: A source isn't built, or a package is not installed.
        M2KRError: A recipe, a run or an evaluation is refused; names which.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locks.hold(out / ".lock", f"the study in {out}", wait=False):
        return _Runner(study, data_root(data), out.absolute(), progress, tell).run()


class _Runner:
    def __init__(
        self,
        study: Study,
        data: Path,
        out: Path,
        progress: Progress,
        tell: Callable[[str], None],
    ) -> None:
        self._study, self._data, self._out = study, data, out
        self._progress, self._tell = progress, tell
        self._splits: dict[str, Split] = {}
        require_matplotlib()
        for evaluation in study.evaluations.values():
            load(evaluation.source, evaluation.split, data=data)  # missing data are told at once
        self._plan = StudyPlan(study, out, data)
        for source in self._plan.unbuilt:
            load(source, "train", data=data)

    def run(self) -> StudyOutcome:
        for name in self._study.mined:
            self._mine(name)
        stages = self._plan.stages
        with task(self._progress, "stages", len(stages), "stages"):
            for number, stage in enumerate(stages, 1):
                self._train(stage, f"stage {number} of {len(stages)}")
                self._progress.advance("stages", 1)
        systems = self._plan.systems
        scored = []
        with task(self._progress, "systems", len(systems), "systems"):
            for system in systems:
                scored.append(self._score(system))
                self._progress.advance("systems", 1)
        outcome = StudyOutcome(self._study, self._out, stages, scored, self._tests(scored))
        figures = write_figures(outcome, self._out / "figures")
        atomic.write_json(self._out / "study.json", outcome.as_dict())
        atomic.write_text(self._out / "study.md", as_markdown(outcome, figures))
        return outcome

    def _mine(self, name: str) -> None:
        from m2kr.training.mine import mine

        path, mined = self._plan.mined[name], self._study.mined[name]
        if path.is_file():
            return
        self._tell(f"mining {mined.source} with {mined.retriever}")
        path.parent.mkdir(parents=True, exist_ok=True)
        mine(
            mined.source,
            mined.retriever,
            split=mined.split,
            k=int(mined.k) if mined.k else None,
            margin=float(mined.margin) if mined.margin else None,
            out=path,
            settings=mined.set,
            data=self._data,
            progress=self._progress,
        )

    def _train(self, stage: PlannedStage, place: str) -> None:
        if stage.record is not None and stage.model.is_dir():
            return
        from m2kr.training.loop import train

        steps = stage.recipe.steps.steps
        self._tell(f"{place}: {stage.stage}, {steps:,} steps")
        began = time.perf_counter()
        trained = train(stage.recipe, data=self._data, out=stage.folder, progress=self._progress)
        record = {
            "run": trained.folder.name,
            "key": stage.key,
            "steps": trained.steps,
            "seconds": round(trained.seconds, 3),
            "wall_seconds": round(time.perf_counter() - began, 3),
        }
        atomic.write_json(stage.folder / "stage.json", record)

    def _score(self, system: System) -> Scored:
        results = {
            name: self._result(system, name, evaluation)
            for name, evaluation in self._study.evaluations.items()
        }
        return Scored(system, results)

    def _result(self, system: System, name: str, evaluation: Evaluation) -> Result:
        from m2kr import api

        baseline = self._study.baselines.get(system.name)
        if system.stage is not None:
            who: Any = system.stage.key
        elif system.start is not None:
            who = recipe_fingerprint(Recipe("start", start=known_start(system.start.start)))
        else:
            who = known_system(baseline) if baseline else None
        fingerprints = self._plan.fingerprint(evaluation.source, evaluation.split)
        key = digest(system.name, who, asdict(evaluation), fingerprints, self._study.metrics)[:8]
        folder = self._out / "results" / ".".join(map(file_word, (system.name, name, key)))
        if folder.is_dir():
            for file in sorted(folder.glob("*.json")):
                if (found := result_in(file)) is not None:
                    return found
        self._tell(f"scoring {system.name} on {name}")
        result = api.evaluate(
            self._split(name, evaluation),
            self._retriever(system, evaluation),
            settings=baseline.set if baseline else None,
            metrics=list(dict.fromkeys(["default", *self._study.metrics])),
            label="" if baseline and baseline.retriever == system.name else system.name,
            out=folder,
            data=self._data,
            cache=True,
            progress=self._progress,
        )
        if result.unsaved:
            raise result.unsaved[0]
        return result[0]

    def _split(self, name: str, evaluation: Evaluation) -> Split:
        import numpy as np

        from m2kr.training.sampled_split import sample

        if name not in self._splits:
            split = load(evaluation.source, evaluation.split, data=self._data)
            if evaluation.passages:
                rows = np.arange(len(split))
                split = sample(split, rows, None, int(evaluation.passages))
            self._splits[name] = split
        return self._splits[name]

    def _retriever(self, system: System, evaluation: Evaluation) -> "str | Retriever":
        baseline = self._study.baselines.get(system.name)
        if baseline is not None and baseline.retriever:
            return baseline.retriever
        from m2kr.training.instruction_views import CheckpointReading

        folder = system.stage.model if system.stage else self._start(system)
        return CheckpointReading(folder, evaluation.instructions)

    def _start(self, system: System) -> Path:
        """The model that training starts from, as a checkpoint."""
        from m2kr.training.start import build_model

        assert system.start is not None
        start = system.start.start
        folder = self._out / "starts" / digest(asdict(known_start(start)))[:8]
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with atomic.writing(folder) as tmp:
                build_model(start).save_pretrained(tmp)
        return folder

    def _tests(self, scored: Sequence[Scored]) -> list[Tested]:
        repeat, tests = self._study.repeat, []
        for value in self._study.grid.get(repeat, ("",)):
            here = [
                one
                for one in scored
                if one.system.last and one.system.point.get(repeat, value) == value
            ]
            for names in self._study.tests or (None,):
                chosen = [one for one in here if names is None or _is_of(one.system, names)]
                if len(chosen) < 2:
                    continue
                for name in self._study.evaluations:
                    metrics = list(self._study.metrics)
                    results = [one.results[name] for one in chosen]
                    compared = compare_results(results, metrics=metrics, progress=self._progress)
                    tests.append(Tested(name, value, compared))
        return tests


def _is_of(system: System, names: Sequence[str]) -> bool:
    return (system.arm or system.name) in names
