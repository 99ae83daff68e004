"""The page of answers in a headless Chromium: by keyboard, offline, on a phone, light and dark, at size."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.answered import HARM, QUESTIONS, hostile_answers, hostile_split, score_of
from support.browser import Browser, chromium
from support.tiny_rag import made_rag_result, tiny_rag_source

from m2kr.display import fit_for_html as fit
from m2kr.rag.page import write_answers_page

pytestmark = pytest.mark.slow

MANY = 5_120


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("odd")
    split = hostile_split(home)
    result = hostile_answers(home / "results", split)
    return write_answers_page([result], home / "page", data=home / "data")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("big")
    split = tiny_rag_source(home, MANY, images=False)
    result = made_rag_result(
        home / "results",
        n=MANY,
        k=(1, 3, 5),
        edition=split.edition,
        fingerprints=dict(split.fingerprints),
    )
    return write_answers_page([result], home / "page", data=home)


def opened(browser: Browser, page: Path, part: str = "", **how: Any) -> None:
    browser.console(), browser.requests()
    browser.open(f"{page.as_uri()}{part}", **how)
    if "/" in part:
        browser.wait("return document.querySelector('#rows .row, #browser .warning')")


def chosen(browser: Browser, select: str, value: str) -> int:
    """Chooses a value; how many questions are then shown."""
    browser.run(
        "const at = document.getElementById(arguments[0]); at.value = arguments[1];"
        "at.dispatchEvent(new Event('change'))",
        select,
        value,
    )
    words = browser.run("return document.querySelector('#found').textContent")
    return int(words.split()[0].replace(",", ""))


def of_question(browser: Browser, question: str) -> None:
    browser.wait(
        f"return document.querySelector('#detail .steps .id')?.textContent === '{question}'"
    )


def test_hostile_texts_are_texts_and_everything_is_there(browser: Browser, odd: Path) -> None:
    opened(browser, odd, "#tinyrag.test/")
    for number in range(QUESTIONS):
        if number:
            browser.press("j")
        of_question(browser, f"q{number}")
        asked = browser.run("return document.querySelector('#detail h2').textContent")
        assert asked == fit(f"What colour is thing {number}? {HARM}").strip()
    cards = browser.run(
        "return [...document.querySelectorAll('.card')].map(card => ["
        "card.className, card.querySelector('.said').textContent])"
    )
    assert [kind for kind, _ in cards] == ["card miss"] * 3 + ["card hit"]
    assert all(fit(HARM).strip() in said for _, said in cards)
    browser.press("4")
    browser.wait("return document.querySelector('.panel h3').textContent === 'oracle'")
    marks = browser.run(
        "return [...document.querySelectorAll('.passage mark')].map(m => m.textContent)"
    )
    assert f"colour{QUESTIONS - 1}" in marks
    assert (
        browser.run("return document.querySelector('.passage .badge.right').textContent") == "right"
    )
    harmed = "return document.querySelectorAll('#detail script, #rows script, img[onerror]').length"
    assert browser.run(harmed) == 0 and browser.run("return document.title") != "harmed"
    assert browser.console() == [] and browser.external_requests() == []


def test_filters_say_what_the_records_say(browser: Browser, odd: Path) -> None:
    opened(browser, odd, "#tinyrag.test/")
    told = [(score_of("none", 0, i), score_of("retrieved", 3, i)) for i in range(QUESTIONS)]
    known = [(a, b) for a, b in told if a is not None and b is not None]
    assert chosen(browser, "find", "helped") == sum(b > a for a, b in known) == 3
    assert chosen(browser, "find", "hurt") == sum(b < a for a, b in known) == 1
    assert chosen(browser, "find", "oracle") == 1
    assert chosen(browser, "find", "unknown") == 1
    assert (
        chosen(browser, "find", "wrong") == 1
    )  # question 5: that with an answer not judged isn't wrong
    assert chosen(browser, "find", "right") == 0
    assert chosen(browser, "find", "all") == QUESTIONS
    browser.press("/", *"thing 11")
    browser.wait("return document.querySelector('#found').textContent.startsWith('1 of')")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_can_be_read(
    browser: Browser, odd: Path, big: Path, width: int, theme: Any
) -> None:
    for page, part in ((odd, ""), (odd, "#tinyrag.test/q3"), (big, ""), (big, "#tinyrag.test/q7")):
        opened(browser, page, part, width=width, theme=theme)
        if part:
            browser.wait("return document.querySelector('#detail .cards')")
        assert not browser.scrolls_sideways(), part
        assert browser.low_contrast() == [], part
        assert not browser.run(
            "const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);"
            "while (walk.nextNode())"
            "  if (!/^(SCRIPT|STYLE|BDI)$/.test(walk.currentNode.parentElement.tagName) &&"
            "    /\\b(undefined|NaN|null|\\[object)\\b/.test(walk.currentNode.data)) return true"
        ), part
        assert browser.console() == []


def test_thousands_of_questions_open_at_once(browser: Browser, big: Path) -> None:
    started = time.perf_counter()
    opened(browser, big, "#tinyrag.test/")
    browser.wait("return document.querySelector('#detail .cards')")
    print(f"opened in {time.perf_counter() - started:.2f} s")
    assert time.perf_counter() - started <= 4
    spent = browser.run(
        "const start = performance.now(), list = document.querySelector('#list');"
        "browser.find = 'helped'; applyFilters(); list.scrollTop = list.scrollHeight; drawRows(false);"
        "return performance.now() - start"
    )
    assert spent < 300
    assert browser.run("return document.querySelectorAll('#rows .row').length") < 40
    assert browser.run("return browser.rows.length") == MANY // 4
