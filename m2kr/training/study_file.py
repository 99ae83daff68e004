"""Studies as YAML files: chains of training stages, what they are varied by, and what they are scored on.

name: inter-steps
grid: {seed: [0, 1, 2], steps: [0, 100, 200]}     # every combination is run
set: {steps.seed: "${seed}"}                      # of all stages
stages:
  evqa: {recipe: stage2, set: {steps.steps: "${steps}"}}
  all: {recipe: stage3}
arms:
  pre-trained: [evqa, all]                        # a stage of 0 steps is left out
evaluations:
  test: {source: mini, split: test}
baselines:
  bm25: {retriever: bm25}
repeat: seed                                      # tables give means and ranges over it
figure: {x: steps, y: [hit_rate@5], change_from: "0"}
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from m2kr.errors import InputError, UsageError
from m2kr.training.recipe import Instructions
from m2kr.training.recipe_file import recipe_names
from m2kr.yaml_files import read_yaml

FOLDER = Path(__file__).with_name("studies")
Point = Mapping[str, str]
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NOTHING = ("", "~", "null")
_WORD = re.compile(r"[\w+@ ,.()-]+")


@dataclass(frozen=True, slots=True)
class Stage:
    """One training run of a chain.

    Attributes:
        recipe: A packaged recipe, or a .yaml file, from the study's folder on.
        set: Values by dotted key, in place of the recipe's.
    """

    recipe: str
    set: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MinedPassages:
    """A file of `m2kr mine`, which stages name ``${NAME}``: negatives, a teacher's scores.

    Attributes:
        source: Whose queries.
        retriever: By which.
        split: Of the source.
        k: Passages a query; the default of `m2kr mine` if empty.
        margin: See there.
        set: Settings of the retriever.
    """

    source: str
    retriever: str
    split: str = "train"
    k: str = ""
    margin: str = ""
    set: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What systems are scored on.

    Attributes:
        source: A built source.
        split: Its split.
        instructions: How trained models' queries are read; see `m2kr.training.recipe.Data`.
        passages: The pool: the right passages of the queries, and as many others as make up this number;
            the whole one if empty.
    """

    source: str
    split: str = "test"
    instructions: str = "row"
    passages: str = ""


@dataclass(frozen=True, slots=True)
class BaselineSystem:
    """A system that isn't trained.

    Attributes:
        retriever: Its name; empty for the model that training starts from.
        set: Its settings.
    """

    retriever: str = ""
    set: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StudyFigure:
    """What is drawn over the grid.

    Attributes:
        x: The variable along the axis, or ``evaluation``.
        y: A panel each: metrics, or ``validation/loss``, the last that the log of the last stage has.
        lines: What sets the lines apart: ``arm``, ``evaluation`` or a variable.
        change_from: The point of ``x`` that others are shown as changes from.
        x_label: Of the axis; ``x`` if empty.
    """

    x: str
    y: tuple[str, ...] = ("hit_rate@5",)
    lines: str = "arm"
    change_from: str = ""
    x_label: str = ""


@dataclass(frozen=True, slots=True)
class Study:
    """A study.

    Attributes:
        name: In the names of folders.
        title: For people.
        about: What it shows, in sentences.
        grid: Values by variable; every combination is a point.
        set: Values of all stages, by dotted key.
        repeat: The variable, such as a seed, by which the same is done again: tables give mean and range
            over it, and systems are compared within each.
        mined: Files by name.
        stages: By name.
        arms: By name the stages that are trained after each other.
        evaluations: By name.
        baselines: By name.
        metrics: That tables show.
        each_stage: Whether models are scored after every stage, not after the last alone.
        tests: Systems that are compared with each other; all that end an arm, and the baselines, if empty.
        figure: What is drawn over the grid.
        folder: Where its own recipes are looked for.
    """

    name: str
    title: str = ""
    about: str = ""
    grid: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    repeat: str = ""
    set: Mapping[str, str] = field(default_factory=dict)
    mined: Mapping[str, MinedPassages] = field(default_factory=dict)
    stages: Mapping[str, Stage] = field(default_factory=dict)
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    baselines: Mapping[str, BaselineSystem] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("hit_rate@1", "hit_rate@5", "hit_rate@10")
    each_stage: bool = False
    tests: tuple[tuple[str, ...], ...] = ()
    figure: StudyFigure | None = None
    folder: Path = Path()

    @property
    def tested_metric(self) -> str:
        """The metric that people look at first."""
        shown = [name for name in (self.figure.y if self.figure else ()) if "/" not in name]
        return (shown or ["hit_rate@5" if "hit_rate@5" in self.metrics else self.metrics[0]])[0]

    def points(self) -> Iterator[dict[str, str]]:
        """Every combination of the grid's values; one empty point without a grid."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def settings(self, stage: str, point: Point, mined: Mapping[str, str]) -> dict[str, str]:
        """A stage's values by dotted key at a point of the grid.

        Args:
            stage: Its name.
            point: Values by variable.
            mined: Paths of the mined files by name.
        """
        values = {**point, **mined}
        given = {**self.set, **self.stages[stage].set}
        return {
            key: _VARIABLE.sub(lambda match: values[match[1].strip()], text)
            for key, text in given.items()
        }


def study_names() -> list[str]:
    """The studies that come with m2kr."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_study(name: str | Path, overrides: Mapping[str, str] | None = None) -> Study:
    """A study that is read and checked; its recipes are read when it is planned.

    Args:
        name: Of a packaged study, or a file that ends in .yaml or .yml.
        overrides: ``{"seed": "0,1"}`` gives a variable of the grid other values, ``{"optimiser.lr":
            "1e-4"}`` sets a value of all stages, ``{"evqa.optimiser.lr": "1e-4"}`` of one.

    Raises:
        UsageError: There is no such study, stage or variable; suggests the nearest.
        MissingError: There is no such file.
        InputError: The file is no study: the message names the key.
    """
    path = _path(str(name))
    words = read_yaml(path, "a study", "stages: ..., arms: ..., evaluations: ...", words=True)
    words.setdefault("name", path.stem)
    study = _Reader(str(path)).study(words, path.parent)
    for key, value in (overrides or {}).items():
        study = _overridden(study, key, value)
    _check(study, str(path))
    return study


def _path(name: str) -> Path:
    if name.lower().endswith((".yaml", ".yml")):
        return Path(name)
    known = study_names()
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    if key not in known:
        raise UsageError(
            f"there is no study '{name}'",
            expected=", ".join(known) + ", or a .yaml file of your own",
            fix=_nearest(key, known),
        )
    return FOLDER / f"{key}.yaml"


def _overridden(study: Study, key: str, value: str) -> Study:
    if key in study.grid:
        values = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        if not values:
            raise UsageError(f"--set {key}= gives no value", expected=f"--set {key}=A,B")
        return replace(study, grid={**study.grid, key: values})
    stage, _, rest = key.partition(".")
    if stage in study.stages and rest:
        changed = replace(study.stages[stage], set={**study.stages[stage].set, rest: value})
        return replace(study, stages={**study.stages, stage: changed})
    if "." not in key and key not in {"trained", "text_layers"}:
        known = [*study.grid, *(f"{name}.…" for name in study.stages)]
        raise UsageError(
            f"the study has no variable '{key}'",
            where=f"--set {key}={value}",
            expected=", ".join(known) + ", or a recipe's key, such as optimiser.lr",
            fix=_nearest(key, list(study.grid)),
        )
    return replace(study, set={**study.set, key: value})


class _Reader:
    """From a YAML's words to a study; errors name the key."""

    def __init__(self, where: str) -> None:
        self._where = where

    def study(self, words: Mapping[str, Any], folder: Path) -> Study:
        self._known(words, Study, "", {"folder"})
        mapping: dict[str, Callable[[Any, str], Any]] = {
            "grid": lambda word, path: self._texts(word, path, least=1),
            "mined": lambda word, path: self._section(word, MinedPassages, path),
            "stages": lambda word, path: self._section(word, Stage, path),
            "arms": self._texts,
            "evaluations": lambda word, path: self._section(word, Evaluation, path),
            "baselines": lambda word, path: self._section(word, BaselineSystem, path),
        }
        made: dict[str, Any] = {"folder": folder}
        for key, word in words.items():
            if key in mapping:
                of = self._mapping(word, key)
                made[key] = {n: mapping[key](each, f"{key}.{n}") for n, each in of.items()}
            elif key == "set":
                made[key] = self._settings(word, key)
            elif key == "metrics":
                made[key] = self._texts(word, key, least=1)
            elif key == "each_stage":
                made[key] = self._choice(word, key, ("true", "false")) == "true"
            elif key == "tests":
                made[key] = tuple(self._texts(each, key, least=2) for each in self._list(word, key))
            elif key == "figure":
                made[key] = self._section(word, StudyFigure, key)
            else:
                made[key] = self._text(word, key)
        return Study(**made)

    def _section(self, word: Any, kind: type, path: str) -> Any:
        words = self._mapping({} if word in _NOTHING else word, path)
        self._known(words, kind, path)
        values = {
            key: self._settings(value, f"{path}.{key}")
            if key == "set"
            else self._texts(value, f"{path}.{key}", least=1)
            if key == "y"
            else self._text(value, f"{path}.{key}")
            for key, value in words.items()
        }
        required = {Stage: ["recipe"], Evaluation: ["source"], StudyFigure: ["x"]}
        required[MinedPassages] = ["source", "retriever"]
        for key in required.get(kind, []):
            if not values.get(key):
                raise self._error(f"{path}.{key} is missing", f"{key}: ...")
        return kind(**values)

    def _known(
        self, words: Mapping[str, Any], kind: Any, path: str, apart: "set[str] | None" = None
    ) -> None:
        names = [each.name for each in fields(kind) if each.name not in (apart or ())]
        for key in words:
            if key not in names:
                what = f"{path}.{key}" if path else str(key)
                raise self._error(
                    f"there is no key {what}",
                    f"{path or 'a study'} has {', '.join(names)}",
                    _nearest(str(key), names),
                )

    def _settings(self, word: Any, path: str) -> dict[str, str]:
        return {
            key: _plain(value)
            for key, value in self._mapping({} if word in _NOTHING else word, path).items()
        }

    def _texts(self, word: Any, path: str, least: int = 0) -> tuple[str, ...]:
        texts = tuple(self._text(each, path) for each in self._list(word, path))
        if len(texts) < least or len(set(texts)) < len(texts):
            raise self._error(
                f"{path} is {list(texts)}", f"{least or 'any number'} or more, all different"
            )
        return texts

    def _list(self, word: Any, path: str) -> Sequence[Any]:
        if isinstance(word, str) or not isinstance(word, Sequence):
            raise self._error(f"{path} is {word!r:.80}", "a list: [one, another]")
        return word

    def _mapping(self, word: Any, path: str) -> Mapping[str, Any]:
        if not isinstance(word, Mapping):
            raise self._error(f"{path} is {word!r:.80}", "a mapping: {name: value}")
        for key in word:
            if path not in ("set",) and not path.endswith(".set") and not _WORD.fullmatch(str(key)):
                raise self._error(
                    f"{path} has the name {key!r:.80}", "letters, digits, blanks, commas and -"
                )
        return word

    def _text(self, word: Any, path: str) -> str:
        if not isinstance(word, str):
            raise self._error(f"{path} is {word!r:.80}", "one value")
        return word.strip()

    def _choice(self, word: Any, path: str, choices: Sequence[str]) -> str:
        if word not in choices:
            raise self._error(f"{path} is {word!r:.80}", " or ".join(choices))
        return str(word)

    def _error(self, what: str, expected: str, fix: str | None = None) -> InputError:
        return InputError(what, where=self._where, expected=expected, fix=fix)


def _plain(word: Any) -> str:
    """A value as `m2kr train --set` reads it: lists and mappings in YAML's short form."""
    if isinstance(word, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(value)}" for key, value in word.items()) + "}"
    if isinstance(word, str):
        return word
    return "[" + ", ".join(map(_plain, word)) + "]"


def _check(study: Study, where: str) -> None:
    """Refuses names of what isn't there."""

    def known(name: str, names: Sequence[str], what: str) -> None:
        if name not in names:
            raise InputError(
                f"there is no {what} '{name}'",
                where=where,
                expected=", ".join(names) or f"none: the study has no {what}s",
                fix=_nearest(name, names),
            )

    if (not study.arms and not study.baselines) or not study.evaluations:
        raise InputError(
            "it has nothing to score",
            where=where,
            expected="arms: {NAME: [STAGE, ...]} or baselines: {NAME: {retriever: bm25}}, "
            "and evaluations: {NAME: {source: mini, split: test}}",
            fix=f"docs/training.md has an example; {FOLDER / 'inter-steps-mini.yaml'} is one to start from",
        )
    if not study.stages and any(not each.retriever for each in study.baselines.values()):
        raise InputError(
            "a baseline without retriever is the model that stages start from, and there are none",
            where=where,
            expected="retriever: bm25, or stages",
        )
    for name, mined in study.mined.items():
        for key, text in (("k", mined.k), ("margin", mined.margin)):
            if text and not re.fullmatch(r"\d+" if key == "k" else r"\d*\.?\d+", text):
                raise InputError(
                    f"mined.{name}.{key} is '{text}'", where=where, expected="a number"
                )
    if twice := set(study.grid) & set(study.mined):
        raise InputError(
            f"'{min(twice)}' is a variable and a mined file", where=where, expected="two names"
        )
    if twice := set(study.arms) & set(study.baselines):
        raise InputError(
            f"'{min(twice)}' is an arm and a baseline", where=where, expected="two names"
        )
    for stage in itertools.chain(*study.arms.values()):
        known(stage, list(study.stages), "stage")
    variables = [*study.grid, *study.mined]
    for settings in (study.set, *(stage.set for stage in study.stages.values())):
        for text in settings.values():
            for match in _VARIABLE.finditer(text):
                known(match[1].strip(), variables, "variable")
    for evaluation in study.evaluations.values():
        known(evaluation.instructions, get_args(Instructions), "way to read instructions,")
        if evaluation.passages and not evaluation.passages.isdecimal():
            raise InputError(
                f"passages is '{evaluation.passages}'", where=where, expected="a number"
            )
    for each in study.stages.values():
        if not each.recipe.lower().endswith((".yaml", ".yml")):
            known(each.recipe, recipe_names(), "recipe")
    for names in study.tests:
        for name in names:
            known(name, [*study.arms, *study.baselines], "arm or baseline")
    if study.repeat:
        known(study.repeat, list(study.grid), "variable")
    if study.figure is not None:
        for axis in (study.figure.x, study.figure.lines):
            known(axis, [*study.grid, "arm", "evaluation"], "variable")


def _nearest(name: str, names: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else None
