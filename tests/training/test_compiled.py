"""``steps.compile``: compiled code trains as plain code does."""

import os
import shutil
from pathlib import Path

import pytest
from support.tiny_training import make_source, tiny_recipe

from m2kr.training.loop import train


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("M2KR_WHOLE"), reason="M2KR_WHOLE=1 compiles for a CPU minute"
)
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile takes a C++ compiler")
def test_the_losses_of_compiled_code_are_those_of_plain_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    make_source(tmp_path / "data")
    plain, compiled = (
        train(
            tiny_recipe(start={"dropout": 0.0}, steps={"steps": 4, "compile": on}),
            data=tmp_path / "data",
            out=tmp_path / str(on),
        )
        for on in (False, True)
    )
    assert list((tmp_path / "cache").rglob("*.so"))  # code was made
    assert plain.losses == pytest.approx(compiled.losses, rel=1e-4)
    assert plain.losses[0] != plain.losses[-1]
