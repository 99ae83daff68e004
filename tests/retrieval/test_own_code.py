"""Retrievers that users bring: whose error it is that they raise."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from support.own_files import PLACES, written
from support.toys import Dense, toy_split
from typer.testing import CliRunner

from m2kr.cli import eval_
from m2kr.cli.main import guarded
from m2kr.errors import InputError, RetrieverError
from m2kr.evaluation.harness import evaluate_split
from m2kr.retrievers import create


@pytest.mark.parametrize("place", sorted(PLACES))
def test_an_exception_shows_its_own_last_line(place: str, tmp_path: Path) -> None:
    path = written(tmp_path, **{place: PLACES[place]})
    (number,) = (
        number
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "no such net" in line
    )
    error = InputError if place == "loading" else RetrieverError
    with pytest.raises(error) as caught:
        evaluate_split(toy_split(), create(f"{path}:Mine"), k=3)
    told = str(caught.value)
    assert told.startswith(f"{path}:{number}")
    assert "raise ValueError('no such net')" in told
    assert "ValueError: no such net" in told
    assert isinstance(caught.value.__cause__, ValueError)
    if place.startswith("encode_"):
        side = "queries" if place == "encode_query" else "passages"
        assert side in told
    if place in ("encode_query", "encode_document"):
        assert f"Mine.{place} of batch 1 (4 " in told


RAISED = {
    "raise SystemExit('no GPU')": "SystemExit: no GPU",
    "import nothing_such": "ModuleNotFoundError: No module named 'nothing_such'",
    "open('/no/such/weights')": "FileNotFoundError",
    "raise MemoryError": "MemoryError",
    "np.ones(3) @ np.ones(4)": "ValueError: matmul",
    "batch.nothing": "AttributeError",
    "def again(): again()\n        again()": "RecursionError",
    "raise KeyError": "KeyError",
    "raise StopIteration": "StopIteration",
    "raise BrokenPipeError": "BrokenPipeError",
    "assert not batch": "AssertionError",
    "raise BaseException('a panic in Rust')": "BaseException: a panic in Rust",
}


@pytest.mark.parametrize("line", sorted(RAISED))
def test_whatever_is_raised_is_its_own(line: str, tmp_path: Path) -> None:
    path = written(tmp_path, encode_query=line)
    with pytest.raises(RetrieverError) as caught:
        evaluate_split(toy_split(), create(f"{path}:Mine"), k=3)
    assert RAISED[line] in str(caught.value)
    assert "pip install" not in str(caught.value)
    assert f"{path}:" in str(caught.value)


def test_a_class_without_a_file_and_a_wrong_signature_are_told_too() -> None:
    class Short(Dense):
        def encode_query(self):
            return None

    class Bare:
        name, settings, modalities = "bare", {}, {}

        def index(self, passages):
            """Takes no workdir."""

        def search(self, queries, k):
            """Never called."""

    for retriever, named in ((Short(), "encode_query of batch 1"), (Bare(), "Bare.index of 4")):
        with pytest.raises(RetrieverError, match="TypeError") as caught:
            evaluate_split(toy_split(), retriever, k=3)
        assert named in str(caught.value)


def test_our_own_bugs_stay_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("m2kr.retrieval.encoder.batches_by_length", broken)
    monkeypatch.setattr(broken, "__module__", "m2kr.retrieval.batches")
    with pytest.raises(RetrieverError):  # a test's function stands in for ours: it lies outside
        evaluate_split(toy_split(), Dense(), k=3)
    monkeypatch.undo()
    monkeypatch.setattr("m2kr.retrieval.encoder.checked_output", None)
    with pytest.raises(TypeError, match="not callable"):
        evaluate_split(toy_split(), Dense(), k=3)


def test_the_command_line_leaves_with_1_and_shows_all_when_asked(
    mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "my_model.py", encode_document=PLACES["encode_document"])
    evaluated = ("mini", "--split", "valid", "--data", str(mini_root), "-r")
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(guarded(eval_.command))
    done = CliRunner().invoke(app, [*evaluated, "my_model:Mine"])  # a module of the working folder
    assert done.exit_code == 1
    told = done.stderr
    assert told.startswith("error: my_model.py:")
    assert "in encode_document: raise ValueError('no such net'): ValueError: no such net" in told
    assert "bug in m2kr" not in told
    assert "Traceback" not in told
    program = [Path(sys.executable).with_name("m2kr"), "--verbose", "eval", *evaluated]
    shown = subprocess.run(
        [*program, "my_model.py:Mine"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr


def test_attributes_that_are_computed_may_fail_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "class Mine:\n    name, settings, modalities = 'mine', {}, {}\n"
        "    def index(self, passages, *, workdir): ...\n"
        "    def search(self, queries, k): ...\n"
        "    def __getattr__(self, name):\n        raise RuntimeError(name)\n"
    )
    with pytest.raises(RetrieverError, match=r"raise RuntimeError\(name\)"):
        evaluate_split(toy_split(), create(f"{path}:Mine"), k=3)
