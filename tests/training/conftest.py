"""One thread a process, and the data and model of several files of tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from m2kr.preflmr import PreFLMR
from tests.support.photo_source import photo_source
from tests.support.tiny_training import CHECKPOINT, make_source


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from threads, and the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the tiny source of texts."""
    folder = tmp_path_factory.mktemp("data")
    make_source(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the source of photos."""
    folder = tmp_path_factory.mktemp("data")
    photo_source(folder)
    return folder


@pytest.fixture(scope="module")
def model() -> PreFLMR:
    """The tiny golden checkpoint. Not to be changed."""
    return PreFLMR.from_pretrained(CHECKPOINT)
