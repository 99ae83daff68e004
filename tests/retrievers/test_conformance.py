"""Every shipped retriever under the conformance kit, and what m2kr's own keep to besides."""

from collections.abc import Callable
from pathlib import Path

import pytest
from retrievers.conftest import SETTINGS

from m2kr.conformance import CHECKS, check_retriever
from m2kr.data.records import Passages, Queries
from m2kr.errors import MissingError
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Retriever, RunContext
from m2kr.retrievers import create, names
from m2kr.retrievers._memo import MEMO

Made = Callable[..., Retriever]
# All others load models that make most checks take seconds (flmr's class is preflmr's).
LIGHT = frozenset({"bm25", "oracle", "preflmr", "random"})
QUICK = ("ids", "k")


def check(name: str, checks: tuple[str, ...]) -> None:
    try:
        verdicts = check_retriever(name, checks, settings=SETTINGS.get(name, {}))
    except MissingError as error:
        pytest.skip(str(error))
    assert not verdicts.failed, str(verdicts)


@pytest.mark.parametrize("name", names())
def test_a_shipped_retriever_is_right(name: str) -> None:
    check(name, CHECKS if name in LIGHT else QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*names()} - LIGHT))
def test_a_shipped_retriever_with_a_model_of_its_own_is_right(name: str) -> None:
    check(name, tuple(other for other in CHECKS if other not in QUICK))


@pytest.mark.parametrize("name", names())
def test_what_another_run_encoded_is_not_encoded_again(
    name: str, made: Made, passages: Passages, queries: Queries, tmp_path: Path
) -> None:
    try:
        retriever = create(name, SETTINGS.get(name, {}))
    except MissingError as error:
        pytest.skip(str(error))
    if not isinstance(retriever, EncoderRetriever):
        pytest.skip("nothing is encoded")
    for _ in range(2):
        MEMO.clear()
        again = create(name, SETTINGS.get(name, {}))
        assert isinstance(again, EncoderRetriever)
        again.begin_run(RunContext(cache=tmp_path / "cache"))
        again.index(passages, workdir=tmp_path / "work")
        MEMO.clear()
        again.search(queries, 5)
    assert again.cache_key("query") is not None
    rows = {"encode document": len(passages), "encode query": len(queries)}
    assert again.run_stats().reused == rows


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
