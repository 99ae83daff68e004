"""``datasets.load_dataset`` with its default cache: the rows that are there now, not an earlier build's."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    import json, sys
    from dataclasses import dataclass
    from pathlib import Path
    from datasets import DatasetDict, disable_progress_bars, load_dataset
    from support.toy_builder import ToyBuilder
    from m2kr.building.build import build

    disable_progress_bars()


    @dataclass
    class Pictured(ToyBuilder):
        image: str = ""

        def queries(self, ctx, split):
            yield from ({**row, "img_path": self.image} for row in super().queries(ctx, split))


    base, seen = Path(sys.argv[1]), []
    for root, builder in (
        ("a", Pictured(40, image="x.jpg")),
        ("a", Pictured(30, image="x.jpg")),
        ("b", Pictured(20, image="x.jpg")),
        ("a", Pictured(40, image="x.jpg")),
        # What no fingerprint of a score holds.
        ("a", Pictured(40, image="y.jpg")),
    ):
        folder = build(builder, base / root, force=True).folder
        for config in ("TOY_data", "TOY_passages", "TOY_qrels"):
            loaded = load_dataset(str(folder), config)
            there = DatasetDict.load_from_disk(str(folder / config))
            assert set(loaded) == set(there)
            same = all(loaded[split].to_list() == there[split].to_list() for split in there)
            seen.append([root, builder.rows, builder.image, config, same])
    print(json.dumps(seen))
"""


@pytest.mark.slow
def test_the_default_cache_never_gives_an_earlier_builds_rows(tmp_path: Path) -> None:
    tests = Path(__file__).parent.parent
    env = os.environ | {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(tests)}
    env = {name: value for name, value in env.items() if name != "HF_DATASETS_CACHE"}
    script = tmp_path / "builds.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen) == 15
    assert [entry for entry in seen if not entry[-1]] == []
