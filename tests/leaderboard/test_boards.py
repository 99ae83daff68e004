"""Boards: which systems stand on them, in which order, and how often chance would part equal ones."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_boards import made_entry
from support.made_results import made_result

from m2kr.errors import InputError
from m2kr.evaluation.metrics import choose
from m2kr_leaderboard.boards import BoardEntry, make_boards
from m2kr_leaderboard.groups import significance_ranks


def scored(entry: BoardEntry, **scores: Any) -> BoardEntry:
    """The entry with these per-query scores; ``hit_rate_5`` stands for ``hit_rate@5``."""
    old = entry.scored.result
    of = {"@".join(name.rsplit("_", 1)): values for name, values in scores.items()}
    facts = {"source": old.source, "edition": old.edition, "headline": old.headline}
    result = made_result(entry.card.name, of, **facts)
    return replace(entry, scored=replace(entry.scored, result=result))


def hits(*rates: float, queries: int = 200) -> list[BoardEntry]:
    """Systems that find the first so many queries' passages."""
    rank = np.arange(queries) / queries
    return [
        scored(made_entry(f"system-{i}"), hit_rate_5=(rank < rate).astype(float))
        for i, rate in enumerate(rates)
    ]


def test_partial_systems_stand_on_the_boards_of_their_sources_alone() -> None:
    entries = [*hits(0.5, 0.6), scored(made_entry("system-0", "wit"), hit_rate_5=[1.0, 0.0])]
    boards = {board.key: board for board in make_boards(entries)}
    assert boards.keys() == {"okvqa.test", "wit.test"}  # and no mean, which would have a hole
    names = {key: [row.entry.card.name for row in board.rows] for key, board in boards.items()}
    assert names == {"okvqa.test": ["system-1", "system-0"], "wit.test": ["system-0"]}


def test_scores_of_other_queries_are_refused() -> None:
    one, other = hits(0.5, 0.6)
    values = other.scored.result.scores["hit_rate@5"].copy()
    values[3] = np.nan
    other = scored(other, hit_rate_5=values)
    with pytest.raises(InputError, match="hit_rate@5 is defined for other queries in system-"):
        make_boards([one, other])
    [board] = make_boards([scored(one, hit_rate_5=values), other])
    assert [row.ranks["hit_rate@5"] for row in board.rows] == [(1, 2), (1, 2)]


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.2, 0.5, 0.55, 0.9]), min_size=1, max_size=6), st.randoms())
def test_ranks_follow_scores_and_not_the_order_of_entries(rates: list[float], draw: Any) -> None:
    entries = hits(*rates)
    [board] = make_boards(entries)
    values = [row.entry.scored.result.value("hit_rate@5") for row in board.rows]
    assert values == sorted(values, reverse=True)
    ranks = [row.ranks["hit_rate@5"] for row in board.rows]
    for place, (best, worst) in enumerate(ranks, 1):
        assert 1 <= best <= place <= worst <= len(rates)
    for value in set(values):  # equal systems can't be told apart
        assert len({r for v, r in zip(values, ranks, strict=True) if v == value}) == 1
    draw.shuffle(entries)
    [again] = make_boards(entries)
    assert [(r.entry.card.name, r.ranks) for r in again.rows] == [
        (r.entry.card.name, r.ranks) for r in board.rows
    ]


def equal_systems(
    rng: np.random.Generator, metric: str, queries: int, systems: int, alike: float
) -> np.ndarray:
    """Scores of systems that are equally good; of a share of the queries they share the outcome."""
    shape = (queries, systems)
    shared = rng.random(shape) < alike
    chance = rng.beta(0.5, 0.5, (queries, 1))  # most queries are easy or hard
    hit = np.where(shared, rng.random((queries, 1)), rng.random(shape)) < chance
    if metric == "hit rate":
        return hit.astype(float)
    rank = np.where(shared, rng.geometric(0.35, (queries, 1)), rng.geometric(0.35, shape))
    return np.where(hit, 1 / np.minimum(rank, 10), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["hit rate", "reciprocal rank"])
@pytest.mark.parametrize("systems", [2, 5, 20])
def test_chance_parts_equal_systems_in_one_board_of_twenty(metric: str, systems: int) -> None:
    rng, boards = np.random.default_rng(0), 600
    for queries in (100, 1000):
        for alike in (0.0, 0.9, 0.99):
            parted = 0
            for _ in range(boards):
                ranks, _ = significance_ranks(equal_systems(rng, metric, queries, systems, alike))
                parted += any(rank != (1, systems) for rank in ranks)
            share = parted / boards
            print(f"{metric}, {systems} systems, {queries} queries, alike {alike}: {share:.3f}")
            assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / boards)


@pytest.mark.slow
def test_ten_boards_of_300_systems() -> None:
    metrics, queries = [one.name for one in choose("full", 500)], tuple(map(str, range(5_120)))
    rng = np.random.default_rng(0)
    drawn = rng.random((len(metrics), len(queries)))
    spent = 0.0
    for source in range(10):
        entries = []
        for system in range(300):
            found = (drawn < rng.random() * 0.8).astype(float)
            entry = made_entry(f"system-{system:03}", f"source{source}")
            result = made_result(
                entry.card.name,
                dict(zip(metrics, found, strict=True)),
                query_ids=queries,
                source=f"source{source}",
            )
            entries.append(replace(entry, scored=replace(entry.scored, result=result)))
        began = time.process_time()
        [board] = make_boards(entries)
        spent += time.process_time() - began
        assert len(board.rows) == 300
        assert {len(row.ranks) for row in board.rows} == {len(metrics)}
    print(f"10 boards of 300 systems, {len(metrics)} metrics, 5,120 queries: {spent:.0f} CPU-s")
