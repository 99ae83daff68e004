"""The commands of docs/reproduce.md print what the page shows."""

import re
from pathlib import Path

from support.commands import call

PAGE = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")


def test_the_page_shows_what_its_commands_print(home, mini_root):
    blocks = re.findall(r"^```(yaml|bash|text)\n(.*?)^```", PAGE, flags=re.M | re.S)
    (home / "my_paper.yaml").write_text(next(text for kind, text in blocks if kind == "yaml"))
    shown = [text.splitlines() for kind, text in blocks if kind == "text" and "┏" in text]
    (home / "hub").mkdir()
    plan, own = (
        call("reproduce", "preflmr-vit-l", "--sources", "okvqa", "--plan", "--data", home),
        call("reproduce", "my_paper.yaml", "--data", mini_root, code=1),
    )
    for lines, done in zip(shown, (plan, own), strict=True):
        printed = [line.rstrip() for line in done.stdout.splitlines()]
        assert [line for line in lines if line not in printed] == []
