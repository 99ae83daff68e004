"""Costs of one step, measured in a process of its own, whose peak memory is then the step's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Benchmarks at the sizes of the true data, by option; CI takes the smallest that shows the ratio.
WHOLE = bool(os.environ.get("M2KR_WHOLE"))


def cost(script: Path, step: str, where: Path, rows: int) -> dict[str, Any]:
    """What ``script STEP WHERE ROWS`` prints as JSON; told on stdout, too, for ``pytest -rP``."""
    done = subprocess.run(
        [sys.executable, str(script), step, str(where), str(rows)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(f"{step} {rows:,}: {result}")
    return dict(result)
