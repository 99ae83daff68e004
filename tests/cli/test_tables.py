"""Tables on narrow terminals: they fit, words go on in the next line, numbers and addresses stay whole."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import Cli

from m2kr.cli import output

# What colours a terminal's text or moves its cursor.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
TABLE_LINES = "│┃┏┡└├━─"


def on_terminal(columns: int, *words: object) -> list[str]:
    """The lines that a command shows on a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-m", "m2kr", *map(str, words)],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env=env | {"TERM": "xterm-256color"},
    ) as done:
        os.close(follower)
        shown = b""
        while True:
            try:
                block = os.read(leader, 1 << 16)
            except OSError:  # Linux: the other end is closed
                break
            if not block:
                break
            shown += block
    os.close(leader)
    assert done.returncode == 0, shown
    return CONTROL.sub("", shown.decode()).split("\n")


@pytest.mark.parametrize(("columns", "command"), [(40, "info"), (60, "build"), (80, "info")])
def test_tables_fit_and_their_numbers_are_whole(
    mini_root: Path, columns: int, command: str
) -> None:
    lines = on_terminal(columns, command, "mini", "--data", mini_root)
    tables = [line for line in lines if line.strip()[:1] in TABLE_LINES]
    assert all(len(line) <= columns for line in tables), tables
    text = "\n".join(lines)
    assert all(count in text for count in ("1,783", "1,007", "1,169", "3,290")), text


def test_a_plan_shows_whole_addresses(cli: Cli, tmp_path: Path) -> None:
    plan = json.loads(cli("build", "okvqa", "--plan", "--json", "--data", tmp_path).stdout)
    addresses = [file["url"] for file in plan["sources"][0]["files"]]
    lines = on_terminal(60, "build", "okvqa", "--plan", "--data", tmp_path)
    assert len(addresses) == 5
    # The terminal itself breaks a long line; the command writes it as one.
    assert all(any(address in line for line in lines) for address in addresses), lines


def test_eval_names_the_retrievers(cli: Cli) -> None:
    text = " ".join(cli("eval", "--help").stdout.replace("│", " ").split())
    assert "bm25, dense_text" in text
    assert "preflmr, random" in text


@pytest.mark.parametrize(
    ("least", "most", "said"),
    [
        (4.2, 14.3, "4 to 14 hours"),
        (0.5, 1.7, "0.5 to 1.7 hours"),
        (1200, 3000, "1,200 to 3,000 hours"),
        (2.51, 2.51, "2.5 hours"),
        (0.01, 0.1, "1 to 6 minutes"),
        (0.01, 0.016, "1 minute"),
        (0, 0.001, "less than a minute"),
    ],
)
def test_a_time_between_two_is_in_one_unit(least: float, most: float, said: str) -> None:
    assert output.hours(least, most) == said
