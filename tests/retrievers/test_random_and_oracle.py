"""The floor and the ceiling."""

from collections import Counter
from collections.abc import Callable

from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from m2kr.data.records import Passages, Queries
from m2kr.retrieval.protocol import Retriever
from m2kr.retrievers.random_ import draw_rows

Made = Callable[..., Retriever]


@given(st.integers(1, 300), st.text(max_size=8), st.integers(0, 5), st.data())
def test_a_draw_has_no_repeats_and_a_longer_one_begins_with_it(
    n: int, key: str, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, n))
    whole = draw_rows(n, n, key, seed)
    assert sorted(whole) == list(range(n))
    assert draw_rows(n, k, key, seed) == whole[:k]


def test_every_place_is_drawn_as_often() -> None:
    trials, n = 4000, 8
    for place in range(4):
        counts = Counter(draw_rows(n, 4, f"q{i}", 1)[place] for i in range(trials))
        # 500 expected, standard deviation 21.
        assert len(counts) == n
        assert all(400 < count < 600 for count in counts.values())


def test_the_seed_changes_the_draw(made: Made, passages: Passages, queries: Queries) -> None:
    runs = [made("random", passages, seed=seed).search(queries, 5) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_oracle_ranks_the_positives_that_the_pool_holds(
    made: Made, passages: Passages, queries: Queries
) -> None:
    run = made("oracle", passages).search(queries, 10)
    assert run.passage_ids("text") == ["p003", "p012"]
    assert run.passage_ids("image") == ["p014"]
    assert run.passage_ids("neither") == []
    assert made("oracle", passages).search(queries, 1).passage_ids("text") == ["p003"]


def test_the_oracle_copes_with_repeated_positives_and_ids(made: Made) -> None:
    rows = [{"passage_id": i, "passage_content": ""} for i in ("a", "a", "b")]
    asked = [
        {"question_id": "q", "question": "", "instruction": "", "pos_item_ids": ["a", "b", "a"]}
    ]
    retriever = made("oracle", Passages(Dataset.from_list(rows)))
    assert retriever.search(Queries(Dataset.from_list(asked)), 5).passage_ids("q") == ["a", "b"]
