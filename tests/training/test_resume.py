"""A run that stops anywhere and goes on makes the steps of one that never stopped."""

import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from m2kr.errors import CheckError, UsageError
from m2kr.training import step_lines
from m2kr.training.loop import Trained, train
from m2kr.training.recipe import Recipe, Saving, Share, Validation
from m2kr.training.training_state import Identity, RunFolder, read_json
from tests.support.tiny_training import (
    CHECKPOINT,
    SOURCE,
    Stopped,
    StopsAt,
    logged,
    make_source,
    tiny_recipe,
)

STEPS = 9
KEPT = 2
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated bfloat16 by GradCache": {
        "steps": {"batch": 2, "accumulate": 2, "precision": "bfloat16", "chunk": 1}
    },
    "layers computed again": {"steps": {"checkpoint_activations": True}},
    "frozen parts kept": {
        "data": {"keep_frozen": True},
        "trained": ("text_encoder", "mapping"),
        "text_layers": 1,
    },
    "float64": {"steps": {"precision": "float64"}},
}


def same(one: Trained, other: Trained) -> None:
    """The same losses and other figures of all steps, each once, and the same weights."""
    assert logged(one.folder) == logged(other.folder)
    assert one.losses == other.losses
    first, second = (load_file(each.checkpoint / "model.safetensors") for each in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def recipe_of(name: str) -> Recipe:
    changes = {key: value for key, value in RECIPES[name].items() if key != "steps"}
    steps = {"steps": STEPS, **RECIPES[name].get("steps", {})}
    return tiny_recipe(saving={"every": 2}, steps=steps, **changes)


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("accumulated bfloat16 by GradCache", 3),
        ("frozen parts kept", 3),
        pytest.param("layers computed again", 3, marks=pytest.mark.slow),
        pytest.param("float64", 3, marks=pytest.mark.slow),
    ],
)
def test_stopped_at_random_steps_it_ends_with_the_same_bits(
    name: str, stops: int, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(name)
    whole = train(recipe, data=data, out=tmp_path / "whole")
    draw = random.Random(name)
    for _ in range(stops):
        torch.rand(draw.randrange(9))  # whatever else the process does with random numbers
        with pytest.raises(Stopped):
            train(recipe, data=data, out=tmp_path / "cut", progress=StopsAt(draw.randrange(1, 4)))
    same(train(recipe, data=data, out=tmp_path / "cut"), whole)


def run_json(folder: Path) -> dict[str, Any]:
    return read_json(folder / "run.json")


class StopsInValidation(StopsAt):
    """Ends the work in the validation after some steps."""

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        if name != "training" and self._left <= 0:
            raise Stopped

    def advance(self, name: str, n: int) -> None:
        self._left -= name == "training" and n == 1


@pytest.mark.slow
def test_a_validation_that_was_cut_off_is_made_up_for(data: Path, tmp_path: Path) -> None:
    validation = Validation(
        sources=(Share(SOURCE, "train"),), every=3, queries=3, passages=9, loss_queries=3
    )
    recipe = dataclasses.replace(recipe_of("plain"), validation=validation)
    whole = train(recipe, data=data, out=tmp_path / "whole")
    for steps in (3, 3, 0):  # the last one in the validation that is made up for
        with pytest.raises(Stopped):
            train(recipe, data=data, out=tmp_path / "cut", progress=StopsInValidation(steps))
    same(train(recipe, data=data, out=tmp_path / "cut"), whole)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(recipe_of("plain"), data=data, out=tmp_path_factory.mktemp("finished"))


def cut(finished: Trained, out: Path) -> Path:
    """The run's folder as it was before its last checkpoint and its end."""
    folder = out / finished.folder.name
    shutil.copytree(finished.folder, folder)
    shutil.rmtree(folder / "model")
    assert len(list((folder / "checkpoints").iterdir())) == KEPT
    return folder


def _cut_short(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def _one_bit(folder: Path) -> None:
    data = bytearray((folder / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "state.pt").write_bytes(data)


HARM: dict[str, Callable[[Path], object]] = {
    "weights cut short": _cut_short,
    "one bit of the optimiser": _one_bit,
    "no state.json": lambda folder: (folder / "state.json").unlink(),
    "half a state.json": lambda folder: os.truncate(folder / "state.json", 100),
    "another state.json": lambda folder: (folder / "state.json").write_text("[]"),
    "a tokenizer is gone": lambda folder: shutil.rmtree(folder / "model" / "query_tokenizer"),
}


def test_a_damaged_checkpoint_is_passed_over(
    finished: Trained, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = cut(finished, tmp_path)
    latest = sorted((folder / "checkpoints").iterdir())[-1]
    kept = latest.with_name("kept")
    latest.rename(kept)
    identity = Identity(**{f.name: run_json(folder)[f.name] for f in fields(Identity)})
    run = RunFolder(folder, identity, keep=2)
    for harm in HARM.values():
        shutil.copytree(kept, latest)
        harm(latest)
        checkpoint = run.latest()
        assert checkpoint is not None
        assert checkpoint.folder != latest
        assert f"{latest} is passed over" in caplog.text
        caplog.clear()
        shutil.rmtree(latest)
    shutil.copytree(kept, latest)
    _one_bit(latest)
    same(train(recipe_of("plain"), data=data, out=tmp_path), finished)
    assert read_json(latest / "state.json") == read_json(kept / "state.json")


def test_without_a_sound_checkpoint_it_begins_anew(
    finished: Trained, data: Path, tmp_path: Path
) -> None:
    folder = cut(finished, tmp_path)
    for checkpoint in (folder / "checkpoints").iterdir():
        _cut_short(checkpoint)
    (folder / ".log.jsonl.tmp").write_text("left by a killed process")
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')
    same(train(recipe_of("plain"), data=data, out=tmp_path), finished)


def test_it_refuses_other_data_weights_processes_and_checkpoints_of_other_runs(
    finished: Trained, data: Path, tmp_path: Path
) -> None:
    recipe, folder = recipe_of("plain"), cut(finished, tmp_path)
    other = tmp_path / "other data"
    make_source(other, things=11)
    known = run_json(folder)
    with pytest.raises(CheckError, match=rf"data {known['data']} there, [0-9a-f]{{64}} now"):
        train(recipe, data=other, out=tmp_path)
    others = {"processes": 2, "batch": 5, "start_weights": "ab", "start_files": "e", "recipe": "cd"}
    for name, value in others.items():
        (folder / "run.json").write_text(json.dumps(known | {name: value}))
        with pytest.raises(CheckError, match=f"{name.replace('_', ' ')} {value} there"):
            train(recipe, data=data, out=tmp_path)
    (folder / "run.json").write_text(json.dumps(known))
    strange = train(recipe_of("float64"), data=data, out=tmp_path)
    latest = sorted((folder / "checkpoints").iterdir())[-1]
    shutil.rmtree(latest)
    shutil.copytree(strange.folder / "checkpoints" / latest.name, latest)
    with pytest.raises(CheckError, match=rf"{latest.name}.*recipe"):
        train(recipe, data=data, out=tmp_path)


def test_a_run_that_recorded_no_hash_of_configuration_and_tokenizers_goes_on(
    finished: Trained, data: Path, tmp_path: Path
) -> None:
    folder = cut(finished, tmp_path)
    for facts in (folder / "run.json", *folder.glob("checkpoints/*/state.json")):
        known = read_json(facts)
        assert len(known.pop("start_files")) == 64
        facts.write_text(json.dumps(known))
    lines: list[str] = []
    same(train(recipe_of("plain"), data=data, out=tmp_path, tell=lines.append), finished)
    assert lines == [f"going on after step {STEPS} of {STEPS} ({folder})"]  # to publish its model


def test_other_tokenizers_are_another_start(data: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(CHECKPOINT, start)
    recipe = tiny_recipe(steps={"steps": 2})
    recipe = dataclasses.replace(
        recipe, start=dataclasses.replace(recipe.start, checkpoint=str(start))
    )
    lines: list[str] = []
    done = train(recipe, data=data, out=tmp_path, tell=lines.append)
    assert lines[0] == f"training 2 steps in {done.folder}"
    assert re.fullmatch(r"step 2 of 2: loss [\d.]+, [\d.,]+ queries/s", lines[2])
    train(recipe, data=data, out=tmp_path, tell=lines.append)
    assert lines[3].startswith(f"already trained: {done.folder} (nothing was done")
    assert len(lines) == 4
    vocabulary = start / "query_tokenizer" / "vocab.txt"
    words = vocabulary.read_text(encoding="utf-8").splitlines()
    words[-1], words[-2] = words[-2], words[-1]
    vocabulary.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    with pytest.raises(CheckError, match="start files"):
        train(recipe, data=data, out=tmp_path)


def test_lines_of_steps_are_told_by_time_and_by_tenths(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0.0], list[str]()
    monkeypatch.setattr(step_lines.time, "monotonic", lambda: now[0])
    told = step_lines.StepLines(lines.append, 0, 1000, 64)
    for done in range(1, 1001):
        now[0] += 2.0
        told.step(done, 2.41349, 2.0)
    assert [line.split()[1] for line in lines] == [
        "1",
        *(str(n) for n in range(101, 1000, 100)),
        "1,000",
    ]
    assert lines[1] == "step 101 of 1,000: loss 2.413, 32 queries/s, about 30 min left"
    quick = step_lines.StepLines(lines.append, 0, 10, 1)
    slow = step_lines.StepLines(lines.append, 10, 100_000, 1)
    lines.clear()
    for done in range(1, 11):
        now[0] += 1.0
        quick.step(done, 1.0, 1.0)
    assert len(lines) == 2
    for done in range(11, 23):
        now[0] += 100.0
        slow.step(done, 1.0, 100.0)
    assert [line.split()[1] for line in lines[2:]] == ["11", "17"]


def test_what_does_not_change_the_sums_may_change_between_sessions(
    finished: Trained, data: Path, tmp_path: Path
) -> None:
    cut(finished, tmp_path)
    recipe = recipe_of("plain")
    recipe = dataclasses.replace(
        recipe,
        name="tiny",
        saving=Saving(every=1, keep=5),
        steps=dataclasses.replace(recipe.steps, parallel="fsdp"),
    )
    shutil.rmtree(sorted(tmp_path.glob("*/checkpoints/*"))[-1])
    same(train(recipe, data=data, out=tmp_path), finished)


@pytest.mark.slow
def test_two_do_not_write_the_same_run(finished: Trained, data: Path, tmp_path: Path) -> None:
    folder = cut(finished, tmp_path)
    script = (
        "import sys, time; from pathlib import Path; from m2kr import locks\n"
        "with locks.hold(Path(sys.argv[1]), 'the run', wait=False):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", script, str(folder / ".lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with pytest.raises(UsageError, match="another process"):
                train(recipe_of("plain"), data=data, out=tmp_path)
        finally:
            other.kill()
