"""A new source is one file, a broken one harms no other, and what reads built data imports no builder."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import m2kr_builders
from m2kr.building import registry
from m2kr.building.spec import Builder
from m2kr.sources import builder_modules

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
BROKEN = {
    "absent_module": ("import nothing_such\n", "No module named 'nothing_such'"),
    "syntax": ("def broken(:\n", "SyntaxError"),
    "leaves": ("import sys\n\nsys.exit(3)\n", "SystemExit: 3"),
    "unlike_its_name": (
        "from m2kr_builders.kvqa import BUILDER\n",
        "declares no source of its name",
    ),
    "without_source": ("X = 1\n", "declares no source of its name"),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which m2kr_builders holds the true builders, the page's example and five broken ones."""
    folder = tmp_path_factory.mktemp("planted")
    package = folder / "m2kr_builders"
    package.mkdir()
    for entry in Path(next(iter(m2kr_builders.__path__))).iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    for name, text in {"toy": example, **{n: text for n, (text, _) in BROKEN.items()}}.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def python(planted: Path, *args: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-P", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(planted)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# One process for all of them: each start of Python takes its second.
COMMANDS = """
import contextlib, io, json, sys
from m2kr.cli.main import app

told = []
for args in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(args, standalone_mode=False)
        except SystemExit as ended:
            code = ended.code
    told.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def done(
    planted: Path, mini_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, str, str]]:
    """Exit code, standard output and errors of some commands."""
    root = tmp_path_factory.mktemp("data")
    here, there = f"--data {mini_root}", f"--data {root}"
    commands = [
        f"list {here}",
        f"list --json {here}",
        f"info mini {here}",
        f"verify mini {here}",
        f"build mini --plan {there}",
        f"build CC --plan {there}",
        f"build all --plan {there}",
        f"build absent_module {there}",
        f"info syntax {there}",
        f"build toy --json {there}",
        f"eval toy --retriever bm25 --out {root}/results --json {there}",
    ]
    ran = python(planted, "-c", COMMANDS, json.dumps([c.split() for c in commands]))
    names = [command.partition(" --data")[0] for command in commands]
    return dict(zip(names, json.loads(ran.stdout), strict=True))


def test_a_broken_builder_is_named_and_harms_no_other(done: dict[str, Any]) -> None:
    failed = {command for command, (code, _, _) in done.items() if code}
    assert failed == {"build absent_module", "info syntax"}
    assert not any("Traceback" in err or "bug in m2kr" in err for _, _, err in done.values())
    shown, everything = done["list"], done["build all --plan"]
    rows = json.loads(done["list --json"][1])["sources"]
    for name, (_, message) in BROKEN.items():
        assert f"the builder '{name}'" in shown[1]
        assert f"'{name}'" in everything[2]
        assert message in shown[1]
        (row,) = [row for row in rows if row["source"] == name]
        assert message in row["broken"]["what"]
    assert "absent_module.py:1: import nothing_such" in shown[1]
    assert {row["source"] for row in rows if "broken" not in row} >= {"mini", "okvqa", "toy"}
    assert "okvqa: route sources" in everything[1]
    assert "absent_module.py:1: import nothing_such" in done["build absent_module"][2]
    assert "the builder 'syntax' can't be imported: SyntaxError" in done["info syntax"][2]


def test_the_example_of_a_source_is_built_and_evaluated(done: dict[str, Any]) -> None:
    (built,) = json.loads(done["build toy --json"][1])["built"]
    assert built["fresh"] and built["splits"]["test"]["queries"] == 3
    evaluated = next(out for command, (_, out, _) in done.items() if command.startswith("eval toy"))
    (result,) = json.loads(evaluated)["results"]
    assert result["metrics"]["hit_rate@1"]["value"] == 1


READER = """
import pathlib, sys, m2kr
split = m2kr.load("mini", data={root!r})
split.passage("factbook/gb/flag"), split.queries_view, split.passages_view
m2kr.evaluate(split, "random", k=5)
# A manifest that can't be read: whose it is, is told by its name.
damaged = pathlib.Path({root!r}, "rebuilt", "CC_manifest.json")
damaged.parent.mkdir()
damaged.write_text("{{")
for wrong in ("minni", "okvqa", "conceptual-captions", "cc3m"):
    try:
        m2kr.load(wrong, data={root!r})
    except m2kr.M2KRError:
        pass
print(*(name for name in sys.modules if name.startswith(("m2kr_builders", "m2kr.building"))))
"""


def test_readers_import_no_builder(planted: Path, mini_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "mini").symlink_to(mini_root / "mini")
    imported = python(planted, "-c", READER.format(root=str(root))).stdout
    assert imported.split() == []


@pytest.mark.parametrize("name", builder_modules())
def test_a_builder_is_asked_nothing_that_the_class_does_not_declare(name: str) -> None:
    """What is public in a source's class is a rule, or answers a question of `Builder` in its words."""
    kind = type(registry.builder(name))
    own = {n: v for n, v in vars(kind).items() if not n.startswith("_")}
    assert set(own) <= {"source", *vars(Builder), *(rule.name for rule in kind.source.rules)}
    for hook, function in own.items():
        if callable(function) and hasattr(Builder, hook):
            asked = inspect.signature(getattr(Builder, hook)).parameters
            assert list(inspect.signature(function).parameters) == list(asked), hook
