"""Evaluations by compressed and official search: what the result says, and what is refused."""

import json
import re

import numpy as np
import pytest
from support.toys import PASSAGES, QUERIES, Dense, Late, letters, toy_split

from m2kr.errors import UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.result import Result
from m2kr.report.tables import as_text
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.search import dispatch
from m2kr.search.config import SearchConfig
from m2kr.search.exact.reference import maxsim

K = 10


class Wide(Late):
    """Letters in 32 dimensions: codes of 2, 4 and 8 bits fill bytes."""

    name = "wide"

    def __init__(self):
        super().__init__(100)

    def encode_query(self, batch):
        return [np.pad(row, ((0, 0), (0, 6))) for row in super().encode_query(batch)]

    encode_document = encode_query


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("abcdefgh"), 5)) for _ in range(90)]
    more = {f"x{i}": " ".join(rng.choice(words, 7)) for i in range(300)}
    return toy_split(passages=PASSAGES | more)


@pytest.fixture(scope="module")
def exact(split):
    return evaluate_split(split, Wide(), k=K)


def test_exact_search_is_the_default_and_the_result_says_so(split, exact):
    assert exact.search["mode"] == "exact"
    assert exact.search["cpu_seconds_per_query"] >= 0
    assert "search" not in exact.run.metadata
    assert re.fullmatch(r"toy\.test\.wide\.[0-9a-f]{8}", exact.name)
    columns = split.passages_view.ids.to_pylist(), split.passages_view.column("passage_content")
    texts = dict(zip(*columns, strict=True))
    words = lambda text: np.stack([letters(w) / 10 for w in text.split()])  # noqa: E731
    for query, (question, *_) in QUERIES.items():
        every = {p: maxsim(words(question), words(text)) for p, text in texts.items()}
        best = sorted(every, key=lambda p: (-every[p], p))[:K]
        assert exact.run.to_dict()[query] == {p: every[p] for p in best}


@pytest.mark.parametrize("mode", ["compressed", "official"])
def test_an_index_is_searched_audited_and_told_of(split, exact, mode, tmp_path):
    searching = SearchConfig(mode, seed=3, centroids=16, audit=3)
    found = evaluate_split(split, Wide(), k=K, searching=searching, workdir=tmp_path)
    found.save(tmp_path)
    told = found.search
    assert told["mode"] == mode
    assert told["nbits"] == {"compressed": 4, "official": 8}[mode]
    assert (told["centroids"], told["training"]["seed"], told["final"]) == (16, 3, "compressed")
    assert told["candidates" if mode == "compressed" else "ndocs"] > K
    assert told["index_bytes"] > 0
    assert found.bytes_per_passage == told["index_bytes"] / len(split.passages_view)
    assert told["cpu_seconds_per_query"] >= 0
    # The recall that it tells is that against the exact ranking.
    assert set(told["audit"]) == {"queries", "recall@1", "recall@10"}
    asked = [list(QUERIES)[i] for i in (0, 1, 3)]
    for depth in (1, 10):
        shares = [
            len(
                set(exact.run.passage_ids(q)[:depth]) & set(found.run.passage_ids(q)[:depth])
            ) / depth
            for q in asked
        ]  # fmt: skip
        assert told["audit"][f"recall@{depth}"] == pytest.approx(np.mean(shares))
    # Files, table and notes can't be taken for exact search's.
    assert found.name.startswith(f"toy.test.wide.{mode}.")
    text = as_text([exact, found])
    assert f"wide ({mode})" in text
    assert f"{mode} search, not exact; recall against exact search" in text
    assert "(3 queries)" in text
    loaded = Result.load(tmp_path / f"{found.name}.json")
    assert loaded.search == found.search
    run = Run.load(tmp_path / f"{found.name}.run.parquet")
    assert run.metadata["search"]["mode"] == mode
    # Nor can a run that is replayed.
    again = evaluate_split(split, RunRetriever(_path(tmp_path, found)), k=K)
    assert again.metrics == found.metrics
    assert again.search["audit"] == told["audit"]
    assert again.name.startswith(f"toy.test.wide.{mode}.")


def _path(folder, result):
    return folder / f"{result.name}.run.parquet"


def test_final_scores_may_be_those_of_the_token_store(split, exact):
    searching = SearchConfig("compressed", centroids=16, final="exact")
    found = evaluate_split(split, Wide(), k=K, searching=searching)
    ours, theirs = found.run.to_dict(), exact.run.to_dict()
    for query, scores in ours.items():
        both = set(scores) & set(theirs[query])
        assert both
        assert {p: scores[p] for p in both} == {p: theirs[query][p] for p in both}
    # Two things have to be on disk, then.
    assert found.bytes_per_passage > found.search["index_bytes"] / len(split.passages_view)
    assert "recall against exact search unknown (--audit 200 tells)" in as_text([found])


def test_widths_are_the_callers_and_recorded(split):
    searching = SearchConfig("official", centroids=16, widths={"ndocs": 12, "threshold": 0.3})
    told = evaluate_split(split, Wide(), k=K, searching=searching).search
    assert (told["ndocs"], told["threshold"], told["ncells"]) == (12, 0.3, 2)
    searching = SearchConfig("compressed", centroids=16, widths={"probes": 3})
    assert evaluate_split(split, Wide(), k=K, searching=searching).search["probes"] == 3
    with pytest.raises(UsageError, match="compressed search has no 'ncells'"):
        wrong = SearchConfig("compressed", centroids=16, widths={"ncells": 3})
        evaluate_split(split, Wide(), k=K, searching=wrong)


def test_another_seed_is_another_index(split):
    told = [
        evaluate_split(
            split, Wide(), k=K, searching=SearchConfig("compressed", centroids=8, seed=seed)
        )
        for seed in (0, 1)
    ]
    assert [each.search["training"]["seed"] for each in told] == [0, 1]
    assert told[0].run_sha256 != told[1].run_sha256


class Words:
    """A retriever that is no encoder."""

    name, settings, modalities = "words", {}, Modalities()

    def index(self, passages, *, workdir):
        pytest.fail("it was indexed")

    def search(self, queries, k):
        pytest.fail("it was searched")


@pytest.mark.parametrize("mode", ["compressed", "official"])
def test_retrievers_that_search_one_way_are_refused_another_before_they_begin(mode):
    class Once(Dense):
        def encode_document(self, batch):
            assert not self.batches, "it went on encoding"
            return super().encode_document(batch)

    one = Once(2)
    one._window_batches = 1
    with pytest.raises(UsageError, match=f"late-interaction retriever for {mode} search"):
        evaluate_split(toy_split(), one, k=5, searching=SearchConfig(mode))
    with pytest.raises(UsageError, match=f"words has no {mode} search"):
        evaluate_split(toy_split(), Words(), k=5, searching=SearchConfig(mode))
    assert evaluate_split(toy_split(), Dense(), k=5, searching=SearchConfig()).search is None


def test_exact_search_that_would_take_too_long_stops_with_its_alternatives(split, monkeypatch):
    evaluate_split(
        split, Wide(), k=K, searching=SearchConfig(max_hours=1e-9)
    )  # one block: it is done
    monkeypatch.setattr(dispatch, "_REFERENCE_BYTES", 1 << 12)
    with pytest.raises(UsageError, match="exact search would take about") as error:
        evaluate_split(split, Wide(), k=K, searching=SearchConfig(max_hours=1e-9))
    for said in ("1e-09 hours (--max-hours)", "--search compressed", "--audit 200", "--max-hours "):
        assert said in str(error.value)
    # The limit that it names is enough.
    named = float(str(error.value).partition("or --max-hours ")[2].partition(";")[0])
    assert evaluate_split(split, Wide(), k=K, searching=SearchConfig(max_hours=10 * named)).search


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "plaid"}, "no search 'plaid'"),
        ({"nbits": 4}, "exact search has no nbits"),
        ({"audit": 3}, "exact search has no audit"),
        ({"widths": {"probes": 3}}, "exact search has no widths"),
        ({"mode": "official", "final": "exact"}, "scores what its index holds"),
        ({"mode": "compressed", "final": "both"}, "final is 'both'"),
        ({"mode": "compressed", "centroids": 0}, "centroids is 0"),
        ({"max_hours": 0.0}, "max_hours 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        SearchConfig(**settings)


def test_a_retriever_may_come_with_a_search_of_its_own(split):
    one = Wide()
    one.searching = SearchConfig("compressed", centroids=16)
    assert evaluate_split(split, one, k=K).search["mode"] == "compressed"
    assert evaluate_split(split, one, k=K, searching=SearchConfig()).search["mode"] == "exact"


def test_results_of_older_versions_have_no_search(tmp_path, exact):
    path = exact.save(tmp_path)
    facts = json.loads(path.read_text())
    del facts["search"]
    path.write_text(json.dumps(facts))
    old = Result.load(path)
    assert old.search is None
    assert old.search_mode == "exact"
    assert old.name == exact.name
