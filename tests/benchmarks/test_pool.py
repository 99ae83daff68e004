"""Writing and opening a big pool, against a bare Arrow writer and BEIR-style loading, in one run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = Path(__file__).with_name("pool_cost.py")
GB, MB = 10**9, 10**6
MSMARCO = 8_841_823


def cost(step: str, folder: Path, rows: int) -> dict:
    done = subprocess.run(
        [sys.executable, str(STEPS), step, str(folder), str(rows)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(f"{step} {rows:,}: {result}")
    return result


@pytest.mark.parametrize(
    "rows", [300_000, pytest.param(MSMARCO, marks=pytest.mark.slow)], ids=["small", "msmarco"]
)
def test_pool(tmp_path: Path, rows: int) -> None:
    written = cost("write", tmp_path, rows)
    speed = written["bare"] / written["ours"]
    print(f"writer: {speed:.2f} of a bare pyarrow IPC writer")
    assert speed >= 0.6
    assert written["peak"] <= 1 * GB
    shutil.rmtree(tmp_path / "ours")
    (tmp_path / "bare.arrow").unlink()

    built = cost("build_pool", tmp_path, rows)
    assert built["peak"] <= 1.5 * GB
    opened = cost("open_pool", tmp_path, rows)
    assert opened["over_imports"] <= 300 * MB

    cost("beir_file", tmp_path, rows)
    rival = cost("beir", tmp_path, rows)
    print(
        f"opening: {rival['seconds'] / opened['seconds']:.0f} times faster than a dict, "
        f"{rival['over_imports'] / max(opened['over_imports'], MB):.0f} times smaller"
    )
    assert opened["seconds"] <= rival["seconds"] / 3
    assert opened["over_imports"] <= rival["over_imports"]
