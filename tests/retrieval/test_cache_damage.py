"""Entries of the cache that are damaged, may only be read, or are written by two."""

import json
import logging
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from support.toys import (
    PASSAGES,
    Counted,
    CountedDense,
    counted,
    toy_split,
)

from m2kr import atomic
from m2kr.data.records import Passages
from m2kr.evaluation.harness import evaluate_split
from m2kr.retrieval.cache import hold_entry
from m2kr.retrieval.run import Run
from m2kr.search.config import SearchConfig


def test_a_manifest_that_says_the_wrong_thing_does_not_spoil_the_cache(tmp_path):
    """An entry is of the rows that were encoded, whatever fingerprint they are said to have."""
    split, other = toy_split(), toy_split(passages=dict.fromkeys(PASSAGES, "?"))
    wrong = Passages(other.passages_view.dataset, None, split.passages_view.fingerprint)
    counted(replace(split, passages_view=wrong), tmp_path)
    assert counted(split, tmp_path) == {"query": 0, "document": 4}


@pytest.mark.parametrize("late", [False, True])
def test_stored_ids_are_compared_with_the_table(tmp_path, late, caplog):
    split = toy_split()
    evaluate_split(split, kept(late), k=5, cache=tmp_path)
    other = toy_split(passages=dict(reversed(PASSAGES.items())))
    evaluate_split(other, kept(late), k=5, cache=tmp_path)
    entries = {}
    for path in tmp_path.glob("*/key.json"):
        rows = json.loads(path.read_bytes())["key"]["rows"]
        entries[rows["order"]] = path.parent
    # As if a hash had met another: one entry has the other's rows.
    mine, theirs = entries[split.passages_view.order], entries[other.passages_view.order]
    for path in theirs.iterdir():
        if path.name != "key.json":
            shutil.copy(path, mine)
    one = kept(late)
    with caplog.at_level(logging.WARNING, "m2kr"):
        run = evaluate_split(split, one, k=5, cache=tmp_path).run
    assert "in another order" in caplog.text
    assert one.count == {"query": 0, "document": 4}
    assert run == evaluate_split(split, kept(late), k=5).run


def kept(late):
    return Counted() if late else CountedDense()


@pytest.mark.parametrize("late", [False, True])
def test_whatever_byte_of_the_cache_changes_no_score_does(tmp_path, late, caplog):
    split, cache = toy_split(), tmp_path
    right = evaluate_split(split, kept(late), k=5, cache=cache).run
    random = np.random.default_rng(3)
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock")
    encoded = 0
    for path in files:
        data = path.read_bytes()
        for _ in range(12 if path.name == "vectors.npy" else 3):
            changed = bytearray(data)
            changed[random.integers(len(data))] ^= int(random.integers(1, 256))
            path.write_bytes(changed)
            one = kept(late)
            assert evaluate_split(split, one, k=5, cache=cache).run == right
            encoded += sum(one.count.values()) > 0
    assert encoded > len(files) * 2
    assert "is damaged, so it is" in caplog.text
    one = kept(late)
    assert evaluate_split(split, one, k=5, cache=cache).run == right
    assert one.count == {"query": 0, "document": 0}


def test_a_damaged_entry_is_encoded_again(tmp_path, caplog):
    split = toy_split()
    counted(split, tmp_path)
    entry = next(path.parent for path in tmp_path.glob("*/store.json"))
    (entry / "lengths-00000.npy").write_bytes(b"nonsense")
    with caplog.at_level(logging.WARNING, "m2kr"):
        assert sum(counted(split, tmp_path).values()) == 4
    assert "is damaged, so it is done again" in caplog.text
    assert counted(split, tmp_path) == {"query": 0, "document": 0}
    (entry / "key.json").write_text("{}")
    assert sum(counted(split, tmp_path).values()) == 4


@pytest.mark.parametrize("late", [False, True])
def test_damaged_rows_that_may_only_be_read_are_done_without(tmp_path, monkeypatch, late):
    split, cache = toy_split(), tmp_path
    right = evaluate_split(split, kept(late), k=5, cache=cache).run
    for path in (*tmp_path.glob("*/vectors.npy"), *tmp_path.glob("*/tokens-*")):
        changed = bytearray(path.read_bytes())
        changed[-1] ^= 1
        path.write_bytes(changed)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    # Permissions don't stop the superuser, as whom tests may run.
    monkeypatch.setattr(atomic, "writable", lambda folder: not folder.is_relative_to(tmp_path))
    assert evaluate_split(split, kept(late), k=5, cache=cache).run == right
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()} == before


class Padded(Counted):
    """Its dimensions are a multiple of eight, as the published protocol's."""

    def encode_query(self, batch):
        return [np.pad(rows, ((0, 0), (0, 6))) for rows in super().encode_query(batch)]

    def encode_document(self, batch):
        return [np.pad(rows, ((0, 0), (0, 6))) for rows in super().encode_document(batch)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["compressed", "official"])
def test_whatever_byte_of_an_index_changes_no_score_does(tmp_path, mode):
    split, cache = toy_split(), tmp_path
    options = {"k": 5, "cache": cache, "searching": SearchConfig(mode=mode, centroids=8)}
    right = evaluate_split(split, Padded(), **options).run
    random = np.random.default_rng(2)
    files = [
        p for p in sorted(tmp_path.rglob("indexes/*/*")) if p.suffix != ".lock" and p.is_file()
    ]
    assert len(files) > 8
    for path in files:
        data = path.read_bytes()
        for _ in range(2 if data else 0):
            changed = bytearray(data)
            changed[random.integers(len(data))] ^= int(random.integers(1, 256))
            path.write_bytes(changed)
            one = Padded()
            assert evaluate_split(split, one, **options).run == right, path.name
            assert one.count == {"query": 0, "document": 0}


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, "m2kr"):
        assert counted(toy_split(), tmp_path / "file") == {"query": 4, "document": 4}
    assert "nothing is cached" in caplog.text


def test_two_at_one_entry_encode_it_once(tmp_path):
    """The second waits for the first, and finds its work done."""
    begun, go = threading.Event(), threading.Event()

    class Slow(Counted):
        def encode_document(self, batch):
            begun.set()
            assert go.wait(20)
            return super().encode_document(batch)

    split, cache = toy_split(), tmp_path
    one, two = Slow(), Slow()
    first = threading.Thread(
        target=evaluate_split, args=(split, one), kwargs={"k": 5, "cache": cache}
    )
    second = threading.Thread(
        target=evaluate_split, args=(split, two), kwargs={"k": 5, "cache": cache}
    )
    first.start()
    assert begun.wait(20)
    second.start()
    second.join(1.5)
    assert second.is_alive()
    go.set()
    first.join(30)
    second.join(30)
    assert one.count["document"] == 4
    assert two.count["document"] == 0


def test_a_killed_owner_does_not_keep_an_entry(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from m2kr.retrieval.cache import hold_entry\n"
        "with hold_entry(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "x"]).returncode == -9
    with hold_entry(tmp_path / "x"):
        assert (tmp_path / "x.lock").exists()


def test_a_shared_pool_is_encoded_once_whatever_the_split(tmp_path):
    split = toy_split()
    counted(split, tmp_path)
    split.fingerprints["eval"] = "fp1:of another split"
    assert counted(split, tmp_path) == {"query": 0, "document": 0}


def test_rankings_from_the_cache_are_those_without_it(tmp_path):
    split = toy_split()
    runs = [
        evaluate_split(split, Counted(), k=5, cache=cache).run
        for cache in (None, tmp_path, tmp_path)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert isinstance(runs[0], Run)
    assert np.isfinite(runs[0].scores("q1")).all()
