"""BM25: scores against a ten-line version, ties, empty things, memory of what was built."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.retrieval.protocol import Retriever
from m2kr.retrievers import create

Made = Callable[..., Retriever]


def pool(texts: list[str], ids: list[str] | None = None) -> Passages:
    names = ids or [f"p{i}" for i in range(len(texts))]
    rows = [{"passage_id": i, "passage_content": t} for i, t in zip(names, texts, strict=True)]
    return Passages(Dataset.from_list(rows))


def ask(*questions: str, instruction: str = "") -> Queries:
    rows = [
        {"question_id": f"q{i}", "question": q, "instruction": instruction}
        for i, q in enumerate(questions)
    ]
    return Queries(Dataset.from_list(rows))


def by_hand(texts: list[str], question: str, k1: float, b: float) -> list[float]:
    """Lucene's BM25 as it is printed in the papers."""
    docs = [re.findall(r"\b\w\w+\b", text.lower()) for text in texts]
    mean = sum(map(len, docs)) / len(docs)
    scores = [0.0] * len(docs)
    for word in re.findall(r"\b\w\w+\b", question.lower()):
        df = sum(word in doc for doc in docs)
        idf = math.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
        for i, doc in enumerate(docs):
            tf = doc.count(word)
            scores[i] += idf * tf / (tf + k1 * (1 - b + b * len(doc) / mean)) if tf else 0.0
    return scores


WORDS = ("red", "Blue", "green", "sky", "sea", "fish", "42", "x", "été")
words = st.lists(st.sampled_from(WORDS), max_size=8)
text = words.map(" ".join)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(text, min_size=1, max_size=12),
    question=text,
    k=st.integers(1, 12),
    k1=st.floats(0.1, 3),
    b=st.floats(0, 1),
)
def test_scores_and_order_are_those_of_the_formula(
    texts: list[str], question: str, k: int, k1: float, b: float
) -> None:
    retriever = create("bm25", {"k1": k1, "b": b, "stopwords": "none"})
    with TemporaryDirectory() as folder:
        retriever.index(pool(texts), workdir=Path(folder))
    run = retriever.search(ask(question), k)
    scores = {f"p{i}": s for i, s in enumerate(by_hand(texts, question, k1, b))}
    ranked, got = run.passage_ids("q0"), run.scores("q0")
    assert len(ranked) == min(k, sum(s > 0 for s in scores.values()))
    assert got == pytest.approx([scores[p] for p in ranked], rel=1e-4)
    left = [scores[p] for p in scores if p not in ranked]
    assert max(left, default=0.0) <= min(got, default=math.inf) * (1 + 1e-4)


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire"])
def test_every_method_ranks(method: str, made: Made) -> None:
    texts = ["red fish", "blue sky", "green sea", "grey stone", "white cloud"]
    run = made("bm25", pool(texts), method=method).search(ask("a blue sky"), 3)
    assert run.passage_ids("q0") == ["p1"]


def test_ties_at_the_cut_are_broken_by_id(made: Made) -> None:
    ids = [f"p{(i * 37) % 100:02}" for i in range(100)]
    retriever = made("bm25", pool(["same words here"] * 100, ids))
    for k in (1, 7, 99, 100):
        run = retriever.search(ask("words"), k)
        assert run.passage_ids("q0") == sorted(ids)[:k]


def test_rows_that_share_an_id_count_once(made: Made) -> None:
    retriever = made("bm25", pool(["red red", "red", "red sky", "sea"], ["b", "b", "a", "c"]))
    run = retriever.search(ask("red"), 2)
    assert sorted(run.passage_ids("q0")) == ["a", "b"]


def test_a_blank_question_is_replaced_by_the_instruction(made: Made) -> None:
    retriever = made("bm25", pool(["describe the picture", "red sky"]))
    run = retriever.search(ask(" ", "red", instruction="Describe this image:"), 2)
    assert [run.passage_ids(q) for q in run.query_ids] == [["p0"], ["p1"]]


def test_a_pool_without_words_gives_no_rankings(made: Made) -> None:
    retriever = made("bm25", pool(["", "the", "?"]))
    assert retriever.search(ask("the", ""), 3).counts().tolist() == [0, 0]


def test_stopwords_and_stemmer_can_be_chosen(made: Made) -> None:
    pytest.importorskip("Stemmer", reason="PyStemmer is not installed")
    texts = ["le chat dort", "running dogs"]
    assert made("bm25", pool(texts)).search(ask("le dog"), 2).passage_ids("q0") == ["p0"]
    french = made("bm25", pool(texts), stopwords="fr", stemmer="english")
    assert french.search(ask("le dog runs"), 2).passage_ids("q0") == ["p1"]


@pytest.mark.parametrize(
    "wrong",
    [{"k1": "-1"}, {"b": "1.5"}, {"method": "bm25l"}, {"stopwords": "xx"}, {"stemmer": "klingon"}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, str]) -> None:
    if "stemmer" in wrong:
        pytest.importorskip("Stemmer", reason="PyStemmer is not installed")
    with pytest.raises(UsageError):
        create("bm25", wrong)


def test_one_pool_is_indexed_once_a_process(
    made: Made, passages: Passages, queries: Queries
) -> None:
    first = made("bm25", passages)
    again = made("bm25", passages)
    other = made("bm25", passages, k1=0.9)
    assert [r.run_stats().reused["index"] for r in (first, again, other)] == [0, len(passages), 0]  # type: ignore[attr-defined]
    assert again.search(queries, 5) == first.search(queries, 5)
    assert other.search(queries, 5) != first.search(queries, 5)


def test_it_reaches_neither_encoders_nor_searches_of_vectors() -> None:
    code = (
        "import sys, m2kr.retrievers.bm25\n"
        "print(*[m for m in sys.modules if m == 'torch' or m.startswith('m2kr.search')"
        " or m.startswith('m2kr.retrieval.encoder') or m.startswith('m2kr.preflmr')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
