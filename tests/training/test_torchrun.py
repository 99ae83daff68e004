"""Two processes that torchrun starts: what they train, and how a run ends in which one dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from m2kr.training.loop import train
from tests.support import training_combinations as combinations
from tests.support.tiny_training import logged

TESTS = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="gloo and signals"),
]


def launched(data: Path, out: Path, *tasks: str) -> subprocess.Popen[str]:
    """The launcher and its processes, in a group of their own."""
    program = TESTS / "support" / "training_combinations.py"
    words = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program)
    return subprocess.Popen(
        [sys.executable, *map(str, words), str(data), str(out), *tasks],
        env=os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    (path,) = out.glob("tiny.*/model/model.safetensors")
    return load_file(path)


def test_two_processes(data: Path, tmp_path: Path) -> None:
    """Combinations train what one process does; a killed job goes on; a process that dies ends its job."""
    names = combinations.names()
    job = launched(data, tmp_path, *names, "whole", "cut")
    alone = {}
    for name in names:
        what = "-".join(name.split()[1:3])
        if what not in alone:
            train(combinations.alone(name), data=data, out=tmp_path / what, device="cpu")
            alone[what] = weights(tmp_path / what)
    until = time.monotonic() + 300
    while not list(tmp_path.glob("cut/tiny.*/checkpoints/step-00000004")):
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)  # the launcher and its processes
    job.communicate()
    for name in names:
        one, two = alone["-".join(name.split()[1:3])], weights(tmp_path / name)
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert torch.allclose(two[key], value, rtol=1e-6, atol=1e-9), (name, key)

    job = launched(data, tmp_path, "cut", "death")
    _, said = job.communicate(timeout=200)
    assert job.returncode != 0
    assert "another process was lost" in said or "exitcode: -9" in said, said
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[key], two[key]) for key in one)
    whole, cut = (next(tmp_path.glob(f"{name}/tiny.*")) for name in ("whole", "cut"))
    assert logged(whole) == logged(cut)
    (folder,) = tmp_path.glob("death/tiny.*")
    assert not list(folder.glob("checkpoints/*"))
