"""``--engine ray``: builds on simulated nodes give the bytes of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from servers.faulty_server import FaultyServer
from support.golden_tables import tree
from support.upstream_fixture import served_files

PROGRAM = Path(__file__).with_name("ray_cluster.py")
TESTS = Path(__file__).parent.parent


def on_cluster(root: Path, nodes: int, what: str, base: str = "-") -> dict[str, Any]:
    """Runs a build on a cluster in a process of its own, which Ray does not leave as it was."""
    done = subprocess.run(
        [sys.executable, PROGRAM, root, str(nodes), what, base],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=os.environ | {"PYTHONPATH": str(TESTS), "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Ray's test clusters need Linux")
def test_a_node_that_dies_costs_nothing_but_time(tmp_path: Path) -> None:
    with FaultyServer(served_files()) as server:
        told = on_cluster(tmp_path, 3, "kill", server.url(""))
    assert told["made by others"] and told["times"] == 2, told
    made = tree(tmp_path / "ray" / "rebuilt")
    assert "WIT_manifest.json" in made
    assert made == tree(tmp_path / "one" / "rebuilt")


def test_both_ways_to_share_a_build_out_are_refused_together(cli: Cli, tmp_path: Path) -> None:
    words = ("build", "mini", "--shard", "1/2", "--engine", "ray", "--data", tmp_path)
    assert "take one" in cli(*words, code=2).stderr
    assert not (tmp_path / "mini").exists()


def test_without_ray_the_line_to_type_is_told(tmp_path: Path) -> None:
    """In a process that can't find the package."""
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'ray' else real(name, *a)\n"
        "from m2kr.cli.main import main\n"
        f"sys.argv = ['m2kr', 'build', 'mini', '--engine', 'ray', '--data', {str(tmp_path)!r}]\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "pip install 'm2kr[ray]'" in done.stderr


def test_where_no_cluster_is_says_so(cli: Cli, tmp_path: Path) -> None:
    words = ("build", "mini", "--engine", "ray", "--address", "127.0.0.1:1", "--data", tmp_path)
    error = cli(*words, code=1).stderr
    assert "no Ray cluster is at '127.0.0.1:1'" in error
    assert "ray start --head" in error
