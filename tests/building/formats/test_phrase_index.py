"""Phrase search: what is found, what survives a kill, what is shared between processes."""

import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2kr.building.formats import phrase_index
from m2kr.building.formats.phrase_index import PhraseHit, PhraseIndex
from m2kr.errors import InputError, M2KRError, MissingError, UsageError

BOTH = ("title", "text")
PEARS = [("Big Pear", "the pear is big"), ("Apple", "An apple, BIG pear"), ("Ünïcode É", None)]
WORDS = st.sampled_from(["a", "b", "ab", "7", "é", "É", "A"])
LINE = st.lists(WORDS, max_size=6).map(lambda words: ", ".join(words).replace(", a", "-a"))

# Generated passages, here and in processes: python -c ROWS+MAKE PATH ROWS COMMIT_ROWS SECONDS_PER_BATCH
ROWS = textwrap.dedent(
    """
    import time
    import pyarrow as pa

    def numbers(rows, seconds=0):
        for start in range(0, rows, 100):
            print("batch", start, flush=True)
            at = range(start, start + 100)
            ids, titles = [f"p{i}" for i in at], [f"no {i % 7}" for i in at]
            texts = [f"row {i} and {i * i % 13} end" for i in at]
            yield pa.record_batch({"id": ids, "title": titles, "text": texts})
            time.sleep(seconds)
    """
)
MAKE = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from m2kr.building.formats import phrase_index as phrases

    phrases.COMMIT_ROWS = int(sys.argv[3])
    rows = numbers(int(sys.argv[2]), float(sys.argv[4]))
    phrases.PhraseIndex.build(Path(sys.argv[1]), rows, key="k")
    """
)


def batch(rows: list[tuple[str, str | None]]) -> pa.RecordBatch:
    ids = [f"id{i}" for i in range(len(rows))]
    columns = {"id": ids, "title": [t for t, _ in rows], "text": [t for _, t in rows]}
    types = pa.schema([(name, pa.string()) for name in columns])
    return pa.RecordBatch.from_pydict(columns, schema=types)


def untouched() -> Iterator[pa.RecordBatch]:
    raise AssertionError("the rows were read")
    yield


def make(path: Path, rows: int, commit: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ROWS + MAKE, str(path), str(rows), str(commit), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def numbers(rows: int) -> Iterator[pa.RecordBatch]:
    names: dict = {}
    exec(ROWS, names)
    return names["numbers"](rows)


def everything(index: PhraseIndex) -> list:
    """What searches and look-ups say, to compare two indexes."""
    asked = ["row", "no 3", "and 4 end", "5", "row 17 and"]
    found = [
        index.search(p, k=10_000, fields=f) for p in asked for f in (BOTH, ["title"], ["text"])
    ]
    return [len(index), *found, *index.passages(range(len(index)))]


@pytest.fixture
def pears(tmp_path):
    return PhraseIndex.build(tmp_path / "a?b #.db", [batch(PEARS)], key="k")


def found(index: PhraseIndex, phrase: str, fields=BOTH) -> set[int]:
    return {hit.row for hit in index.search(phrase, k=100, fields=fields)}


def test_a_phrase_is_tokens_in_a_row_in_one_field(pears):
    assert found(pears, "big pear") == {0, 1}
    assert found(pears, "BIG-pear!", ["title"]) == {0}
    assert found(pears, "big pear", ["text"]) == {1}
    assert found(pears, "pear the") == set()
    assert found(pears, "apple an") == set()
    assert found(pears, "pears") == set()
    assert found(pears, "ünïcode é") == {2}
    assert found(pears, "unicode") == set()
    assert found(pears, "pear\0is") == {0}


def test_k_limits_best_first_and_ties_keep_the_order_of_the_input(tmp_path):
    rows = [("x", "word " * n + "pad " * (9 - n)) for n in (1, 3, 1, 2, 3)] + [("y", "z")] * 20
    index = PhraseIndex.build(tmp_path / "i", [batch(rows)], key="k")
    hits = index.search("word", k=9)
    assert [hit.row for hit in hits] == [1, 4, 3, 0, 2]
    assert hits[0].score == hits[1].score > hits[2].score > hits[3].score > 0
    assert index.search("word", k=4) == hits[:4]


def test_a_title_search_prefers_the_shorter_title_whatever_the_text(tmp_path):
    rows = [("Paris Saint Germain", "short"), ("Paris", "a much longer text " * 20)]
    index = PhraseIndex.build(tmp_path / "i", [batch(rows + [("Rome", "x")] * 9)], key="k")
    assert [hit.row for hit in index.search("paris", k=9, fields=["title"])] == [1, 0]


def test_passages_come_as_asked_for(pears):
    assert pears.passages([2, 0]) == [(2, "id2", "Ünïcode É", ""), (0, "id0", *PEARS[0])]
    assert len(pears) == 3
    with pytest.raises(InputError, match="no passage 3"):
        pears.passages([3])


@pytest.mark.parametrize("k, fields", [(0, BOTH), (1, []), (1, ["id"])])
def test_wrong_questions(pears, k, fields):
    with pytest.raises(UsageError):
        pears.search("pear", k=k, fields=fields)


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def holds(text: str, phrase: str) -> bool:
    """The naive matcher."""
    has, wanted = tokens(text), tokens(phrase)
    starts = range(len(has) - len(wanted) + 1)
    return bool(wanted) and any(has[i : i + len(wanted)] == wanted for i in starts)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(LINE, LINE), max_size=12), st.lists(LINE, min_size=1, max_size=8))
def test_finds_what_a_naive_matcher_finds(tmp_path_factory, rows, asked):
    path = tmp_path_factory.mktemp("phrases") / "i"
    index = PhraseIndex.build(path, [batch(rows[:5]), batch(rows[5:])], key="k")
    for phrase in asked:
        title = {i for i, row in enumerate(rows) if holds(row[0], phrase)}
        text = {i for i, row in enumerate(rows) if holds(row[1], phrase)}
        assert found(index, phrase, ["title"]) == title
        assert found(index, phrase, ["text"]) == text
        assert found(index, phrase) == title | text


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return PhraseIndex.build(tmp_path_factory.mktemp("i") / "i", [batch(PEARS)], key="k")


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters() | st.sampled_from('"*^():{}\0-+') | st.sampled_from("\ud800é😀")))
def test_any_string_is_safe(shared, phrase):
    for fields in (BOTH, ["title"], ["text"]):
        assert len(shared.search(phrase, k=5, fields=fields)) <= 3


@pytest.mark.parametrize(
    "phrase",
    ["", " ", '"', '""', "!?", "*", "^", "😀", "\0", "\ud800", "pear OR apple", "NEAR(big pear)"],
)
def test_operators_are_no_operators(pears, phrase):
    assert pears.search(phrase, k=5) == []
    assert next(pears.search_many([phrase], k=5)) == []


def test_an_index_of_the_key_is_opened_and_of_another_one_rebuilt(pears):
    again = PhraseIndex.build(pears.path, untouched(), key="k")
    assert everything(again) == everything(pears)
    assert list(again.search_many(["apple"], k=5)) == [again.search("apple", k=5)]
    other = PhraseIndex.build(pears.path, [batch([("Apple", "x")])], key="other")
    assert len(other) == 1
    assert [len(hits) for hits in other.search_many(["apple"], k=5)] == [1]
    with pytest.raises(InputError, match=r"m2kr-phrases-1 other"):
        PhraseIndex(pears.path, "k")
    assert len(pears) == 3  # who has the old file open may go on
    assert found(pears, "apple") == {1}


def test_no_file(tmp_path):
    with pytest.raises(MissingError):
        PhraseIndex(tmp_path / "none", "k")


@pytest.mark.parametrize("damage", ["foreign", "empty", "cut", "database"])
def test_a_damaged_file_is_refused_and_rebuilt(pears, damage):
    whole = pears.path.read_bytes()
    pears.path.unlink()
    if damage == "database":
        with sqlite3.connect(pears.path) as db:
            db.execute("CREATE TABLE meta (x)")
    else:
        rest = {"foreign": b"hello" * 999, "empty": b"", "cut": whole[: len(whole) // 2]}
        pears.path.write_bytes(rest[damage])
    with pytest.raises(InputError) as raised:
        PhraseIndex(pears.path, "k")
    assert str(pears.path) in str(raised.value)
    assert everything(PhraseIndex.build(pears.path, [batch(PEARS)], key="k")) == everything(pears)


def test_a_damaged_unfinished_file_is_started_afresh(tmp_path):
    (tmp_path / ".i.part").write_bytes(b"hello" * 999)
    assert len(PhraseIndex.build(tmp_path / "i", [batch(PEARS)], key="k")) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["i"]


def test_a_missing_column(tmp_path):
    with pytest.raises(InputError, match="'title'"):
        PhraseIndex.build(tmp_path / "i", [pa.record_batch({"id": ["1"], "text": ["x"]})], key="k")


def test_a_full_disk(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(phrase_index, "LOAD", phrase_index.LOAD + " PRAGMA max_page_count = 40;")
        with pytest.raises(M2KRError, match=r"full[^$]*free space"):
            PhraseIndex.build(tmp_path / "i", [batch([("t", "x y " * 99_999)] * 2)], key="k")
    assert len(PhraseIndex.build(tmp_path / "i", [batch(PEARS)], key="k")) == 3


def test_sqlite_without_fts5(tmp_path, monkeypatch):
    monkeypatch.setattr(phrase_index, "FTS", phrase_index.FTS.replace("fts5", "fts6"))
    with pytest.raises(MissingError, match="fts6"):
        PhraseIndex.build(tmp_path / "i", [batch(PEARS)], key="k")


def test_a_killed_build_goes_on_to_the_same_index(tmp_path):
    whole = PhraseIndex.build(tmp_path / "whole", numbers(2_000), key="k")
    child = make(tmp_path / "i", 2_000, 300, 0.02)
    assert child.stdout is not None
    for line in child.stdout:
        if line == "batch 1100\n":
            break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "i").exists()
    with sqlite3.connect(tmp_path / ".i.part") as db:
        assert db.execute("SELECT rows FROM meta").fetchone() == (900,)
    with pytest.raises(InputError, match="earlier run"):
        PhraseIndex.build(tmp_path / "i", [batch(PEARS)], key="k")
    resumed = PhraseIndex.build(tmp_path / "i", numbers(2_000), key="k")
    assert everything(resumed) == everything(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i", "whole"]


def test_a_killed_merge_needs_no_rows(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(phrase_index, "_merge", killed)
        with pytest.raises(KeyboardInterrupt):
            PhraseIndex.build(tmp_path / "i", [batch(PEARS)], key="k")
    assert len(PhraseIndex.build(tmp_path / "i", untouched(), key="k")) == 3


def test_of_two_processes_one_builds(tmp_path):
    children = [make(tmp_path / "i", 500, 200, 0.05) for _ in range(2)]
    said = [child.communicate()[0].count("batch") for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(said) == [0, 5]


def test_remembered_results_equal_fresh_ones(pears, monkeypatch):
    asked = ["pear", "big pear", "?", "pear", "\ud800", "apple"] * 10
    fresh = [pears.search(p, k=2) for p in asked]
    assert list(pears.search_many(asked, k=2)) == fresh
    assert all(isinstance(hit, PhraseHit) for hits in pears.search_many(asked, k=2) for hit in hits)
    assert list(pears.search_many(["pear"], k=1)) == [fresh[0][:1]]
    assert list(pears.search_many(["big"], k=5, fields=["title"])) == [
        pears.search("big", k=5, fields=["title"])
    ]
    again = pickle.loads(pickle.dumps(pears))
    monkeypatch.setattr(PhraseIndex, "search", None)
    assert list(again.search_many(asked, k=2)) == fresh


def test_a_consumer_that_stops_or_spoils_its_hits_spoils_nothing(pears):
    fresh = pears.search("pear", k=5)
    for hits in pears.search_many(["pear", "apple"], k=5):
        hits.clear()
        break
    assert next(pears.search_many(["pear"], k=5)) == fresh


@pytest.mark.parametrize("damage", [b"hello" * 999, None])
def test_without_a_usable_side_file_searches_go_on(pears, damage):
    side = pears.path.with_name(f"{pears.path.name}.hits")
    side.write_bytes(damage) if damage else side.mkdir()
    for _ in range(2):
        assert list(pears.search_many(["pear"], k=5)) == [pears.search("pear", k=5)]


def test_processes_share_the_side_file_and_an_instance_survives_a_fork(pears):
    asked = [f"pear {i}" for i in range(300)] + ["pear"]
    code = textwrap.dedent(
        """
        import pickle, sys
        index, asked = pickle.load(sys.stdin.buffer)
        hits = list(index.search_many(asked, k=5))
        assert hits[-1] == index.search("pear", k=5) != []
        """
    )
    children = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code], stdin=subprocess.PIPE)
        for _ in range(3)
    ]
    for child in children:
        child.communicate(pickle.dumps((pears, asked)))
    assert [child.returncode for child in children] == [0, 0, 0]
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        os._exit(0 if found(pears, "pear") == {0, 1} else 1)
    assert found(pears, "pear") == {0, 1}
