"""Texts that attack whoever shows them: terminals, JSON, pages, spreadsheets, BibTeX."""

import csv
import io
import itertools
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hostile_kit import Place, copy_of, scored_unseen
from support.browser import chromium
from typer.testing import CliRunner

from m2kr.cli.main import app
from m2kr_leaderboard.boards import BoardEntry, make_boards
from m2kr_leaderboard.site.build import build_site
from m2kr_leaderboard.system_card import SystemCard, TrainingData

# Each is one line of text without control characters: a card may hold it, and it must only ever be shown.
TEXTS = {
    "element": "\"><m2krx onmouseover=m2krx()>'",
    "image": "<img src=x onerror=window.m2krx=1>",
    "end-of-script": "</script><script>window.m2krx=1</script>",
    "end-of-style": "</style></title></textarea><m2krx>",
    "comment": "<!--<script>--!><m2krx>",
    "cdata": "]]><m2krx>",
    "string": "'-(window.m2krx=1)-'\"-(window.m2krx=1)-\"`${window.m2krx=1}`",
    "template": "{{7*7*191}} {% raw %} ${7*7*191} #{7*7*191}",
    "entity": "&lt;m2krx&gt; &#60;m2krx&#62; &amp;quot;",
    "escapes": "\\u003cm2krx\\u003e \\x3cm2krx\\x3e",
    "formula": '=HYPERLINK("https://evil.example","m2krx")',
    "formula-plus": "+1+cmd|'/C calc'!A0",
    "formula-minus": "-1+1|m2krx",
    "formula-at": "@SUM(1+1)*m2krx",
    "csv": 'a","b\',;|m2krx',
    "bibtex": "}}, title = {m2krx}} @book{m2krx, \\input{/etc/passwd} %",
    "latex": "$\\write18{m2krx}$ ~^_&#",
    "markdown": "[m2krx](javascript:m2krx()) | ![x](https://evil.example/x.png)",
    "rich": "[bold red]m2krx[/] [/nothing] [link=https://evil.example]x[/link] :smile:",
    "format": "%s %n {0} {x!r} {} %(m2krx)s",
    "key": "__proto__",
    "constructor": "constructor",
}


def run(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        names = ("href", "src", "action", "formaction", "srcset", "poster", "data", "xlink:href")
        self.addresses += [value or "" for name, value in attrs if name in names]


def attack(card: SystemCard, name: str, text: str) -> SystemCard:
    """A card that says a text wherever it may say something."""
    cost = {"seconds_per_query": 1.0, "device": text}
    return replace(
        card,
        name=name,
        title=text,
        version=text,
        authors=(text, text[::-1]),
        contact=text,
        licence=text,
        hardware=text,
        m2kr_version=text,
        note=text,
        training_data=(TrainingData(text, text),),
        links=dict.fromkeys(("paper", "code", "model", "page"), f"https://example.org/{text}"),
        runs=tuple(replace(run, cost=cost) for run in card.runs),
    )


@pytest.fixture(scope="module")
def site(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of systems whose cards attack, as if no door had looked at them."""
    scored = scored_unseen(place.valid, place.data)
    entries = []
    for name, text in TEXTS.items():
        card = attack(scored.card, name, text)
        for run, submitted in zip(scored.runs, card.runs, strict=True):
            odd = replace(run, submitted=submitted, notes=(text,), verified=True)
            entries.append(BoardEntry(card, odd, "recomputed", "0" * 64, "0.1.0", "", "2026-12-01"))
    boards = make_boards(entries)
    return build_site(boards, [], tmp_path_factory.mktemp("attacked") / "site")


@pytest.mark.slow
def test_pages_show_texts_and_obey_none(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(TEXTS)
    for path in pages:
        text = path.read_text(encoding="utf-8")
        page = Page(text)
        assert "m2krx" not in page.tags, path
        assert not page.handlers, path
        for address in page.addresses:
            parts = urlsplit(address)
            assert parts.scheme in ("", "https", "mailto", "data"), (path, address)
            assert parts.scheme != "data" or address.startswith("data:image/"), (path, address[:80])
        assert str(7 * 7 * 191) not in text, path
        assert "Content-Security-Policy" in text, path
    title = TEXTS["image"].replace("<", "&lt;").replace(">", "&gt;")
    assert title in (site / "systems" / "image.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_data_files_hold_texts_and_nothing_else(site: Path) -> None:
    data = site / "data"
    for path in sorted(site.rglob("*.js")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"</script|<!--|\u2028|\u2029", text, re.I), path
    for path in sorted(data.glob("*.csv")):
        rows = [*csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))]
        assert len(set(map(len, rows))) == 1, path
        for row in rows:
            for cell in row:
                formula = cell[:1] in ("=", "+", "-", "@", "\t", "\r")
                assert not formula or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", cell), (path, cell)
    for path in sorted(data.glob("*.json")):
        json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(data.glob("*.bib")):
        depth, text = 0, re.sub(r"\\.", "", path.read_text(encoding="utf-8"))
        for character in text:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0, path
        assert depth == 0
        assert "@book{m2krx" not in text
        assert not re.search(r"\\(input|write18)\b", path.read_text(encoding="utf-8")), path


def test_terminal_and_json_say_it_as_it_is(place: Place, alone: Path, tmp_path: Path) -> None:
    folder = copy_of(place.valid, tmp_path / "given")
    folder.set("title", TEXTS["rich"])
    folder.set("hardware", TEXTS["format"])
    for command in (("submit", "check"), ("leaderboard", "validate")):
        done = run(*command, folder.path, "--data", place.data)
        assert done.exit_code == 0, done.output
        assert "[/nothing]" in done.output or TEXTS["rich"][:20] not in done.output
    done = run("submit", "check", folder.path, "--data", place.data, "--json")
    assert json.loads(done.stdout)


def test_no_line_of_a_refusal_is_a_submitters(place: Place, alone: Path, tmp_path: Path) -> None:
    """A line of one's own could pass for another message, or for a command to who reads the log."""
    forged = "x\n::error::m2krx\r\n[card] fine"
    for number, field in enumerate(
        ("title", "note", "kind", "runs/0/source", "runs/0/file", "name")
    ):
        folder = copy_of(place.valid, tmp_path / str(number))
        folder.set(field, forged)
        (folder.path / forged.replace("/", "")).write_text("x")
        done = run("submit", "check", folder.path, "--data", place.data)
        assert done.exit_code == 1
        assert not [
            line for line in done.output.splitlines() if line.startswith(("::", "[card] fine"))
        ]
        shutil.rmtree(tmp_path / str(number))


@pytest.mark.slow
def test_a_browser_runs_nothing(site: Path) -> None:
    with chromium() as browser:
        pages = [site / "index.html", site / "claims.html", site / "submit.html"]
        pages += sorted((site / "boards").glob("*.html"))
        pages += [site / "systems" / f"{name}.html" for name in TEXTS]
        addresses = [page.absolute().as_uri() for page in pages]
        compare = (site / "compare.html").absolute().as_uri()
        names = list(TEXTS)
        addresses += [f"{compare}?a={a}&b={b}" for a, b in itertools.pairwise(names)]
        addresses += [
            f"{compare}?a={attack}&b={attack}"
            for attack in (
                "%3Cimg%20src=x%20onerror=window.m2krx=1%3E",
                "__proto__",
                "%ff",
                "a%00b",
                "..",
            )
        ]
        for address in addresses:
            browser.open(address)
            assert browser.run("return document.readyState") == "complete"
            assert browser.run("return window.m2krx") is None, address
            assert not browser.run(
                "return document.querySelectorAll('m2krx, img[onerror]').length"
            ), address
        assert not browser.console()
        assert not browser.external_requests()
