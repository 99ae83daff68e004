"""Streaming a knowledge base, against a bare orjson on pieces cut beforehand, in one run."""

import shutil
from pathlib import Path

import pytest
from support.own_process import WHOLE, cost

STEPS = Path(__file__).with_name("kb_cost.py")
GB = 10**9


@pytest.mark.slow
@pytest.mark.parametrize("articles", [20_000, *([655_000] if WHOLE else [])])
def test_kb(tmp_path: Path, articles: int) -> None:
    if shutil.disk_usage(tmp_path).free < articles * 12_000:
        pytest.skip("not enough disk space")
    file = tmp_path / "kb.json"
    written = cost(STEPS, "write", file, articles)
    runs = [cost(STEPS, "stream", file, articles) for _ in range(1 if articles > 20_000 else 3)]
    streamed = sorted(runs, key=lambda run: run["speed"])[len(runs) // 2]
    file.unlink()
    print(
        f"{written['bytes'] / GB:.2f} GB: {streamed['speed']:.2f} of a bare orjson.loads, "
        f"{written['bytes'] / streamed['ours'] / 10**6:.0f} MB/s, "
        f"{streamed['over_imports'] / 10**6:.0f} MB over the imports"
    )
    assert streamed["speed"] >= 0.5
    assert streamed["peak"] <= 1 * GB
