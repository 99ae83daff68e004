"""Studies: files that are read and refused, stages that are shared, and what is found again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import m2kr
from m2kr.errors import InputError, UsageError
from m2kr.training.recipe import Share
from m2kr.training.recipe_file import dump_recipe
from m2kr.training.share_rows import ShareRows
from m2kr.training.study import run_study
from m2kr.training.study_file import load_study, study_names
from m2kr.training.study_outcome import StudyOutcome
from m2kr.training.study_plan import StudyPlan
from m2kr.training.study_tables import score_rows, task_rows
from tests.support.tiny_training import SOURCE, make_source, tiny_recipe

STUDY = {
    "title": "A toy",
    "grid": {"seed": ["0"], "steps": ["0", "2"]},
    "repeat": "seed",
    "set": {"steps.seed": "${seed}", "steps.steps": "2"},
    "stages": {
        "first": {"recipe": "tiny.yaml", "set": {"trained": ["mapping", "text_linear"]}},
        "second": {"recipe": "tiny.yaml", "set": {"steps.steps": "${steps}"}},
        "last": {"recipe": "tiny.yaml", "set": {"optimiser.lr": "2e-3"}},
    },
    "arms": {"whole": ["first", "second", "last"]},
    "evaluations": {"train": {"source": SOURCE, "split": "train"}},
    "baselines": {"untrained": None},
    "figure": {"x": "steps", "y": ["hit_rate@5"], "change_from": "0"},
}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study, its recipe and the data."""
    root = tmp_path_factory.mktemp("study")
    make_source(root / "data")
    recipe = dump_recipe(tiny_recipe(stage="3"))
    (root / "tiny.yaml").write_text(recipe, encoding="utf-8")
    write(root, STUDY)
    return root


def write(folder: Path, words: object) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(words, sort_keys=False), encoding="utf-8")
    return path


def done(folder: Path, told: list[str], killed_at: str = "") -> StudyOutcome:
    def tell(line: str) -> None:
        if killed_at and line.startswith(killed_at):
            raise Killed
        told.append(line)

    study = load_study(folder / "toy.yaml")
    return run_study(study, data=folder / "data", out=folder / "out", tell=tell)


@pytest.fixture(scope="module")
def outcome(folder: Path) -> tuple[StudyOutcome, list[list[str]]]:
    """The study killed in its second run, then in its second evaluation, then finished."""
    told: list[list[str]] = [[], [], []]
    for lines, place in zip(told, ("stage 2", "scoring whole, steps 0", ""), strict=True):
        if place:
            with pytest.raises(Killed):
                done(folder, lines, place)
        else:
            finished = done(folder, lines)
    return finished, told


def test_a_shared_stage_is_trained_once_and_what_is_done_is_found_again(
    outcome: tuple[StudyOutcome, list[list[str]]], folder: Path
) -> None:
    finished, told = outcome
    assert told[0] == ["stage 1 of 4: first, 2 steps"]
    assert [line.partition(":")[0] for line in told[1]] == [
        *("stage 2 of 4", "stage 3 of 4", "stage 4 of 4", "scoring untrained on train")
    ]
    assert told[2] == ["scoring whole, steps 0 on train", "scoring whole, steps 2 on train"]
    chains = [[each.stage for each in stage.chain] for stage in finished.stages]
    assert chains == [
        *(["first"], ["first", "last"], ["first", "second"], ["first", "second", "last"])
    ]
    before = (folder / "out" / "study.json").read_bytes()
    again: list[str] = []
    done(folder, again)
    assert again == []
    assert (folder / "out" / "study.json").read_bytes() == before


def test_another_value_of_one_stage_trains_that_and_what_follows(
    outcome: tuple[StudyOutcome, list[list[str]]], folder: Path
) -> None:
    plan = StudyPlan(
        load_study(folder / "toy.yaml", {"second.optimiser.lr": "5e-4", "steps": "2"}),
        folder / "out",
        folder / "data",
    )
    assert [stage.record is not None for stage in plan.stages] == [True, False, False]
    seeds = StudyPlan(
        load_study(folder / "toy.yaml", {"seed": "0,1"}), folder / "out", folder / "data"
    )
    assert sum(stage.record is None for stage in seeds.stages) == 4
    assert len(seeds.stages) == 8


def test_the_outcome_has_scores_tests_curves_and_a_figure(
    outcome: tuple[StudyOutcome, list[list[str]]], folder: Path
) -> None:
    out = folder / "out"
    written = json.loads((out / "study.json").read_text(encoding="utf-8"))
    names = [system["name"] for system in written["systems"]]
    assert names == ["untrained", "whole, steps 0", "whole, steps 2"]
    for system in written["systems"]:
        result = json.loads((out / system["results"]["train"]["file"]).read_text(encoding="utf-8"))
        assert result["metrics"] == system["results"]["train"]["metrics"]
    (test,) = written["tests"]
    assert len(test["by_source"][f"{SOURCE}/train"]["hit_rate@5"]["pairs"]) == 3
    page = (out / "study.md").read_text(encoding="utf-8")
    assert "| whole, steps 2 | " in page
    for name in ("toy", "learning"):
        assert f"(figures/{name}.png)" in page
        assert (out / "figures" / f"{name}.png").stat().st_size > 5000
        assert (out / "figures" / f"{name}.svg").stat().st_size > 5000


def test_what_systems_share_is_computed_once_and_changes_no_score(
    outcome: tuple[StudyOutcome, list[list[str]]], folder: Path
) -> None:
    one = outcome[0].scored[-1]
    assert one.system.stage is not None
    checkpoint = str(one.system.stage.model)
    (plain,) = m2kr.evaluate(
        SOURCE,
        "preflmr",
        split="train",
        settings={"checkpoint": checkpoint},
        data=folder / "data",
        cache=False,
    )
    assert plain.run_sha256 == one.results["train"].run_sha256


@pytest.mark.parametrize(
    ("where", "rows"),
    [(("question_id=q3|q1",), [1, 3]), (("question_id=q3|q1", "question_id=q3"), [3])],
)
def test_rows_are_chosen_by_a_column(folder: Path, where: tuple[str, ...], rows: list[int]) -> None:
    split = m2kr.load(SOURCE, "train", data=folder / "data")
    chosen = ShareRows(Share(SOURCE, where=where), 0, split, 0)
    assert chosen.rows.tolist() == rows


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("questionid=q3", "did you mean question_id=q3?"),
        ("question_id", "has no ="),
        ("question_id=q99", "no row has question_id=q99"),
        ("pos_item_ids=p1", "there is no column 'pos_item_ids'"),
    ],
)
def test_a_wrong_choice_of_rows_is_refused(folder: Path, where: str, said: str) -> None:
    split = m2kr.load(SOURCE, "train", data=folder / "data")
    with pytest.raises(UsageError) as error:
        ShareRows(Share(SOURCE, where=(where,)), 0, split, 0)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "said", "near"),
    [
        ("stages.last.set", {"steps.seed": "${sead}"}, "no variable 'sead'", "'seed'"),
        ("arms.whole", ["first", "secnd"], "no stage 'secnd'", "'second'"),
        ("figure.x", "step", "no variable 'step'", "'steps'"),
        ("repeat", "sed", "no variable 'sed'", "'seed'"),
        ("tests", [["whole", "untraind"]], "no arm or baseline 'untraind'", "'untrained'"),
        ("evaluations.train.instructions", "rows", "'rows'", "'row'"),
        ("evaluation", {}, "no key evaluation", "'evaluations'"),
        ("stages.last.recipe", "stage33", "no recipe 'stage33'", "'stage3'"),
        ("grid.steps", ["2", "2"], "grid.steps is ['2', '2']", ""),
        ("evaluations", {}, "nothing to score", "evaluations: {NAME: {source: mini, split: test}}"),
        ("mined", {"m": {"source": "a", "retriever": "bm25", "k": "x"}}, "mined.m.k is 'x'", ""),
        ("mined", {"seed": {"source": "a", "retriever": "bm25"}}, "'seed' is a variable and", ""),
    ],
)
def test_a_wrong_study_is_refused(
    tmp_path: Path, path: str, value: object, said: str, near: str
) -> None:
    words = yaml.safe_load(yaml.safe_dump(STUDY))
    place, *keys = words, *path.split(".")
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(InputError) as error:
        load_study(write(tmp_path, words))
    assert said in str(error.value)
    assert near in str(error.value)


def test_a_wrong_override_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no variable 'step'") as error:
        load_study(folder / "toy.yaml", {"step": "1"})
    assert "'steps'" in str(error.value)
    with pytest.raises(UsageError, match="gives no value"):
        load_study(folder / "toy.yaml", {"seed": ","})
    study = load_study(folder / "toy.yaml", {"last.optimiser.lrr": "1"})
    with pytest.raises(UsageError, match=r"optimiser\.lrr") as error:
        StudyPlan(study, folder / "out", folder / "data")
    assert "stage last of the study toy" in str(error.value)
    with pytest.raises(UsageError, match="no study 'inter-step'"):
        load_study("inter-step")


@pytest.mark.parametrize("name", study_names())
def test_packaged_studies_can_be_planned_without_data(name: str, tmp_path: Path) -> None:
    plan = StudyPlan(load_study(name), tmp_path, tmp_path)
    assert plan.systems
    assert len({system.name for system in plan.systems if system.last}) > 1


def test_files_and_folders_are_known_by_what_they_hold(tmp_path: Path) -> None:
    checkpoint, run, mined = tmp_path / "model", tmp_path / "run.parquet", tmp_path / "mined"
    make_source(tmp_path / "data")
    for folder in (checkpoint, mined):
        folder.mkdir()
    for file in (checkpoint / "config.json", run, mined / "a.parquet"):
        file.write_bytes(b"before")
    words = STUDY | {
        "set": {
            "start.checkpoint": str(checkpoint),
            "negatives.file": str(mined),
            "negatives.mined": "1",
            "validation.sources": "asked",
        },
        "grid": {"seed": ["0"], "steps": ["2"]},
        "mined": {"first": {"source": SOURCE, "retriever": f"run:{run}"}},
    }
    recipe = dump_recipe(tiny_recipe())
    (tmp_path / "tiny.yaml").write_text(recipe, encoding="utf-8")
    study = load_study(write(tmp_path, words))

    def keys() -> list[str]:
        plan = StudyPlan(study, tmp_path / "out", tmp_path / "data")
        return [plan.mined["first"].name, *(stage.key for stage in plan.stages)]

    before = keys()
    assert keys() == before
    make_source(tmp_path / "data", "asked", split="valid", things=3)
    assert keys() == before  # no step validates on it
    study = replace(study, set=study.set | {"validation.every": "1"})
    validated = keys()
    shutil.rmtree(tmp_path / "data" / "asked")
    make_source(tmp_path / "data", "asked", split="valid", things=4)
    before = keys()  # values of the log are of other queries
    assert all(a != b for a, b in zip(before[1:], validated[1:], strict=True))
    for file, which in (
        (run, {0}),
        (checkpoint / "config.json", {1, 2, 3}),
        (mined / "a.parquet", {1, 2, 3}),
    ):
        file.write_bytes(f"after {file.name}".encode())
        now = keys()
        assert {n for n, key in enumerate(now) if key != before[n]} == which
        before = now


def test_letters_are_those_of_the_system_though_names_end_alike() -> None:
    systems, labels = ("full", "not full"), ("preflmr full", "preflmr not full")
    scored = [
        SimpleNamespace(
            system=SimpleNamespace(name=name, last=True),
            results={"test": SimpleNamespace(value=lambda _: 0.5, metrics={"hit_rate@5": {}})},
        )
        for name in systems
    ]
    letters = {"hit_rate@5": SimpleNamespace(letters=dict(zip(labels, "ab", strict=True)))}
    comparison = SimpleNamespace(
        systems=labels, by_source={"mini/test": letters}, headlines={"mini/test": "hit_rate@5"}
    )
    outcome: Any = SimpleNamespace(
        study=SimpleNamespace(metrics=("hit_rate@5",), tests=()),
        scored=scored,
        tests=[SimpleNamespace(evaluation="test", comparison=comparison)],
    )
    assert [row[-1] for row in score_rows(outcome, "test")[1]] == ["a", "b"]


def test_scores_are_shown_by_task() -> None:
    def scored(name: str, tasks: dict[str, list[float]]) -> list[Any]:
        groups = [
            {
                task: {"n": 20, "metrics": {"hit_rate@5": {"value": value[n], "low": 0, "high": 1}}}
                for task, value in tasks.items()
            }
            for n in range(2)
        ]
        results = [
            SimpleNamespace(groups={"task": by_task} if by_task else {}) for by_task in groups
        ]
        system = SimpleNamespace(name=name)
        return [SimpleNamespace(system=system, results={"seen": each}) for each in results]

    study = SimpleNamespace(tested_metric="hit_rate@5")
    both = [
        *scored("shuffled", {"I2T": [0.0, 0.1], "Q2T": [0.5, 0.5]}),
        *scored("untrained", {"I2T": [0.05, 0.05], "Q2T": [0.25, 0.75]}),
    ]
    assert task_rows(SimpleNamespace(study=study, scored=both), "seen") == (  # type: ignore[arg-type]
        ["system, R@5", "I2T, 20 queries", "Q2T, 20 queries"],
        [
            ("shuffled", ".050 (.000 to .100)", ".500 (.500 to .500)"),
            ("untrained", ".050 (.050 to .050)", ".500 (.250 to .750)"),
        ],
    )
    for tasks in ({}, {"Q2T": [0.5, 0.5]}):
        outcome: Any = SimpleNamespace(study=study, scored=scored("one", tasks))
        assert task_rows(outcome, "seen") is None
