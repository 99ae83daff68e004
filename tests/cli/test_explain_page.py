"""The page of ``m2kr explain`` in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import Browser, chromium
from support.commands import call

from m2kr.data.load import load
from m2kr.retrieval.run import Run

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).parents[1] / "golden"
QUERY = "okvqa/giraffe/diet"
OVERFLOWING = """
return [...document.querySelectorAll("*")].filter(e => e.scrollWidth > e.clientWidth + 1
  && getComputedStyle(e).overflowX !== "visible").map(e => e.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a checkpoint whose rows are known, and of a retriever that doesn't name its rows."""
    folder = tmp_path_factory.mktemp("pages")
    own = (
        "import numpy as np\nfrom m2kr import EncoderRetriever\n"
        "class Letters(EncoderRetriever):\n"
        "    modalities = {'query': ['text', 'image'], 'passage': ['text']}\n"
        "    def encode_query(self, batch):\n"
        "        return [np.eye(128)[[min(ord(c), 127) for c in t[:300] or ' ']] for t in batch.texts]\n"
        "    encode_document = encode_query\n"
    )
    (folder / "own.py").write_text(own)
    split = load("mini", data=mini_root)
    wrong = [p for p in split.passages["passage_id"][:40] if "giraffe" not in p]
    ranking = {QUERY: {p: -float(n) for n, p in enumerate(wrong)}}
    run = Run.from_dict(ranking).save(folder / "run.parquet")
    made = {}
    for name, model in {
        "known": ("--checkpoint", GOLDEN / "tiny_preflmr"),
        "numbered": ("-r", f"{folder / 'own.py'}:Letters"),
    }.items():
        made[name] = folder / f"{name}.html"
        words = ("--query-id", QUERY, "--run", run, "--data", mini_root, "--out", made[name])
        call("explain", "mini", *model, *words)
    return made


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["known", "numbered"])
def test_it_fits_and_can_be_read(browser, pages, name, width, theme) -> None:
    browser.open(pages[name], width=width, theme=theme)
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert not browser.scrolls_sideways()
    assert browser.run(OVERFLOWING) == []
    assert browser.low_contrast() == []
    assert browser.console() == []
    assert browser.external_requests() == []
    tops = browser.run(
        "return [...document.querySelectorAll('.mx-beside>div')].map(e => e.getBoundingClientRect().top)"
    )
    assert (len(set(tops)) == 1) == (width == 1280)
    captions = "return [...document.querySelectorAll('caption')].every(e => e.clientHeight < 60)"
    assert browser.run(captions)


def test_it_works_by_keys_alone(browser, pages) -> None:
    browser.open(pages["known"])
    focused = "return document.activeElement.outerHTML.slice(0, 200)"
    for _ in range(30):
        browser.press("Tab")
        if browser.run(focused).startswith("<tr"):
            break
    first = browser.run(focused)
    assert first.startswith("<tr")
    linked = browser.run("return document.querySelectorAll('.mx-on').length")
    assert linked > 1  # the row itself and the words that matched it
    browser.press("Down")
    second = browser.run(focused)
    assert second.startswith("<tr")
    assert second != first
    assert browser.run("return document.querySelectorAll('tr.mx-on').length") == 1
    browser.press("Up")
    assert browser.run(focused).replace(' class="mx-on"', "")[:12] == first[:12]
    browser.press("Tab", "Enter")
    assert browser.run("return document.querySelectorAll('details[open]').length") == 1
