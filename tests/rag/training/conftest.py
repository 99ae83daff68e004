"""One thread, and tiny models and questions that are made once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from m2kr.rag.training.reader_recipe import ReaderRecipe
from m2kr.rag.training.reader_task import ReaderTask
from m2kr.training.parallel import Team
from tests.support.tiny_reader_training import WORDS, make_reading, tiny_reader_recipe
from tests.support.tiny_readers import save_blip2


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Reading:
    """Where the questions, the run and the model are."""

    root: Path
    run: Path
    model: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    def recipe(self, **changes: Any) -> ReaderRecipe:
        return tiny_reader_recipe(self.model, self.run, **changes)

    def task(self, **changes: Any) -> ReaderTask:
        team = Team(0, 1, torch.device("cpu"), "ddp")
        return ReaderTask(self.recipe(**changes), team, self.data, ())


@pytest.fixture(scope="session")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    root = tmp_path_factory.mktemp("reading")
    run = make_reading(root)
    return Reading(root, run, save_blip2(root / "model", WORDS))
