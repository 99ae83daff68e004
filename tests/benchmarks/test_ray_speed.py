"""A CPU-bound build by two workers, local processes and Ray's, against one process, in one run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Ray's test clusters need Linux")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers need two cores")
def test_two_workers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TESTS / "distributed" / "ray_cluster.py", tmp_path, "2", "speed", "-"],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env=os.environ | {"PYTHONPATH": str(TESTS), "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    seconds = json.loads(done.stdout.splitlines()[-1])
    jobs, ray = (seconds["one"] / seconds[way] for way in ("jobs", "ray"))
    print(f"one process {seconds['one']:.1f} s; --jobs 2: {jobs:.2f} of its speed; Ray: {ray:.2f}")
    # Wanted: 1.6. Seen: 1.4 to 1.7 and 1.5 to 1.8, as others leave this machine's two cores.
    assert jobs >= 1.2
    assert ray >= 1.2
