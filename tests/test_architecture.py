"""The tree that docs/architecture.md shows is the tree that is there."""

import re
from pathlib import Path

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
