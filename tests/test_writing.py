"""Where files are written: aside first, never through a planted link, never over a device or a pipe."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli

from m2kr import atomic
from m2kr.errors import MissingError, UsageError
from m2kr.retrieval.run import Run
from m2kr.search.store.dense import EmbeddingWriter

RUN = Run.from_dict({"q": {"p": 1.0}})


def embeddings(path: Path) -> None:
    with EmbeddingWriter(path.parent):
        pass


WRITERS = {
    "text": (lambda path: atomic.write_text(path, "mine"), lambda path: f".{path.name}.tmp-{os.getpid()}"),
    "json": (
        lambda path: atomic.write_json(path, {}, alone=True),
        lambda path: f".{path.name}.tmp",
    ),
    "run": (RUN.save, lambda path: f".{path.name}.tmp-{os.getpid()}"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dangling", [False, True])
def test_a_planted_link_is_not_written_through(tmp_path: Path, name: str, dangling: bool) -> None:
    write, aside = WRITERS[name]
    victim, folder = tmp_path / "victim", tmp_path / "out"
    folder.mkdir()
    if not dangling:
        victim.write_text("precious", encoding="utf-8")
    path = folder / "file.trec"
    (folder / aside(path)).symlink_to(victim)
    path.symlink_to(victim)
    write(path)
    assert path.is_file() and not path.is_symlink()
    assert victim.exists() is not dangling
    assert dangling or victim.read_text(encoding="utf-8") == "precious"
    assert [p.name for p in folder.iterdir()] == ["file.trec"]


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with atomic.writing(folder) as aside:
        aside.mkdir()
        atomic.write_text(aside / "file", "old")
    for path in (folder / "file", folder):
        with pytest.raises(ZeroDivisionError), atomic.writing(path) as aside:
            aside.mkdir()
            (aside / "half").touch()
            raise ZeroDivisionError
        assert [p.name for p in tmp_path.rglob("*")] == ["folder", "file"]
    assert (folder / "file").read_text(encoding="utf-8") == "old"


def test_what_is_appended_to_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "part").symlink_to(tmp_path / "victim")
    for append in (False, True):
        with pytest.raises(OSError) as caught:
            atomic.reopen(tmp_path / "part", append=append)
        assert caught.value.errno in (errno.ELOOP, errno.EMLINK)
    assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "folder"])
def test_only_files_are_replaced(tmp_path: Path, make) -> None:
    path = tmp_path / "x.trec"
    make(path)
    with pytest.raises(OSError):
        atomic.write_text(path, "mine")
    assert not path.is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["x.trec"]
    with pytest.raises(UsageError, match="no file"):
        atomic.require_file(path)
    with pytest.raises(MissingError, match="no such folder"):
        atomic.require_file(tmp_path / "no" / "x")


def test_places_are_checked_before_the_work(mini_root: Path, tmp_path: Path, cli: Cli) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.touch()
    search = ("search", "mini", "-q", "x", "-r", "bm25")
    for args, code in (
        ((*search, "--data", mini_root, "--html", pipe), 2),
        ((*search, "--data", mini_root, "--html", tmp_path / "no" / "x.html"), 3),
        (("list", "--data", file), 2),
        (("build", "mini", "--data", file), 2),
    ):
        done = cli(*args, code=code)
        assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
        assert "data root:" not in done.stdout or "--html" in args
    assert pipe.is_fifo() and file.read_bytes() == b""


SMALL = """
import resource, sys
import m2kr
from m2kr.errors import M2KRError
m2kr.load("mini", "test", data=sys.argv[1]).queries  # before the limit: caches of imports
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    m2kr.evaluate("mini", "random", data=sys.argv[1], out=sys.argv[2], settings={"seed": sys.argv[4]})
except M2KRError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are Unix's")
@pytest.mark.parametrize(
    "most", [3000, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 60_000))]
)
def test_a_disk_that_fills_up_leaves_the_result_before_as_it_was(
    mini_root: Path, tmp_path: Path, most: int
) -> None:
    out = tmp_path / "out"

    def run(most: int, seed: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", SMALL, str(mini_root), str(out), str(most), str(seed)]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)

    whole = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    assert run(whole, 1).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    failed = run(most, 2)
    assert "could not be saved" in failed.stderr and "Traceback" not in failed.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name in before} == before
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert not [path for path in out.glob("*.json") if path.name not in before]
    assert run(whole, 2).returncode == 0
    assert len(list(out.glob("*.json"))) == 2
