"""Writing and opening a big pool, against a bare Arrow writer and BEIR-style loading, in one run."""

import shutil
from pathlib import Path

import pytest
from support.own_process import WHOLE, cost

STEPS = Path(__file__).with_name("pool_cost.py")
GB, MB = 10**9, 10**6


@pytest.mark.slow
def test_pool(tmp_path: Path) -> None:
    rows = 8_841_823 if WHOLE else 1_000_000
    written = cost(STEPS, "write", tmp_path, rows)
    speed = written["bare"] / written["ours"]
    print(f"writer: {speed:.2f} of a bare pyarrow IPC writer")
    assert speed >= 0.6
    assert written["peak"] <= 1 * GB
    shutil.rmtree(tmp_path / "ours")
    (tmp_path / "bare.arrow").unlink()

    built = cost(STEPS, "build_pool", tmp_path, rows)
    assert built["peak"] <= 1.5 * GB
    opened = cost(STEPS, "open_pool", tmp_path, rows)
    assert opened["over_imports"] <= 300 * MB

    cost(STEPS, "beir_file", tmp_path, rows)
    rival = cost(STEPS, "beir", tmp_path, rows)
    print(
        f"opening: {rival['seconds'] / opened['seconds']:.0f} times faster than a dict, "
        f"{rival['over_imports'] / max(opened['over_imports'], MB):.0f} times smaller"
    )
    assert opened["seconds"] <= rival["seconds"] / 3
    assert opened["over_imports"] <= rival["over_imports"]
