"""Runs that are killed, of one process and of two, end with the bits of those that were not."""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from m2kr.errors import CheckError
from m2kr.training.loop import train
from tests.support.own_process import WHOLE
from tests.support.tiny_training import logged, make_source

KILLS = 10 if WHOLE else 1
pytestmark = pytest.mark.slow


@dataclass
class Killed:
    data: Path
    out: Path
    codes: dict[str, Any]
    said: str

    def run(self, name: str) -> Path:
        (folder,) = (self.out / name).glob("tiny.*")
        return folder

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.run(name) / "model" / "model.safetensors")

    def require_same(self, one: str, other: str) -> None:
        assert logged(self.run(one)) == logged(self.run(other))
        first, second = self.weights(one), self.weights(other)
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    make_source(data)
    words = ["-m", "tests.support.forked_training", str(data), str(out), str(KILLS)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return Killed(data, out, json.loads(done.stdout.splitlines()[-1]), done.stderr)


def test_one_process_ended_by_signals(killed: Killed) -> None:
    assert killed.codes["one"] == [-9, 143, 130, *[-9] * (KILLS - 1), 0], killed.said
    assert killed.said.count("\nsaved after step") == 2
    assert killed.said.count(", then saving\n") == 2
    assert "\ngoing on after step" in killed.said
    assert "interrupted; the same command goes on where this one stopped" in killed.said
    killed.require_same("whole", "cut")


def test_two_processes_killed_or_one_of_them_failing(killed: Killed) -> None:
    terms = [[-15, -15]] * WHOLE
    codes = killed.codes["two"]
    assert codes["ddp cut"] == [*terms, *[[-9, -9]] * KILLS, [0, 0]], killed.said
    assert codes["fsdp cut"] == [[1, 1], *terms, *[[-9, -9]] * (KILLS - 1), [0, 0]], killed.said
    assert killed.said.count("Stopped()") == 1  # of the one that failed; the other has no word
    assert "rank 1: " not in killed.said
    killed.require_same("ddp", "ddp cut")
    killed.require_same("fsdp", "fsdp cut")


def test_two_processes_are_not_gone_on_with_by_one(killed: Killed) -> None:
    from tests.support.forked_training import RECIPES

    with pytest.raises(CheckError, match="processes 2 there, 1 now"):
        train(RECIPES["ddp"], data=killed.data, out=killed.out / "ddp")


@pytest.mark.skipif(not WHOLE, reason="set M2KR_WHOLE=1: two more runs of two processes")
def test_negatives_across_two_processes_are_those_of_one_batch(killed: Killed) -> None:
    from tests.support.forked_training import RECIPES

    recipe = RECIPES["across"]
    steps = dataclasses.replace(recipe.steps, batch=4, chunk=None)
    train(dataclasses.replace(recipe, steps=steps), data=killed.data, out=killed.out / "one")
    for name in ("across", "across fsdp"):
        ours, theirs = logged(killed.run("one")), logged(killed.run(name))
        assert [row["loss"] for row in ours] == pytest.approx(
            [row["loss"] for row in theirs], rel=1e-9
        )
        whole = killed.weights("one")
        for key, own in killed.weights(name).items():
            torch.testing.assert_close(own, whole[key], rtol=1e-6, atol=1e-8)
