"""``m2kr train`` of a reader: what it refuses, its plan, a run and what is next."""

import json
import shlex
from pathlib import Path

import pytest
from conftest import Cli
from support.tiny_reader_training import WORDS, make_reading, tiny_reader_recipe


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("reader-okvq",), 2, ("no recipe 'reader-okvq'", "did you mean 'reader-okvqa'")),
        (("reader-okvqa", "--set", "lora.rank=4"), 2, ("--set lora.rank=4", "lora has r, alpha")),
        (("reader-okvqa", "--mix", "m2kr:0.5"), 2, ("--mix m2kr:0.5", "one source")),
        (("reader-okvqa", "--set", "data.sampled=9"), 2, ("data.top 5",)),
        (("reader-okvqa",), 3, ("okvqa", "m2kr build okvqa")),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], code: int, said: tuple[str, ...]
) -> None:
    done = cli("train", *words, "--data", tmp_path / "data", code=code, cwd=tmp_path)
    assert all(part in done.stderr for part in said), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_reader_is_planned_trained_and_asked(cli: Cli, tmp_path: Path) -> None:
    from support.tiny_readers import save_blip2

    from m2kr.training.recipe_file import dump_recipe

    run = make_reading(tmp_path)
    model = save_blip2(tmp_path / "model", WORDS)
    recipe = tiny_reader_recipe(model, run, validation={"every": 2})
    (tmp_path / "own.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    words = ("train", "own.yaml", "--data", "data", "--device", "cpu", "--set", "steps.steps=4")
    shown = " ".join(cli(*words, "--plan", cwd=tmp_path).stdout.split())
    assert "4 of 4 questions in 12 inputs" in shown
    assert "on 12 layers" in shown
    assert "hold the answer that they are to give" in shown
    assert "no steps are tried" in shown
    without = cli(*words, "--plan", "--set", "data.run=RUN.parquet", "--json", cwd=tmp_path)
    plan = json.loads(without.stdout)
    assert plan["targets_in_passages"] is None
    assert "data.run RUN.parquet is not here" in plan["notes"][0]
    pattern = f"data.run={str(run)[:-4]}*"
    plan = json.loads(cli(*words, "--plan", "--set", pattern, "--json", cwd=tmp_path).stdout)
    assert plan["targets_in_passages"] is not None
    gone = json.loads(
        cli(*words, "--plan", "--set", "reader.model=/none", "--json", cwd=tmp_path).stdout
    )
    assert gone["trained"] is None
    assert "reader.model /none is not here" in gone["notes"][0]
    assert not (tmp_path / "trained").exists()
    done = cli(*words, cwd=tmp_path).stdout
    assert "score" in done
    (following,) = [line for line in done.splitlines() if line.startswith("next: ")]
    asked = shlex.split(following.removeprefix("next: "))
    assert asked[1:3] == ["rag", "tiny-reading"]
    told = json.loads(cli(*words, "--json", cwd=tmp_path).stdout)  # the run that is there
    assert len(told["losses"]) == told["steps"] == 4
    assert [each["step"] for each in told["validation"]] == [0, 2, 4]
    assert f"adapter={told['checkpoint']}" in asked
    assert (tmp_path / told["checkpoint"] / "adapter_model.safetensors").is_file()
