"""A checkpoint that can't be written: one plain error, whichever library writes."""

from pathlib import Path

import pytest
import torch

from m2kr.errors import from_system
from m2kr.preflmr import PreFLMR
from tests.support.tiny_training import CHECKPOINT

resource = pytest.importorskip("resource")


def test_a_write_that_fails_is_told_plainly(tmp_path: Path) -> None:
    model = PreFLMR.from_pretrained(CHECKPOINT)
    writers = {
        "model": lambda: model.save_pretrained(tmp_path / "model"),
        "state": lambda: torch.save(torch.zeros(100_000), tmp_path / "state.pt"),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for what, write in writers.items():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the next best to a full disk
        try:
            with pytest.raises(Exception) as raised:  # each library has its own
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        told = from_system(raised.value)
        assert told is not None, what
        assert "the disk" in str(told)
    assert not list(tmp_path.rglob("*.safetensors"))
