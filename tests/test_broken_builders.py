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
        "from m2kr_builders.kvqa import BUILDER\n",
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


def test_a_broken_builder_is_named_and_harms_no_other(
    planted: Path, mini_root: Path, tmp_path: Path
) -> None:
    here, there = ["--data", str(mini_root)], ["--data", str(tmp_path)]
    commands = [
        ["list", *here],
        ["list", "--json", *here],
        ["info", "mini", *here],
        ["verify", "mini", *here],
        ["build", "mini", "--plan", *there],
        ["build", "CC", "--plan", *there],
        ["build", "all", "--plan", *there],
        ["build", "absent_module", *there],
        ["info", "syntax", *there],
    ]
    done = json.loads(python(planted, "-c", COMMANDS, json.dumps(commands)).stdout)
    assert [code for code, _, _ in done] == [0, 0, 0, 0, 0, 0, 0, 1, 1], done
    assert not any("Traceback" in err or "bug in m2kr" in err for _, _, err in done)
    shown, listed, *_, everything, absent, syntax = done

    rows = json.loads(listed[1])["sources"]
    for name, (_, message) in BROKEN.items():
        assert f"the builder '{name}'" in shown[1]
        assert f"'{name}'" in everything[2]
        assert message in shown[1]
        (row,) = [row for row in rows if row["source"] == name]
        assert message in row["broken"]["what"]
    assert "absent_module.py:1: import nothing_such" in shown[1]
    assert {row["source"] for row in rows if "broken" not in row} >= {"mini", "okvqa", "wit"}
    assert "okvqa: route sources" in everything[1]
    assert "absent_module.py:1: import nothing_such" in absent[2]
    assert "the builder 'syntax' can't be imported: SyntaxError" in syntax[2]


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
