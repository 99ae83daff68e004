"""No code from the working folder runs: every process of ours passes by what lies there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

OTHERS = (
    "m2kr", "m2kr_builders", "numpy", "orjson", "pyarrow", "datasets", "PIL", "rich", "typer", "yaml",
    "requests", "torch", "bm25s", "isal", "sitecustomize", "usercustomize",
)  # fmt: skip
TRAP = "open({log!r}, 'a').write(__name__ + '\\n')\nraise RuntimeError('trapped')\n"


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A folder with a file for every module that might be imported; ``log`` names those that ran."""
    folder = tmp_path / "traps"
    folder.mkdir()
    for name in (*sys.stdlib_module_names, *OTHERS):
        text = TRAP.format(log=str(tmp_path / "log"))
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def sprung(traps: Path) -> list[str]:
    log = traps.parent / "log"
    return log.read_text(encoding="utf-8").split() if log.exists() else []


def run(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*map(str, args)], capture_output=True, text=True, check=False, cwd=cwd, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_traps_spring(traps: Path) -> None:
    """Or else nothing below would show anything."""
    done = subprocess.run(
        [sys.executable, "-m", "m2kr.building.hashing"], capture_output=True, check=False, cwd=traps
    )
    assert done.returncode != 0
    assert sprung(traps)


@pytest.mark.slow
def test_a_build_in_processes(traps: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("m2kr")
    run(
        program, "build", "mini", "--jobs", 2, "--limit", 20, "--data", tmp_path / "data", cwd=traps
    )
    run(program, "eval", "mini", "-r", "random", "--data", tmp_path / "data", cwd=traps)
    assert sprung(traps) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Ray's test clusters need Linux")
def test_a_build_on_ray(traps: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("m2kr")
    words = ("build", "mini", "--limit", 20, "--engine", "ray", "--address", "local")
    run(program, *words, "--data", tmp_path / "data", cwd=traps)
    assert sprung(traps) == []


# As from a notebook: the working folder is the first place where modules are looked for.
CHILDREN = """
import sys
import os, multiprocessing.popen_spawn_posix, multiprocessing.resource_tracker
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import pyarrow as pa
from m2kr import children
from m2kr.building.hashing import ShardHasher
from m2kr.building.images.check import Decoders
from m2kr.schema import PASSAGE_COLUMNS, arrow_schema

traps, shard, png, first = sys.argv[1:]
row = {"passage_id": "p", "passage_content": "text", "language": "en"}
table = pa.Table.from_pylist([row], schema=arrow_schema(PASSAGE_COLUMNS))
with pa.OSFile(shard, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
    writer.write_table(table)
os.chdir(traps)
if first != "none":
    sys.path.insert(0, first)
hasher = ShardHasher()
hasher.add(Path(shard), full=True)
assert hasher.close().facts[0]["file"] == "shard.arrow"
with Decoders(1) as decoders:
    assert decoders.check([("a.png", Path(png).read_bytes())])[0].ok
with children.spawning(), ProcessPoolExecutor(1, get_context("spawn")) as pool:
    assert pool.submit(children.command, "x").result()[-1] == "x"
"""


@pytest.mark.parametrize(
    "first",
    ["none", "", pytest.param("absolute", marks=pytest.mark.slow)],
)
def test_each_kind_of_process(first: str, traps: Path, tmp_path: Path) -> None:
    png = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(png)
    first = str(traps) if first == "absolute" else first
    run(
        sys.executable,
        "-P",
        "-c",
        CHILDREN,
        traps,
        tmp_path / "shard.arrow",
        png,
        first,
        cwd=tmp_path,
    )
    assert sprung(traps) == []
