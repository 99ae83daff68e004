"""What a result says of the machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from m2kr.evaluation.result import peak_memory

CHILD = "from m2kr.evaluation.result import peak_memory; print(peak_memory())"


def test_peak_memory_covers_what_was_freed() -> None:
    block = bytearray(200 << 20)
    block[::4096] = b"x" * len(block[::4096])
    del block
    peak = peak_memory()
    assert peak is not None
    assert peak > 200 << 20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells it by process")
def test_peak_memory_is_not_the_parents() -> None:
    fat = bytearray(300 << 20)
    fat[::4096] = b"x" * len(fat[::4096])
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(done.stdout) < 200 << 20
