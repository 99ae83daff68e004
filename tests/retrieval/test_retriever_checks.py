"""What is checked of a retriever and of the run that it gives."""

from pathlib import Path

import numpy as np
import pytest
from support.own_files import letters_file, written
from support.progress import Recorder
from support.toys import PASSAGES, Dense, toy_split

import m2kr
from m2kr.errors import InputError, UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.retrieval.protocol import RetrieverBase, RunStats
from m2kr.retrievers import create


def test_what_is_no_retriever_is_said_before_anything_is_done() -> None:
    class Nameless(Dense):
        name = None

    class Half(Dense):
        name = "half \udcff"

    for wrong, message in (
        (Half(), r"Half.name: its name is 'half \\udcff'"),
        (Dense, r"Dense is a class.*\n.*Dense\(\)"),
        (object(), "object is not a retriever: it has no name, settings"),
        (Nameless(), "its name is None"),
        (3, "int is not a retriever"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_split(toy_split(), wrong)


SEARCHED = {
    "None": (None, "returned None"),
    "a dict": ({"q1": {"p/dog": 1.0}}, r"returned dict\n.*Run.from_dict"),
    "a list": ([["p/dog"]] * 4, "returned list"),
    "an array": (np.zeros((4, 3)), "returned ndarray"),
}


RUNS = {
    "not finite": ("{q: {'p/dog': float('nan')} for q in ids}", "scores nan"),
    "unlike lengths": ("[(q, ['p/dog'], [1, 2]) for q in ids]", "differ in number"),
    "another pool": ("{q: {'p/cat': 1.0} for q in ids}", "p/cat"),
    "a query less": ("{q: {'p/dog': 1.0} for q in ids[1:]}", "run 'mine'.*lacks 1 quer"),
}


@pytest.mark.parametrize("what", sorted(RUNS))
def test_a_run_that_cannot_be_is_named_with_the_line_that_made_it(
    what: str, tmp_path: Path
) -> None:
    ranking, message = RUNS[what]
    made = "m2kr.Run.from_dict(r)" if ranking[0] == "{" else "m2kr.Run.from_lists(*zip(*r))"
    body = f"import m2kr; ids = queries.ids.to_pylist(); r = {ranking}; return {made}"
    path = written(tmp_path, search=body)
    with pytest.raises(m2kr.M2KRError, match=message) as caught:
        evaluate_split(toy_split(), create(f"{path}:Mine"), k=3)
    if what in ("not finite", "unlike lengths"):
        assert str(caught.value).startswith(f"{path}:")


def test_attributes_of_ones_own_do_not_stand_in_for_ours() -> None:
    class Other:
        name, settings, modalities = "other", {}, {}
        depth, seconds, search_cost, members = 12, 5.0, None, ("x", "y")
        searched, reused, index_bytes = {"a": 1}, 3, b"12"

        def index(self, passages, *, workdir):
            """Nothing."""

        def search(self, queries, k):
            return m2kr.Run.from_dict({q: {"p/dog": 1.0} for q in queries.ids.to_pylist()})

    result = evaluate_split(toy_split(), Other(), k=3)
    assert result.value("hit_rate@1") is not None


@pytest.mark.parametrize("part", ["settings", "cache_key"])
def test_half_a_surrogate_pair_is_refused_where_it_stands(part: str, tmp_path: Path) -> None:
    class Half(Dense):
        @property
        def settings(self):
            return {"prompt": "\udcff" if part == "settings" else ""}

        def cache_key(self, side):
            return {"prompt": "\udcff"}

    with pytest.raises(InputError, match=part):
        evaluate_split(toy_split(), Half(), cache=tmp_path)


@pytest.mark.parametrize("what", sorted(SEARCHED))
def test_what_search_returns_is_looked_at(what: str) -> None:
    class Searching(Dense):
        def search(self, queries, k):
            return SEARCHED[what][0]

    with pytest.raises(InputError, match=SEARCHED[what][1]) as caught:
        evaluate_split(toy_split(), Searching(), k=3)
    assert "Searching.search" in str(caught.value)


def test_batch_size_and_similarity_are_set_on_any_encoder(tmp_path: Path) -> None:
    path = written(tmp_path)
    mine = create(f"{path}:Mine", {"batch_size": "3", "similarity": "cosine"})
    assert (mine.batch_size, mine.similarity) == (3, "cosine")
    letters_file(tmp_path, "value = lambda: 1", "other.py")
    other = create(f"{tmp_path / 'other.py'}:Mine", {"similarity": "cosine"})
    assert evaluate_split(toy_split(), other, k=3).retriever["settings"] == {"similarity": "cosine"}
    for key, value, said in (
        ("batch_size", "many", "a whole number"),
        ("similarity", "euclid", "one of dot, cosine"),
        ("batchsize", "3", "did you mean 'batch_size'"),
    ):
        with pytest.raises(UsageError, match=said):
            create(f"{path}:Mine", {key: value})
    assert len(PASSAGES) == 4


def test_a_run_is_given_and_told_of_and_nothing_is_written_into_a_retriever(tmp_path: Path) -> None:
    class Sealed:
        name, settings, modalities = "sealed", {}, {}

        def __setattr__(self, name, value):
            raise AttributeError(name)

        def index(self, passages, *, workdir):
            """Nothing."""

        def search(self, queries, k):
            return m2kr.Run.from_dict({q: {"p/dog": 1.0} for q in queries.ids.to_pylist()})

    class Telling(RetrieverBase, Sealed):
        __setattr__ = object.__setattr__

        def index(self, passages, *, workdir):
            self.given = self.run_context
            self.run_context.progress.advance("index", len(passages))

        def run_stats(self):
            seconds, reused = {"encode document": 0.0}, {"encode document": 3, "encode query": 0}
            how = {"mode": "mine"}
            return RunStats(seconds, reused, index_bytes=80, search=how, cost={"threads": 2})

    assert evaluate_split(toy_split(), Sealed(), k=3).search is None
    split, telling, recorder = toy_split(), Telling(), Recorder()
    options = {"workdir": tmp_path, "cache": tmp_path / "cache", "progress": recorder}
    result = evaluate_split(split, telling, k=3, **options)
    given = telling.given
    assert (given.workdir, given.cache, given.search) == (tmp_path, tmp_path / "cache", None)
    assert given.fingerprints == split.fingerprints
    assert ("advance", "index", 4) in recorder.calls
    assert result.search == {"mode": "mine", "threads": 2}
    assert result.retriever["reused"] == {"encode document": 3}
    assert result.bytes_per_passage == 20
