"""``m2kr train``: what it refuses before torch is there, and a run with its table and next commands."""

import json
import shlex
from pathlib import Path

import pytest
from conftest import Cli
from support.tiny_training import SOURCE, make_source, tiny_recipe


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("stage9",), 2, ("no recipe 'stage9'", "stage0, stage1")),
        ((), 2, ("no recipe is named", "fine-tuning, stage0, stage1")),
        (("none.yaml",), 3, ("no such file of a recipe",)),
        (
            ("stage3", "--set", "optimiser.rate=1"),
            2,
            ("--set optimiser.rate=1", "optimiser has lr"),
        ),
        (("stage3", "--set", "steps.batch"), 2, ("--set key=value",)),
        (("wrong.yaml",), 1, ("wrong.yaml: there is no key data.wieght",)),
        (("stage3", "--mix", "m2kr"), 2, ("--mix m2kr is not understood", "m2kr:0.5")),
        (("stage3", "--mix", "m2kr:1"), 2, ("between 0 and 1",)),
        (("stage3", "--mix", "m2kr:0.5"), 3, ("no train split of M2KR is built", "m2kr build")),
        (("stage3", "--mix", "nothing:0.5"), 2, ("nothing",)),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], code: int, said: tuple[str, ...]
) -> None:
    (tmp_path / "wrong.yaml").write_text("data: {wieght: 1}", encoding="utf-8")
    done = cli("train", *words, "--data", tmp_path / "data", code=code, cwd=tmp_path)
    assert done.stdout == ""
    assert all(part in done.stderr for part in said), done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_recipe_is_planned_and_trained(cli: Cli, tmp_path: Path) -> None:
    from m2kr.training.recipe_file import dump_recipe

    make_source(tmp_path / "data")
    recipe = tmp_path / "own.yaml"
    recipe.write_text(dump_recipe(tiny_recipe()), encoding="utf-8")
    words = (
        "train",
        recipe,
        "--data",
        tmp_path / "data",
        "--device",
        "cpu",
        "--set",
        "steps.steps=4",
    )
    shown = cli(*words, "--plan", cwd=tmp_path).stdout
    assert "this machine, measured" in shown
    assert not (tmp_path / "trained").exists()
    run = ("m2kr", "train", recipe, "--set", "steps.steps=4", "--data", tmp_path / "data")
    assert f"next: {shlex.join(map(str, run))}" in shown
    paths_apart = [line for line in shown.splitlines() if str(tmp_path) not in line]
    assert len(paths_apart) > 10
    assert max(map(len, paths_apart)) <= 80
    done = cli(*words, cwd=tmp_path)
    shown = done.stdout
    assert "loss, first step" in shown
    assert "step 4 of 4: loss " in done.stderr
    following = [line.removeprefix("next: ") for line in shown.splitlines() if "next: " in line]
    assert following
    assert f"eval {SOURCE} -r preflmr --set checkpoint=trained/tiny." in following[0]
    told = json.loads(cli(*words, "--json", cwd=tmp_path).stdout)  # the run that is there
    assert len(told["losses"]) == told["steps"] == 4
    assert (tmp_path / told["checkpoint"] / "model.safetensors").is_file()
    evaluation = shlex.split(following[0])[1:]
    cli(*evaluation, "--split", "train", cwd=tmp_path)
