"""What people read of an audit: the terminal, the page, docs/audit.md."""

import json
import re
from pathlib import Path

import pytest
from support.audit_folder import clean_folder
from support.browser import chromium

from m2kr.audit.audit import CHECKS

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an error, a warning and a note; its texts are hostile."""
    bench = clean_folder()
    bench.qrels["test"][0] = ("q0", "<script>alert(1)</script>", 1)
    bench.qrels["test"][1] = ("q1", "p1", 3.5)
    bench.corpus[110]["text"] += "<b>\x1b[31m bold</b> \u202e evil"
    for row in bench.corpus:
        row["url"] = None
    return bench.write(tmp_path_factory.mktemp("faulty") / "bench")


def test_every_code_is_on_the_page_and_no_other():
    rows = [
        line.split("|")[1]
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert sorted(code for row in rows for code in re.findall(r"`([a-z-]+)`", row)) == sorted(
        CHECKS
    )


def test_the_python_of_the_page_runs(mini_root, monkeypatch, capsys):
    monkeypatch.setenv("M2KR_DATA", str(mini_root))
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.S)
    exec(compile(code, "docs/audit.md", "exec"), {})
    assert "'error': 0" in capsys.readouterr().out


def test_exit_codes(faulty, cli):
    said = json.loads(cli("audit", faulty, "--json", code=1).stdout)
    assert said["counts"]["error"] == 1
    assert said["counts"]["warning"] >= 1
    severities = [finding["severity"] for finding in said["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    cli("audit", faulty, "--fail-on", "never")
    lone = json.loads(cli("audit", faulty, "--split", "train", "--json").stdout)
    assert lone["counts"]["error"] == 0
    cli("audit", faulty, "--split", "train", "--fail-on", "warning", code=1)


def test_the_terminal_has_80_columns_and_obeys_nothing(faulty, cli):
    said = cli("audit", faulty, code=1).stdout
    assert max(map(len, said.splitlines())) <= 80
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_the_page_escapes_what_it_shows_and_needs_nothing_else(faulty, cli, tmp_path):
    page = tmp_path / "audit.html"
    cli("audit", faulty, "--html", page, code=1)
    html = page.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in html
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert "positives-outside-corpus" in html
    assert not re.search(r":\s*</li>", html)


def test_a_page_that_cannot_be_written_is_refused_by_its_name(faulty, cli, tmp_path):
    for page, code in ((tmp_path / "none" / "a.html", 3), (tmp_path, 2)):
        said = cli("audit", faulty, "--html", page, code=code).stderr
        assert str(page) in said
        assert ".tmp" not in said


@pytest.mark.slow
def test_the_page_in_a_browser(faulty, cli, tmp_path):
    page = tmp_path / "audit.html"
    cli("audit", faulty, "--html", page, code=1)
    with chromium() as browser:
        for width, theme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            browser.open(page, width=width, theme=theme)
            assert not browser.scrolls_sideways()
            assert browser.low_contrast() == []
            heights = "[...document.querySelectorAll('th,td')].map(cell => cell.offsetHeight)"
            assert browser.run(f"return Math.max(...{heights})") < 40  # one line a cell
        assert browser.console() == []
        assert browser.external_requests() == []
