"""docs/training.md: its commands are ones, five go from files to a comparison, its tables are whole."""

import json
import re
import runpy
import shlex
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from m2kr.cli import options
from m2kr.cli.main import app
from m2kr.rag.training.reader_recipe_file import load_reader_recipe, trains_a_reader
from m2kr.training.recipe_file import load_recipe, recipe_names
from m2kr.training.recipe_values import all_keys
from m2kr.training.study_file import Study, load_study
from m2kr.training.study_plan import StudyPlan
from tests.conftest import new_cli
from tests.support.own_folder import write_own
from tests.support.tiny_training import CHECKPOINT

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(?:bash|text)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in BLOCKS
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith("m2kr ")
]
OWN = next(block for block in BLOCKS if "m2kr import metals" in block)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_one(words: list[str]) -> None:
    given = _given(words)
    if words[0] == "train":
        load = load_reader_recipe if trains_a_reader(given["recipe"]) else load_recipe
        load(given["recipe"], options.settings(given["set_"]))


def test_examples_of_files_can_be_run() -> None:
    """They name a start and a source that are at hand, and validate on nothing else."""
    parsed = [_given(words) for words in COMMANDS if words[0] == "train"]
    examples = [given for given in parsed if any(".file=" in word for word in given["set_"] or ())]
    assert len(examples) == 2
    for given in examples:
        recipe = load_recipe(given["recipe"], options.settings(given["set_"]))
        assert recipe.start.checkpoint == "embedded"
        assert [share.source for share in recipe.data.sources] == ["mini"]
        assert not recipe.validation.every


def test_the_example_of_a_study_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    file = tmp_path / "rates.yaml"
    file.write_text(example, encoding="utf-8")
    plan = StudyPlan(load_study(file), tmp_path, tmp_path)
    assert len(plan.stages) == 18  # of 6 points: align, full after it, full alone
    assert set(plan.unbuilt) == {"mini"}
    table = TEXT.partition("## Studies")[2].partition("| Key |")[2].partition("\n\n")[0]
    keys = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)))
    assert set(keys) == {field.name for field in fields(Study)} - {"folder"}


def _given(words: list[str]) -> dict[str, Any]:
    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    params: dict[str, Any] = command.make_context(
        words[0], words[1:], resilient_parsing=False
    ).params
    return params


def test_each_recipe_and_study_is_told_of() -> None:
    table = TEXT.partition("## The stages")[2].partition("Each value")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)`", table, flags=re.MULTILINE)) == recipe_names()
    packaged = {path.stem for path in (ROOT / "m2kr/training/studies").glob("*.yaml")}
    told = set(re.findall(r"`([\w-]+)`", TEXT.partition("## Studies")[2].partition("```")[0]))
    assert {name.removesuffix("-mini") for name in packaged} <= told


def test_every_key_of_a_recipe_is_in_the_table() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "recipe_keys.py"))
    page = tool["PAGE"].read_text(encoding="utf-8")
    assert page == tool["page"](), "run tools/recipe_keys.py"
    reader = tool["READER_PAGE"].read_text(encoding="utf-8")
    assert reader == tool["reader_page"](), "run tools/recipe_keys.py"
    listed = re.findall(r"^\| `([\w.]+)` \|", page, flags=re.MULTILINE)
    known = {re.sub(r"sources\.(\w+)$", r"sources.NAME.\1", key) for key in all_keys()}
    assert known - set(listed) == {
        key for key in known if key.startswith("validation.sources.")
    }  # told of under data.sources
    assert set(listed) <= known


@pytest.mark.slow
def test_five_commands_from_files_to_a_comparison(tmp_path: Path) -> None:
    m2kr = new_cli("m2kr.training.loop", "m2kr.retrievers.preflmr", "transformers")
    write_own(tmp_path / "metals", ("tin", "lead", "zinc", "iron", "gold"), "museum")
    (tmp_path / "metals" / "images").rename(tmp_path / "photos")
    shutil.copytree(CHECKPOINT, tmp_path / "small")
    m2kr("build", "mini", "--limit", "8", "--data", "data", cwd=tmp_path)
    commands = [shlex.split(line)[1:] for line in OWN.replace("\\\n", "").splitlines()]
    assert [words[0] for words in commands] == ["import", "eval", "train", "eval", "compare"]
    short = ("steps.steps=3", "optimiser.warmup=1", "steps.batch=4", "steps.accumulate=1")
    folder = ""
    for words in commands:
        if words[0] == "train":
            for value in (*short, "data.passage_tokens=24"):
                words += ["--set", value]
            words += ["--json"]
        words = [re.sub(r"trained/fine-tuning\.\w+", folder, word) for word in words]
        done = m2kr(*words, "--data", "data", cwd=tmp_path)
        if words[0] == "train":
            trained = json.loads(done.stdout)
            folder = trained["folder"]
            assert re.fullmatch(r"trained/fine-tuning\.\w{8}", folder)
            assert len(trained["losses"]) == 3
    facts = json.loads((tmp_path / folder / "run.json").read_text(encoding="utf-8"))["data_facts"]
    counts = [each["visits_per_epoch"] for each in facts["sources"]]
    assert counts[0] == pytest.approx(counts[1], abs=1)
    assert all(word in done.stdout for word in ("metals/test", "mini/test", "before", "after"))
