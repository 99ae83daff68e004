"""Tiny checkpoints of the official code, with their inputs."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from m2kr.preflmr import PreFLMR

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("tiny_preflmr", "tiny_flmr", "tiny_separate")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from threads, and the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def models() -> dict[str, PreFLMR]:
    """The checkpoints by name, loaded. Not to be changed."""
    return {name: PreFLMR.from_pretrained(GOLDEN / name) for name in NAMES}


@pytest.fixture(scope="session")
def inputs() -> dict[str, dict[str, torch.Tensor]]:
    """The numeric golden arrays by checkpoint."""
    found = {}
    for name in NAMES:
        with np.load(GOLDEN / f"{name}_io.npz") as arrays:
            found[name] = {
                key: torch.from_numpy(arrays[key])
                for key in arrays.files
                if arrays[key].dtype.kind != "U"
            }
    return found


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint's copy, to be changed."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(GOLDEN / name, tmp_path / name))

    return copy
