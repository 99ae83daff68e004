"""One broken builder harms nothing else, and what reads built data imports no builder at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import m2kr_builders

BROKEN = {
    "absent_module": ("import nothing_such\n", "No module named 'nothing_such'"),
    "syntax": ("def broken(:\n", "SyntaxError"),
    "leaves": ("import sys\n\nsys.exit(3)\n", "SystemExit: 3"),
    "unlike_its_name": (
        "from m2kr_builders.kvqa import SOURCE\n",
        "declares no source of its name",
    ),
    "without_source": ("X = 1\n", "declares no source of its name"),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which m2kr_builders holds the true builders and five broken ones."""
    folder = tmp_path_factory.mktemp("planted")
    package = folder / "m2kr_builders"
    package.mkdir()
    for entry in Path(next(iter(m2kr_builders.__path__))).iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for name, (text, _) in BROKEN.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def python(planted: Path, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(planted)},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def m2kr(planted: Path, *args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("m2kr"))
    return python(planted, program, *map(str, args), code=code)


def test_list_names_the_broken_and_shows_the_others(planted: Path, mini_root: Path) -> None:
    shown = m2kr(planted, "list", "--data", mini_root)
    listed = json.loads(m2kr(planted, "list", "--json", "--data", mini_root).stdout)["sources"]
    assert "Traceback" not in shown.stderr
    for name, (_, message) in BROKEN.items():
        assert f"the builder '{name}'" in shown.stdout
        assert message in shown.stdout
        (row,) = [row for row in listed if row["source"] == name]
        assert message in row["broken"]["what"]
    assert "absent_module.py:1: import nothing_such" in shown.stdout
    whole = {row["source"] for row in listed if "broken" not in row}
    assert whole >= {"mini", "okvqa", "wit", "kvqa"}


def test_readers_and_other_builds_go_on(planted: Path, mini_root: Path, tmp_path: Path) -> None:
    shown = m2kr(planted, "eval", "mini", "-r", "oracle", "--data", mini_root, "--out", tmp_path)
    assert "oracle" in shown.stdout
    m2kr(planted, "build", "mini", "--plan", "--data", tmp_path)
    m2kr(planted, "info", "mini", "--data", mini_root)
    m2kr(planted, "build", "CC", "--plan", "--data", tmp_path)


def test_building_a_broken_source_says_what_is_wrong(planted: Path, tmp_path: Path) -> None:
    told = m2kr(planted, "build", "absent_module", "--data", tmp_path, code=1).stderr
    assert "absent_module.py:1: import nothing_such" in told
    assert "the builder 'absent_module' can't be imported" in told
    assert "bug in m2kr" not in told
    rest = m2kr(planted, "build", "all", "--plan", "--data", tmp_path)
    assert all(f"'{name}'" in rest.stderr for name in BROKEN)
    assert "okvqa: route sources" in rest.stdout


READER = """
import sys, m2kr
split = m2kr.load("mini", data={root!r})
split.passage("factbook/gb/flag"), split.queries_view, split.passages_view
m2kr.evaluate(split, "random", k=5)
for wrong in ("minni", "okvqa", "conceptual-captions"):
    try:
        m2kr.load(wrong, data={root!r})
    except m2kr.M2KRError:
        pass
print(*(name for name in sys.modules if name.startswith(("m2kr_builders", "m2kr.build"))))
"""


def test_readers_import_no_builder(planted: Path, mini_root: Path) -> None:
    imported = python(planted, "-c", READER.format(root=str(mini_root))).stdout
    assert imported.split() == []
