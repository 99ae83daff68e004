"""Every command and snippet of docs/your-own-retriever.md, in order, in one folder."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import Cli

PAGE = Path(__file__).parents[2] / "docs" / "your-own-retriever.md"


@pytest.mark.slow
def test_the_page_runs(
    cli: Cli, mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```(bash|python)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S
    )
    commands = 0
    for language, text in blocks:
        if named := re.match(r"# (\w+\.py)\n", text):
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, str(PAGE), "exec"), {})
        else:
            for line in text.splitlines():
                cli(*shlex.split(line)[1:], "--data", mini_root, "--no-cache", cwd=tmp_path)
                commands += 1
    assert commands >= 3
