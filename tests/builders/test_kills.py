"""Builds killed at moments nobody chose."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from servers.faulty_server import FaultyServer
from support import killed_build
from support.golden_tables import SOURCES, tree

KILLS = 3


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_any_moment_will_do(server: FaultyServer, tmp_path: Path, name: str) -> None:
    """The same files with the same bytes, and nothing beside them, however often it is killed."""
    chance = random.Random()

    def start(root: Path) -> "subprocess.Popen[bytes]":
        return killed_build.start(name, server.url(""), root, stderr=subprocess.PIPE)

    began = time.monotonic()
    whole = start(tmp_path / "whole")
    _, stderr = whole.communicate(timeout=300)
    assert whole.returncode == 0, stderr.decode()
    seconds = time.monotonic() - began
    root = tmp_path / "broken"
    for _ in range(KILLS):
        process, wait = start(root), chance.uniform(0.3, 1.0) * seconds
        print(f"killed after {wait:.3f} s of {seconds:.1f}")
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
        _, stderr = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), stderr.decode()
    last = start(root)
    _, stderr = last.communicate(timeout=300)
    assert last.returncode == 0, stderr.decode()
    assert tree(root / "rebuilt") == tree(tmp_path / "whole" / "rebuilt")
