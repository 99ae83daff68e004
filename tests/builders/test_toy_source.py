"""A new source is one file: the example of CONTRIBUTING.md, planted beside the true builders."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import m2kr_builders
from m2kr.building import registry
from m2kr.building.spec import Builder
from m2kr.sources import builder_modules

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
COMMANDS = """
import contextlib, io, json, sys
from m2kr.cli.main import app

printed = []
for args in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        app(args, standalone_mode=False)
    printed.append(json.loads(out.getvalue()))
print(json.dumps(printed))
"""


def example() -> str:
    """The page's own code."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    return code


def test_it_is_listed_built_and_evaluated(tmp_path: Path) -> None:
    package = tmp_path / "planted" / "m2kr_builders"
    package.mkdir(parents=True)
    for entry in Path(next(iter(m2kr_builders.__path__))).iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    (package / "toy.py").write_text(example(), encoding="utf-8")
    here = ["--data", str(tmp_path / "data"), "--json"]
    commands = [
        ["build", "toy", *here],
        ["list", *here],
        ["eval", "toy", "--retriever", "bm25", "--out", str(tmp_path / "results"), *here],
    ]
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMMANDS, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built, listed, evaluated = json.loads(done.stdout)
    assert built["built"][0]["fresh"]
    (row,) = [row for row in listed["sources"] if row["source"] == "toy"]
    assert row["editions"] == ["rebuilt"]
    (result,) = evaluated["results"]
    assert result["metrics"]["hit_rate@1"]["value"] == 1


def test_it_needs_nothing_but_what_it_imports(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(example(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("toy", tmp_path / "toy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {name for name, value in vars(module.BUILDER).items() if callable(value)} == {
        "passages",
        "queries",
    }


@pytest.mark.parametrize("name", builder_modules())
def test_a_builder_is_asked_nothing_that_the_class_does_not_declare(name: str) -> None:
    """What is public in a source's class answers a question of `Builder`, in the same words."""
    kind = type(registry.builder(name))
    own = {n: v for n, v in vars(kind).items() if not n.startswith("_")}
    assert set(own) <= {"source", *vars(Builder)}
    for hook, function in own.items():
        if callable(function):
            asked = inspect.signature(getattr(Builder, hook)).parameters
            assert list(inspect.signature(function).parameters) == list(asked), hook
