"""What a study takes: its stages, each once however many arms share it, and its systems."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from m2kr.data.load import load
from m2kr.errors import M2KRError, MissingError
from m2kr.evaluation.result import file_word
from m2kr.retrievers._models import cached_sha256, files_sha256
from m2kr.training.recipe import Recipe, Start
from m2kr.training.recipe_file import load_recipe, recipe_fingerprint
from m2kr.training.start import EMBEDDED
from m2kr.training.study_file import BaselineSystem, MinedPassages, Point, Study


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One training run.

    Attributes:
        key: Of all that decides its result: recipe, data, also of validation, and the stages before it.
        stage: Its name in the study.
        recipe: Its recipe, which starts from the stage before it.
        folder: Where it is trained.
        before: The stage whose weights it starts from.
    """

    key: str
    stage: str
    recipe: Recipe
    folder: Path
    before: "PlannedStage | None" = None

    @property
    def record(self) -> dict[str, Any] | None:
        """What was written down when it was finished; None before."""
        file = self.folder / "stage.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @property
    def model(self) -> Path:
        """Its trained model, once there is one."""
        run = (self.record or {}).get("run") or _run_name(self.recipe)
        return self.folder / run / "model"

    @property
    def chain(self) -> "tuple[PlannedStage, ...]":
        """The stages up to this one."""
        return (*(self.before.chain if self.before else ()), self)


@dataclass(frozen=True, slots=True)
class System:
    """What is scored.

    Attributes:
        name: In tables: the arm's or the baseline's, with the point of the grid, the repeat left out.
        point: Of the grid; of baselines the repeat alone, if it matters to them.
        arm: Empty for baselines.
        stage: After which; None for baselines.
        last: Whether it ends its arm, or is a baseline.
        start: Of the untrained model: the recipe that says which.
    """

    name: str
    point: Point
    arm: str = ""
    stage: PlannedStage | None = None
    last: bool = True
    start: Recipe | None = None


class StudyPlan:
    """A study's runs and systems.

    Args:
        study: The study.
        out: Its folder.
        data: Data root.

    Attributes:
        systems: In the order of tables: baselines, then arms, for each point of the grid.
        unbuilt: Sources that are not built yet; with some, nothing that is there already is known again.
    """

    def __init__(self, study: Study, out: Path, data: Path | None = None) -> None:
        self.study, self.out, self._data = study, out.absolute(), data
        self.unbuilt: list[str] = []
        self._stages: dict[str, PlannedStage] = {}
        self._ids: dict[tuple[str, str, str | None], Any] = {}
        self.systems = list(self._systems())

    @property
    def stages(self) -> list[PlannedStage]:
        """The runs, each once, earlier stages first."""
        return list(self._stages.values())

    @cached_property
    def mined(self) -> dict[str, Path]:
        """By name the files that are mined."""
        return {
            name: self.out / "mined" / f"{file_word(name)}.{self._mined_key(mined)[:8]}.parquet"
            for name, mined in self.study.mined.items()
        }

    def fingerprint(self, source: str, split: str, edition: str | None = None) -> Any:
        """What a split holds; None as long as it isn't built."""
        key = source, split, edition
        if key not in self._ids:
            try:
                self._ids[key] = load(source, split, edition=edition, data=self._data).fingerprints
            except MissingError:
                self._ids[key] = None
                self.unbuilt.append(source)
        return self._ids[key]

    def _systems(self) -> Iterator[System]:
        study = self.study
        varying = [name for name, values in study.grid.items() if len(values) > 1]
        shown = [name for name in varying if name != study.repeat]
        scored: set[str] = set()
        for number, point in enumerate(study.points()):
            repeat = {name: value for name, value in point.items() if name == study.repeat}
            arms = {arm: self._chain(stages, point) for arm, stages in study.arms.items()}
            if all(
                point[name] == study.grid[name][0] for name in study.grid if name != study.repeat
            ):
                for name, baseline in study.baselines.items():
                    if baseline.retriever and number == 0:
                        yield System(name, {})
                    elif not baseline.retriever:
                        first = next((c[0].recipe for c in arms.values() if c), None)
                        yield System(name, repeat, start=first or self._start(point))
            at = ", ".join(f"{name} {point[name]}" for name in shown)
            for arm, chain in arms.items():
                for stage in chain if study.each_stage else chain[-1:]:
                    last = stage is chain[-1]
                    if not last and stage.key in scored:
                        continue  # as part of another arm
                    scored |= set() if last else {stage.key}
                    name = arm if last else f"after {' + '.join(s.stage for s in stage.chain)}"
                    yield System(f"{name}, {at}" if at else name, point, arm, stage, last)

    def _start(self, point: Point) -> Recipe:
        """The recipe of the first stage, for the model that it starts from."""
        first = next(iter(self.study.stages))
        return self._recipe(first, point, None)

    def _chain(self, stages: tuple[str, ...], point: Point) -> list[PlannedStage]:
        chain: list[PlannedStage] = []
        for name in stages:
            settings = self.study.settings(name, point, self._mined_paths)
            if settings.get("steps.steps", "").strip() == "0":
                continue
            before = chain[-1] if chain else None
            recipe = self._recipe(name, point, before)
            key = self._key(recipe, before)
            if key not in self._stages:
                folder = self.out / "stages" / f"{file_word(name)}.{key[:8]}"
                self._stages[key] = PlannedStage(key, name, recipe, folder, before)
            chain.append(self._stages[key])
        return chain

    def _recipe(self, stage: str, point: Point, before: PlannedStage | None) -> Recipe:
        name = self.study.stages[stage].recipe
        own = self.study.folder / name
        settings = self.study.settings(stage, point, self._mined_paths)
        settings["name"] = file_word(stage)
        if before is not None:
            settings["start.checkpoint"] = str(before.model)
        try:
            return load_recipe(own if own.is_file() else name, settings)
        except M2KRError as error:
            place = f"stage {stage} of the study {self.study.name}"
            raise type(error)(
                error.what,
                where=f"{place}, {error.where}" if error.where else place,
                expected=error.expected,
                fix=error.fix,
            ) from error

    def _key(self, recipe: Recipe, before: PlannedStage | None) -> str:
        negatives, teacher, validation = recipe.negatives, recipe.distillation, recipe.validation
        trained_on = recipe.data.sources
        validated_on = validation.sources if validation.every else ()
        start = known_start(recipe.start)
        if before is not None:
            start = replace(recipe.start, checkpoint=before.key)
        same = replace(
            recipe,
            start=start,
            negatives=replace(negatives, file=self._file_id(negatives.file)),
            distillation=replace(teacher, file=self._file_id(teacher.file)),
        )
        return digest(
            recipe_fingerprint(same),
            asdict(validation) if validation.every else None,  # it is in the log
            [self.fingerprint(s.source, s.split, s.edition) for s in (*trained_on, *validated_on)],
        )

    def _file_id(self, file: str | None) -> str | None:
        if file is None:
            return None
        for name, path in self.mined.items():
            if Path(file) == path:
                return self._mined_key(self.study.mined[name])
        return content_sha256(Path(file)) or file

    @property
    def _mined_paths(self) -> Mapping[str, str]:
        return {name: str(path) for name, path in self.mined.items()}

    def _mined_key(self, mined: MinedPassages) -> str:
        return digest(known_system(mined), self.fingerprint(mined.source, mined.split))


def digest(*facts: Any) -> str:
    """Hex digest of JSON values."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def content_sha256(path: Path) -> str | None:
    """Hex digest of a file, or of a folder's weights, settings and tables; None if it is neither."""
    if path.is_file():
        return cached_sha256(path)
    kinds = ("json", "txt", "safetensors", "bin", "parquet")
    files = [file for kind in kinds for at in ("", "*/") for file in path.glob(f"{at}*.{kind}")]
    return files_sha256(path, files) if files else None


def known_start(start: Start) -> Start:
    """A start whose folders are known by what they hold: they may be written anew."""
    return replace(
        start,
        checkpoint=_known(start.checkpoint),
        vision_weights=_known(start.vision_weights),
        text_weights=_known(start.text_weights),
    )


def known_system(system: MinedPassages | BaselineSystem) -> dict[str, Any]:
    """What decides a retriever's rankings; files and folders that it names by what they hold."""
    retriever = system.retriever
    if retriever.startswith("run:"):
        retriever = _known(retriever) or retriever
    settings = {name: _known(value) for name, value in system.set.items()}
    return asdict(system) | {"retriever": retriever, "set": settings}


def _known(word: str | None) -> str | None:
    if not word or word == EMBEDDED:
        return word
    return content_sha256(Path(word.removeprefix("run:")).expanduser()) or word


def _run_name(recipe: Recipe) -> str:
    return f"{recipe.name}.{recipe_fingerprint(recipe)[:8]}"
