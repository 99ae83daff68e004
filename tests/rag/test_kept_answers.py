"""The file of kept answers: whole, shared, and claims of the living alone."""

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from m2kr.errors import InputError
from m2kr.rag.kept_answers import STORE_NAME, AnswerStore, answer_key
from m2kr.rag.reader import Answer, RetrievedPassage

KEYS = [answer_key({"name": "r"}, f"question {n}", None, ()) for n in range(1200)]


def test_answers_read_back_as_they_were_and_the_first_one_stays(tmp_path: Path) -> None:
    said = Answer("gr\u00fcn \x00", -1.5, "p", None, 3, None, {"each": [1, None, "x"]})
    with AnswerStore(tmp_path / STORE_NAME) as store:
        assert store.claim(KEYS) == set(KEYS)
        for key in KEYS:
            store.put(key, said, 0.25)
        store.put(KEYS[0], Answer("other"), 1.0)
    with AnswerStore(tmp_path / STORE_NAME) as store:
        kept = store.get(KEYS)
        assert len(kept) == len(KEYS)
        assert (kept[KEYS[0]].answer, kept[KEYS[0]].seconds) == (said, 0.25)
        assert store.claim(KEYS) == set()
    assert [path.name for path in tmp_path.iterdir()] == [STORE_NAME]


def test_keys_tell_all_that_a_reader_is_given() -> None:
    passages = [RetrievedPassage("p", "text", 1.0), RetrievedPassage("q", "more", 0.5)]
    others = [
        ({"name": "other"}, "?", None, passages),
        ({"name": "r"}, "??", None, passages),
        ({"name": "r"}, "?", "digest", passages),
        ({"name": "r"}, "?", None, passages[::-1]),
        ({"name": "r"}, "?", None, passages[:1]),
        ({"name": "r"}, "?", None, [RetrievedPassage("p", "text", 2.0), passages[1]]),
        ({"name": "r"}, "?", None, [RetrievedPassage("x", "text", 1.0), passages[1]]),
    ]
    keys = {answer_key(*one) for one in others}
    assert len(keys) == len(others)
    assert answer_key({"name": "r"}, "?", None, passages) not in keys
    assert answer_key({"a": 1, "b": 2}, "", None, ()) == answer_key({"b": 2, "a": 1}, "", None, ())


def test_a_claim_lasts_as_long_as_who_made_it(tmp_path: Path) -> None:
    path = tmp_path / STORE_NAME
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        theirs = AnswerStore(path)
        theirs.claim(KEYS[:3])
        os.write(tell, b"!")
        signal.pause()
    os.read(ready, 1)
    with AnswerStore(path) as store:
        assert store.claim(KEYS[:5]) == set(KEYS[3:5])
        store.free_claims_of_the_dead()
        assert store.claim(KEYS[:3]) == set()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        store.free_claims_of_the_dead()
        assert store.claim(KEYS[:3]) == set(KEYS[:3])
        store.give_up(KEYS[:3])
        with AnswerStore(path) as other:
            assert other.claim(KEYS[:4]) == set(KEYS[:3])


def test_another_file_or_form_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / STORE_NAME
    path.write_text("not a database, whatever its name says " * 50, encoding="utf-8")
    with pytest.raises(InputError, match=STORE_NAME):
        AnswerStore(path)
    assert path.read_text(encoding="utf-8").startswith("not a database")
    path.unlink()
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="form 99"):
        AnswerStore(path)
