"""What Python and notebooks show of splits, runs and results, and splits as sequences."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.html_page import Page

import m2kr
from m2kr.api import Results
from m2kr.errors import InputError, MissingError
from m2kr.progress import SILENT
from m2kr.retrieval.run import Run

HOSTILE = "</script><script>alert(1)</script>\x1b[2J\u202e<b>&amp; \n\r\0"


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> m2kr.Split:
    folder = tmp_path_factory.mktemp("pets")
    Image.new("RGB", (6, 4)).save(folder / "cat.png")
    return m2kr.from_records(
        [{"id": f"p{i}", "text": f"note {i}", "image": "cat.png"} for i in range(4)],
        [
            {"id": f"q{i}", "question": f"{i}?", "positives": [f"p{i}"], "image": image}
            for i, image in enumerate(["cat.png", None, "dog.png"])
        ],
        name="pets",
        images=folder,
        data=folder / "data",
    )


def test_a_split_is_a_sequence_of_its_queries(split):
    rows = list(split)
    assert len(split) == len(rows) == 3
    assert [row["question_id"] for row in rows] == ["q0", "q1", "q2"]
    assert rows == [split.query(f"q{i}") for i in range(3)]
    for place in (0, 2, -1, -3, np.int64(1)):
        assert split[place] == rows[place]
    places = (None, -4, -1, 0, 1, 3, 7)
    for start, stop, step in itertools.product(places, places, (None, 2, -1)):
        assert split[start:stop:step] == rows[start:stop:step]
    for place in (3, -4):
        with pytest.raises(IndexError):
            split[place]
    with pytest.raises(TypeError):
        split["q0"]
    assert "q1" in split
    assert rows[1] in split
    assert not any(other in split for other in ("q3", 1, None, {}, rows[1] | {"question": ""}))


def test_images_by_row_id_and_place(split):
    for query in (split[0], "q0", 0, -3, split.passage("p1")):
        assert split.image(query).size == (6, 4)
    assert split.image(1) is None
    with pytest.raises(MissingError, match=r"dog\.png"):
        split.image("q2")
    with pytest.raises(InputError, match="no query 'p0'"):
        split.image("p0")
    with pytest.raises(IndexError):
        split.image(3)


def test_all_is_small_and_escaped(split, tmp_path):
    run = Run.from_dict({q: {"p0": 2.0, "p1": 1.0} for q in ("q0", "q1", "q2")}, name=HOSTILE)
    results = m2kr.evaluate(split, [run] * 5, label=HOSTILE, out=tmp_path)
    odd = Run.from_dict({HOSTILE: {HOSTILE: 1.0}, "none": {}}, name=HOSTILE)
    for thing in (split, run, odd, results, results[0], Results(), Run.from_dict({})):
        text, page = repr(thing), Page(thing._repr_html_())
        assert text.count("\n") < 5
        assert len(text) < 1500
        assert not set(text) & set("\x1b\0\r\u202e")
        assert "script" not in page.tags
        assert not set(page.text) & set("\x1b\0\u202e")
        assert len(page.text) < 4000
    assert "queries 3 (2 with an image); passages 4" in repr(split)
    assert "hit_rate@1 0.333" in repr(results[0])
    assert "and 2 more" in repr(results)
    assert "<b>" in Page(results._repr_html_()).text
    assert str(results).startswith("source")


class Stream:
    """A terminal, or none, that keeps what is written."""

    def __init__(self, tty: bool) -> None:
        self.tty, self.written = tty, ""

    def write(self, text: str) -> int:
        self.written += text
        return len(text)

    def isatty(self) -> bool:
        return self.tty

    def flush(self) -> None:
        """All is there."""


@pytest.mark.parametrize(
    ("tty", "progress", "shown"),
    [(True, None, True), (False, None, False), (True, SILENT, False)],
)
def test_bars_where_somebody_looks(split, monkeypatch, tty, progress, shown):
    stream = Stream(tty)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    m2kr.evaluate(split, "bm25", progress=progress)
    assert ("score" in stream.written or "\x1b" in stream.written) == shown


@pytest.mark.parametrize("wait", [0, 60])
def test_bars_of_a_notebook_leave_nothing_behind(split, monkeypatch, wait):
    stream, shell = Stream(False), SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("m2kr.progress_bars._WAIT", wait)
    m2kr.evaluate(split, "bm25")
    assert ("score" in stream.written) == (wait == 0)
    assert not stream.written.rpartition("\r")[0].rpartition("\r")[2].strip()
