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
m2kr.load("mini", "test", data=sys.argv[1]).queries  # before the limit: caches of imports
whole = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for line in sys.stdin:
    seed, most = line.split()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), whole))
    settings = {"seed": seed}
    done = m2kr.evaluate("mini", "random", data=sys.argv[1], out=sys.argv[2], settings=settings)
    print(len(done.unsaved), "unsaved", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are Unix's")
def test_a_disk_that_fills_up_leaves_the_results_before_as_they_were(
    mini_root: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.iterdir()}

    with subprocess.Popen(
        [sys.executable, "-c", SMALL, str(mini_root), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as child:
        assert child.stdin and child.stdout and child.stderr

        def run(seed: int, most: int) -> str:
            print(seed, most, file=child.stdin, flush=True)
            return child.stdout.readline().strip()

        assert run(1, whole) == "0 unsaved"
        for seed, most in ((2, 3000), (3, 0), (4, 60_000)):
            before = files()
            assert run(seed, most) == "1 unsaved"
            after = files()
            assert {name: content for name, content in after.items() if name in before} == before
            assert not [name for name in after if name.startswith(".")]
            assert not [name for name in after if name.endswith(".json") and name not in before]
            assert run(seed, whole) == "0 unsaved"
        child.stdin.close()
        errors = child.stderr.read()
    assert errors.count("could not be saved") == 3 and "Traceback" not in errors
    assert len(list(out.glob("*.json"))) == 4
