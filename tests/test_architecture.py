"""The tree that docs/architecture.md shows is the tree that is there."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def test_every_folder_of_code_is_in_the_tree_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = re.findall(r"^([a-z_0-9/]+)/  +\S", page, flags=re.M)
    code = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("m2kr/**/*.py")}
    assert sorted(shown) == sorted(code | {"builders", "leaderboard", "tools", "tests"})


def test_modules_that_it_names_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z]+(?:/[a-z_]+)+)`", page)
    assert named
    for path in named:
        assert (ROOT / "m2kr" / f"{path}.py").is_file(), path


@pytest.fixture(scope="module")
def house() -> dict[str, Any]:
    """What ``tools/house.py`` measures."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "house.py", ROOT, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def test_no_module_imports_itself_by_way_of_others(house: dict[str, Any]) -> None:
    assert house["circles at run time"] == []
    assert house["folders both ways"] == []
    assert all(len(circle) <= 2 for circle in house["circles, types counted"])


def test_a_public_name_is_one_modules(house: dict[str, Any]) -> None:
    doubled = house["public names in several modules"]
    assert len(doubled) <= 30, doubled


def test_the_command_line_has_few_options(house: dict[str, Any]) -> None:
    assert 0 < house["options"] <= 90


def test_bm25_reaches_no_encoder_and_no_search() -> None:
    words = [sys.executable, ROOT / "tools" / "house.py", ROOT, "--reach", "m2kr.retrievers.bm25"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    count = re.search(r"(\d+) modules", done.stdout)
    assert count
    assert 1 < int(count[1]) <= 20
