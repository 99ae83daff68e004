"""Two systems compared query by query: the data files, the page's statistics, and the page in Chromium."""

import base64
import csv
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.browser import Browser, chromium
from support.made_boards import made_board, made_entry

from m2kr.evaluation.compare import compare_results
from m2kr.evaluation.comparison_tables import chance_text, number_text
from m2kr.evaluation.paired_tests import paired_tests
from m2kr_leaderboard.boards import Board
from m2kr_leaderboard.site.build import build_site
from m2kr_leaderboard.site.query_scores import packed_scores

TEMPLATES = Path(__file__).parents[2] / "leaderboard" / "site" / "templates"
HOSTILE = "</script><img src=x onerror=document.title='harmed'>\u2028"
QUERIES = (*(f"okvqa/{n}" for n in range(300)), f'=1+1,"{HOSTILE}')
METRICS = ("hit_rate@5", "hit_rate@1", "hit_rate@10")

Scores = dict[str, NDArray[np.float64]]


def some_scores(seed: int) -> Scores:
    """Hits, ranks of few values, and numbers of which no two are equal; some are undefined."""
    rng = np.random.default_rng(seed)
    n = len(QUERIES)
    ranks = 1 / rng.integers(1, 8, n)
    ranks[::50] = np.nan
    hits = (rng.random(n) < 0.4 + seed / 20).astype(float)
    return dict(zip(METRICS, (hits, ranks, rng.random(n)), strict=True))


SCORES = {name: some_scores(seed) for seed, name in enumerate(("one", "two", "three"))}
SCORES["four"] = SCORES["three"]


def some_board() -> Board:
    backwards = {name: scores[::-1] for name, scores in SCORES["two"].items()}
    return made_board(
        [
            made_entry("one", scores=SCORES["one"], query_ids=QUERIES),
            made_entry("two", scores=backwards, query_ids=QUERIES[::-1], title=HOSTILE),
            made_entry("three", scores=SCORES["three"], query_ids=QUERIES, version=HOSTILE),
            made_entry("three", scores=SCORES["four"], query_ids=QUERIES),
            made_entry("without"),
        ],
        metrics=METRICS,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lone = made_entry("one", "wit", scores=SCORES["one"], query_ids=QUERIES)
    boards = [some_board(), made_board([lone, made_entry("without", "wit")])]
    return build_site(boards, [], tmp_path_factory.mktemp("site") / "out")


def read_data(site: Path, name: str) -> Any:
    text = (site / "data" / f"{name}.js").read_text(encoding="utf-8")
    assert "<" not in text and "\u2028" not in text
    called = re.fullmatch(r'm2kr\("(.*?)",(.*)\)\n', text)
    assert called and called[1] == name
    return json.loads(called[2])


def unpack(packed: dict[str, Any], n: int) -> list[float | None]:
    values = packed["values"]
    bits = "".join(f"{byte:08b}" for byte in base64.b64decode(packed["places"]))
    wide = math.ceil(math.log2(len(values)))
    assert len(bits) == -(-n * wide // 8) * 8
    return [values[int(bits[i * wide : (i + 1) * wide] or "0", 2)] for i in range(n)]


@pytest.mark.parametrize("distinct", [1, 2, 3, 4, 5, 256, 257, 5000])
@pytest.mark.parametrize("undefined", [False, True])
def test_scores_are_packed_without_loss(distinct: int, undefined: bool) -> None:
    scores = np.random.default_rng(1).random(distinct)[np.arange(6001) * 7 % distinct]
    if undefined:
        scores[3::11] = np.nan
    packed = json.loads(json.dumps(packed_scores(scores)))
    back = [math.nan if value is None else value for value in unpack(packed, len(scores))]
    np.testing.assert_array_equal(back, scores)


def test_files_have_every_score_in_the_order_of_the_queries(site: Path) -> None:
    about = read_data(site, "q.okvqa.test")
    assert about["queries"] == sorted(QUERIES)
    order = [QUERIES.index(query) for query in about["queries"]]
    assert [metric["name"] for metric in about["metrics"]] == [*METRICS]
    keys = [system["key"] for system in about["systems"]]
    assert sorted(keys) == ["one", "three", "three@2", "two"]
    for key in keys:
        files = read_data(site, f"q.okvqa.test.{key}")
        for metric, packed in files.items():
            back = np.array(unpack(packed, len(order)), float)
            np.testing.assert_array_equal(back, SCORES[key.split("@")[0]][metric][order])
    board = (site / "boards" / "okvqa.test.html").read_text(encoding="utf-8")
    assert sorted(re.findall('data-system="(.*?)"', board)) == sorted(keys)
    assert not list(site.glob("data/q.wit*"))
    assert "data-pairing" not in (site / "boards" / "wit.test.html").read_text(encoding="utf-8")


def test_a_site_without_two_systems_says_so(tmp_path: Path) -> None:
    site = build_site([made_board([made_entry("one")])], [], tmp_path / "site")
    text = (site / "compare.html").read_text(encoding="utf-8")
    assert "aren’t two systems" in text and "<script" not in text


def in_node(pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> list[dict[str, Any]]:
    """What the page's own script says of pairs of systems."""
    node = shutil.which("node")
    if not node:
        pytest.skip("node is not there")
    code = (TEMPLATES / "paired_tests.js").read_text(encoding="utf-8") + (
        "const pairs = JSON.parse(require('fs').readFileSync(0));"
        "process.stdout.write(JSON.stringify(pairs.map(([a, b]) => pairedTests(a, b))));"
    )
    given = json.dumps([[a.tolist(), b.tolist()] for a, b in pairs])
    done = subprocess.run(
        [node, "-e", code], input=given, capture_output=True, text=True, check=True, timeout=60
    )
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def test_the_page_says_what_python_says() -> None:
    rng = np.random.default_rng(7)
    pairs = []
    for n in (1, 2, 3, 9, 17, 41, 100, 1007):
        hits = (rng.random((2, n)) < 0.5).astype(float)
        ranks = 1 / rng.integers(1, 11, n)
        near = np.where(rng.random(n) < 0.8, ranks, 1 / rng.integers(1, 11, n))
        pairs += [(hits[0], hits[1]), (ranks, near), (rng.random(n), rng.random(n))]
        pairs += [(ranks, ranks), (ranks * 0.1 + 0.3, ranks * 0.1)]
    exact = set()
    for (a, b), said in zip(pairs, in_node(pairs), strict=True):
        ours = paired_tests([np.stack([a, b], 1)])
        for name, value in (
            ("difference", ours.differences),
            ("low", ours.low),
            ("high", ours.high),
            ("p", ours.p),
            ("pT", ours.p_t),
        ):
            expected = (
                None if math.isnan(value[0]) else pytest.approx(value[0], rel=1e-9, abs=1e-12)
            )
            assert said[name] == expected, (len(a), name)
        assert said["exact"] == ours.exact[0]
        exact.add(said["exact"])
        assert said["wins"] == np.sum(a - b > 1e-12) and said["losses"] == np.sum(b - a > 1e-12)
    assert exact == {True, False}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


def opened(browser: Browser, site: Path, state: str, **window: Any) -> None:
    browser.console(), browser.requests()
    browser.open(f"{(site / 'compare.html').as_uri()}{state}", **window)
    browser.wait("return !document.querySelector('[data-compared]').hidden")


def text_of(browser: Browser, selector: str) -> str:
    return str(browser.run("return document.querySelector(arguments[0]).textContent", selector))


def choose(browser: Browser, selector: str, value: str) -> None:
    browser.run(
        "const list = document.querySelector(arguments[0]); list.value = arguments[1];"
        "list.dispatchEvent(new Event('change', {bubbles: true}))",
        *(selector, value),
    )


def chosen(browser: Browser) -> list[str]:
    return list(
        browser.run("return [...document.querySelectorAll('[data-pair] select')].map(s => s.value)")
    )


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_the_page_shows_both_tests(browser: Browser, site: Path, metric: str) -> None:
    opened(browser, site, f"#board=okvqa.test&a=two&b=one&metric={metric}")
    assert chosen(browser) == ["okvqa.test", "two", "one", metric]
    results = [
        replace(row.entry.scored.result, run_sha256=row.entry.card.name)
        for row in some_board().rows
        if row.entry.card.name in ("one", "two")
    ]
    ours = compare_results(results, metrics=[metric]).metrics[metric]
    pair, words = ours.pairs[0], text_of(browser, "[data-tests]")
    for p in (pair.p, pair.p_t):
        assert (
            p is not None and (chance_text(p) if p < 0.0001 else f"p = {chance_text(p)}") in words
        )
    assert ("exact" in words) == pair.exact and f"Queries{ours.queries}" in words
    turn = 1 if pair.a.startswith("two") else -1
    low, high = sorted((turn * pair.low, turn * pair.high))
    shown = [number_text(value, sign=True) for value in (low, high)]
    assert f"[{' '.join(shown)}]" in text_of(browser, "[data-scores]").replace("−", "-")
    won = "return [...document.querySelectorAll('[data-scores] td:last-child b')].map(b => b.textContent)"
    assert browser.run(won) == [str(n) for n in (*(pair.wins, pair.losses)[::turn], pair.ties)]
    assert browser.console() == [] and browser.external_requests() == []


@pytest.mark.slow
def test_a_view_is_in_the_address(browser: Browser, site: Path) -> None:
    opened(browser, site, "#board=../x&a=%3Cimg%3E&b=one&metric=constructor&show=toString&page=-1")
    assert chosen(browser)[0] == "okvqa.test" and chosen(browser)[2:] == ["one", METRICS[0]]
    browser.wait(
        "return location.hash.startsWith('#board=okvqa.test&') && !/img/.test(location.hash)"
    )
    opened(browser, site, "")
    assert len({*chosen(browser)}) == 4 and browser.console() == []
    opened(browser, site, "#a=one")
    choose(browser, "[data-pair] [name=metric]", METRICS[2])
    browser.wait(f"return location.hash.includes('metric={METRICS[2].replace('@', '%40')}')")
    browser.wait("return document.querySelector('[data-range]').textContent.endsWith('of 301')")
    before = chosen(browser)
    for key in ("Enter", "Enter"):
        browser.run("document.querySelector('[data-on]').focus()")
        browser.press(key)
    browser.wait("return location.hash.includes('page=3')")
    assert text_of(browser, "[data-range]") == "101–150 of 301"
    address, rows = browser.run("return location.href"), text_of(browser, "[data-queries]")
    opened(browser, site, address.partition("compare.html")[2])
    assert chosen(browser) == before and text_of(browser, "[data-queries]") == rows
    browser.run("document.querySelector('[data-swap]').click()")
    browser.wait("return !location.hash.includes('page=')")
    assert chosen(browser) == [before[0], before[2], before[1], before[3]]
    assert browser.console() == []


@pytest.mark.slow
def test_queries_that_differ_can_be_listed_and_taken_along(
    browser: Browser, site: Path, tmp_path: Path
) -> None:
    browser.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    metric = METRICS[2]
    opened(browser, site, f"#board=okvqa.test&a=one&b=two&metric={metric}")
    choose(browser, "[data-show]", "b")
    difference = SCORES["one"][metric] - SCORES["two"][metric]
    worse = sorted(np.flatnonzero(difference < 0), key=lambda i: difference[i])
    ids = "return [...document.querySelectorAll('[data-queries] code')].map(one => one.textContent)"
    browser.wait("return location.hash.includes('show=b')")
    assert browser.run(ids) == [QUERIES[i] for i in worse[:50]]
    choose(browser, "[data-show]", "differing")
    browser.wait("return !location.hash.includes('show')")
    browser.run("document.querySelector('[data-download]').click()")
    path = tmp_path / f"okvqa.test.one.two.{metric}.csv"
    for _ in range(200):
        if path.exists():
            break
        browser.run("return new Promise(done => setTimeout(done, 20))")
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["query", "one 1.0", "two 1.0", "difference"] and len(rows) == len(QUERIES)
    by_query = {query: place for place, query in enumerate(QUERIES)}
    sizes = []
    for query, *cells in rows:
        place = len(QUERIES) - 1 if query.startswith("'=1+1") else by_query[query]
        assert [*map(float, cells)] == [
            *(SCORES["one"][metric][place], SCORES["two"][metric][place], difference[place])
        ]
        sizes.append(abs(difference[place]))
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_obeys_no_text(browser: Browser, site: Path, width: int, theme: Any) -> None:
    for b in ("two", "three", "three@2"):
        opened(browser, site, f"#a=one&b={b}&metric={METRICS[2]}", width=width, theme=theme)
        assert not browser.scrolls_sideways() and browser.low_contrast() == []
        assert browser.run("return document.title") == "Compare two systems · m2kr leaderboard"
        assert browser.run("return document.querySelectorAll('img').length") == 0
        assert browser.console() == [] and browser.external_requests() == []


@pytest.mark.slow
def test_a_board_leads_to_its_pairs(browser: Browser, site: Path) -> None:
    browser.console()
    browser.open(site / "boards" / "okvqa.test.html")
    boxes = "[...document.querySelectorAll('.board [type=checkbox]')]"
    names = browser.run(f"return {boxes}.map(box => box.closest('tr').dataset.system)")
    for place in (0, 3, 1):  # the third takes the place of the first
        browser.run(f"{boxes}[{place}].focus()")
        browser.press("Space")
    assert browser.run(f"return {boxes}.map(box => box.checked)") == [False, True, False, True]
    browser.run("document.querySelector('[data-pairing] a').click()")
    browser.wait("return document.querySelector('[data-compared]')?.hidden === false")
    assert chosen(browser)[:3] == ["okvqa.test", names[3], names[1]]
    assert browser.console() == []


@pytest.mark.slow
def test_a_file_that_is_not_there_is_named(browser: Browser, tmp_path: Path) -> None:
    site = build_site([some_board()], [], tmp_path / "site")
    (site / "data" / "q.okvqa.test.two.js").unlink()
    browser.open(f"{(site / 'compare.html').as_uri()}#a=one&b=two")
    browser.wait("return document.querySelector('[data-state]').textContent")
    assert "data/q.okvqa.test.two.js" in text_of(browser, "[data-state]")
    assert browser.run("return document.querySelector('[data-compared]').hidden")
    choose(browser, "[name=b]", "three")
    browser.wait("return !document.querySelector('[data-compared]').hidden")
    assert text_of(browser, "[data-state]") == ""
    browser.console()
