"""What every registered retriever keeps to, whatever it is."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from m2kr.data.records import Passages, Queries
from m2kr.errors import MissingError, UsageError
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Retriever, RunContext
from m2kr.retrieval.run import Run
from m2kr.retrievers import create, names
from m2kr.retrievers._memo import MEMO

Made = Callable[..., Retriever]
EVERY = pytest.mark.parametrize("name", names())


def same(one: Run, other: Run) -> bool:
    """Equal rankings; scores may differ by rounding."""
    return set(one.query_ids) == set(other.query_ids) and all(
        one.passage_ids(q) == other.passage_ids(q)
        and np.allclose(one.scores(q), other.scores(q), rtol=0, atol=1e-5)
        for q in one.query_ids
    )


def shuffled(records: Passages | Queries) -> list[dict[str, object]]:
    rows = records.rows(range(len(records)))
    return [rows[i] for i in np.random.default_rng(5).permutation(len(rows))]


@EVERY
def test_answers_every_query_with_ids_of_the_pool(
    name: str, made: Made, passages: Passages, queries: Queries
) -> None:
    run = made(name, passages).search(queries, 4)
    assert run.query_ids == tuple(queries.ids.to_pylist())
    assert run.counts().max() <= 4
    assert set(run.vocabulary.to_pylist()) <= set(passages.ids.to_pylist())
    assert run.name == name
    assert run.counts().sum() > 0


@EVERY
def test_tells_what_it_is_in_json(name: str, made: Made, passages: Passages) -> None:
    retriever = made(name, passages)
    assert json.loads(json.dumps(dict(retriever.settings))) == retriever.settings
    assert set(retriever.modalities.as_dict()) == {"query", "passage"}


@EVERY
def test_repeats_itself(name: str, made: Made, passages: Passages, queries: Queries) -> None:
    first = made(name, passages).search(queries, 5)
    MEMO.clear()
    assert made(name, passages).search(queries, 5) == first


@EVERY
def test_what_another_run_encoded_is_ranked_alike(
    name: str, made: Made, passages: Passages, queries: Queries, tmp_path: Path
) -> None:
    retriever = made(name, passages)
    if not isinstance(retriever, EncoderRetriever):
        pytest.skip("nothing is encoded")
    first = retriever.search(queries, 5)
    for known in (False, True):
        MEMO.clear()
        again = made(name, Passages(passages.dataset, passages.images))
        assert isinstance(again, EncoderRetriever)
        again.begin_run(RunContext(cache=tmp_path / "cache"))
        again.index(passages, workdir=tmp_path / "work")
        MEMO.clear()
        assert again.search(queries, 5) == first
        rows = {"encode document": len(passages), "encode query": len(queries)}
        if known and again.cache_key("query") is not None:
            assert again.run_stats().reused == rows


@EVERY
def test_the_order_of_rows_does_not_matter(
    name: str, made: Made, passages: Passages, queries: Queries
) -> None:
    straight = made(name, passages).search(queries, 5)
    MEMO.clear()
    pool = Passages(Dataset.from_list(shuffled(passages)), passages.images)
    asked = Queries(Dataset.from_list(shuffled(queries)), queries.images)
    mixed = made(name, pool).search(asked, 5)
    assert mixed.query_ids == tuple(asked.ids.to_pylist())
    assert same(straight, mixed)


@pytest.mark.parametrize("name", [n for n in names() if n in {"dense_text", "image_concepts"}])
def test_the_batch_size_does_not_matter(
    name: str, made: Made, passages: Passages, queries: Queries
) -> None:
    whole = made(name, passages, batch_size=64).search(queries, 5)
    MEMO.clear()
    assert same(whole, made(name, passages, batch_size=1).search(queries, 5))


@EVERY
def test_a_shorter_ranking_begins_a_longer_one(
    name: str, made: Made, passages: Passages, queries: Queries
) -> None:
    retriever = made(name, passages)
    assert retriever.search(queries, 2) == retriever.search(queries, 9).top(2)


@EVERY
def test_a_pool_smaller_than_k_is_ranked_whole_at_most(
    name: str, made: Made, passages: Passages, queries: Queries
) -> None:
    rows = passages.rows(range(2, 5))
    run = made(name, Passages(Dataset.from_list(rows), passages.images)).search(queries, 500)
    assert 1 <= run.counts().max() <= 3


@EVERY
def test_indexing_another_pool_forgets_the_first(
    name: str, made: Made, passages: Passages, queries: Queries, tmp_path: object
) -> None:
    rows = passages.rows(range(2, 5))
    small = Passages(Dataset.from_list(rows), passages.images, "fp1:small")
    retriever = made(name, passages)
    retriever.search(queries, 3)
    retriever.index(small, workdir=tmp_path)  # type: ignore[arg-type]
    assert same(retriever.search(queries, 3), made(name, small).search(queries, 3))


@EVERY
def test_searching_before_indexing_is_refused(name: str, made: Made, queries: Queries) -> None:
    try:
        retriever = create(name)
    except MissingError as error:
        pytest.skip(str(error))
    with pytest.raises(UsageError, match="index"):
        retriever.search(queries, 3)


@pytest.mark.parametrize(
    ("name", "silent"),
    [
        ("bm25", {"unknown words", "nothing at all"}),
        ("dense_text", {"nothing at all"}),
        ("image_concepts", {"text", "neither", "nothing at all"}),
        ("fusion", {"neither", "nothing at all"}),
        ("random", set()),
    ],
)
def test_says_nothing_of_a_query_that_gives_it_nothing(
    name: str, silent: set[str], made: Made, passages: Passages, queries: Queries
) -> None:
    run = made(name, passages).search(queries, 5)
    assert {q for q, n in zip(run.query_ids, run.counts(), strict=True) if not n} == silent
