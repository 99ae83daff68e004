"""Late fusion: what adds up, who is heard, what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.retrieval.protocol import Retriever
from m2kr.retrieval.run_fusion import normalised
from m2kr.retrieval.search_split import stats_of
from m2kr.retrievers import create

Made = Callable[..., Retriever]

MEMBERS = '''
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run

class Text:
    """Ranks p001, p002, p003 for every query."""
    name, settings, modalities = "text", {}, Modalities()
    ranking = {"p001": 4.0, "p002": 2.0, "p003": 0.0}
    def index(self, passages, *, workdir):
        (workdir / "mine").write_text(self.name)  # fails where two share a folder or it is absent
    def search(self, queries, k):
        ids = reversed(queries.ids.to_pylist())
        return Run.from_dict({q: self.ranking for q in ids}).top(k)

class Picture(Text):
    """Ranks p003, p004 for queries that have an image."""
    name, modalities = "picture", Modalities(query=frozenset({"image"}))
    ranking = {"p003": 1.0, "p004": 0.5}
    def search(self, queries, k):
        paths = queries.column("img_path")
        ids = queries.ids.to_pylist()
        return Run.from_dict({q: self.ranking if p else {} for q, p in zip(ids, paths)}).top(k)
'''


@pytest.fixture
def members(tmp_path: Path) -> str:
    path = tmp_path / "members.py"
    path.write_text(MEMBERS)
    return f"{path}:Text,{path}:Picture"


def test_each_query_is_answered_by_the_members_it_gives_something(
    made: Made, members: str, passages: Passages, queries: Queries
) -> None:
    run = made("fusion", passages, members=tuple(members.split(","))).search(queries, 10)
    assert run.passage_ids("text") == ["p001", "p002", "p003"]
    assert run.passage_ids("image") == ["p003", "p004"]
    assert run.passage_ids("neither") == []
    # The text member gives 4, 2, 0 of spread 1.633; the picture 1 and 0.5 of spread 0.25.
    assert run.to_dict()["both"] == pytest.approx(
        {"p001": 4 / 1.633, "p003": 0 + 2, "p002": 2 / 1.633, "p004": 0}, rel=1e-3
    )


def test_reciprocal_ranks_and_weights(
    made: Made, members: str, passages: Passages, queries: Queries
) -> None:
    settings = {"members": members, "method": "rrf", "weights": "1,3"}
    run = made("fusion", passages, **settings).search(queries, 10)
    assert run.to_dict()["both"] == pytest.approx(
        {"p003": 1 / 63 + 3 / 61, "p004": 3 / 62, "p001": 1 / 61, "p002": 1 / 62}
    )


def test_k_and_depth_cut(made: Made, members: str, passages: Passages, queries: Queries) -> None:
    shallow = made("fusion", passages, members=members, depth=1)
    assert shallow.search(queries, 1).passage_ids("both") == ["p001"]
    assert set(shallow.search(queries, 9).passage_ids("both")) == {"p001", "p002", "p003", "p004"}


def test_it_tells_of_its_members(made: Made, passages: Passages) -> None:
    retriever = made("fusion", passages, members="bm25,random", weights="2,0.5")
    assert retriever.settings["weights"] == {"bm25": 2.0, "random": 0.5}
    assert retriever.settings["members"]["random"] == {"seed": 0}
    assert retriever.modalities.as_dict() == {"query": ["text"], "passage": ["text"]}


def test_a_member_that_is_not_heard_changes_nothing(
    made: Made, passages: Passages, queries: Queries
) -> None:
    alone = made("bm25", passages).search(queries, 10)
    fused = made("fusion", passages, members="bm25,random", weights="1,0").search(queries, 10)
    asked = [q for q in ("text", "both") if len(alone.passage_ids(q))]
    assert asked
    for query in asked:
        found = alone.passage_ids(query)
        assert fused.passage_ids(query)[: len(found) - 1] == found[:-1]


def test_one_member_ranks_as_it_does_alone_and_who_is_not_counted_is_said(
    made: Made, members: str, passages: Passages, queries: Queries
) -> None:
    alone = made("bm25", passages).search(queries, 10)
    fused = made("fusion", passages, members="bm25")
    run = fused.search(queries, 10)
    assert [list(run.passage_ids(q)) for q in run.query_ids] == [
        list(alone.passage_ids(q)) for q in run.query_ids
    ]
    assert alone.counts()[alone.query_ids.index("image")]  # by its instruction
    assert stats_of(fused).notes == []
    both = made("fusion", passages, members=members)
    for _ in range(2):
        both.search(queries, 10)
        (note,) = stats_of(both).notes
        name = members.partition(",")[0]
        said = f"{name} is not counted for the 3 of 6 queries that have no question"
        assert note == said


def test_members_that_read_text_alone_are_fused_as_their_runs_are(
    made: Made, passages: Passages, queries: Queries, tmp_path: Path
) -> None:
    (tmp_path / "members.py").write_text(MEMBERS)
    members = ("bm25", f"{tmp_path}/members.py:Text")
    files = []
    for place, member in enumerate(members):
        made(member, passages).search(queries, 500).save(tmp_path / f"{place}.parquet")
        files.append(str(tmp_path / f"{place}.parquet"))
    by_name = made("fusion", passages, members=members).search(queries, 10)
    by_file = made("fusion", passages, runs=tuple(files)).search(queries, 10)
    assert by_name.to_dict() == by_file.to_dict()


@given(st.lists(st.floats(-1e6, 1e6), max_size=30), st.sampled_from(["zscore", "rrf"]))
def test_what_a_ranking_adds_keeps_its_order_and_is_never_negative(
    values: list[float], method: str
) -> None:
    scores = np.sort(np.array(values, np.float64))[::-1]
    added = normalised(scores, method)
    assert len(added) == len(scores)
    assert (added >= 0).all()
    assert np.isfinite(added).all()
    assert (np.diff(added) <= 0).all()


def test_scores_of_any_scale_add_the_same() -> None:
    scores = np.array([3.0, 2.5, 1.0])
    assert np.allclose(normalised(scores, "zscore"), normalised(scores * 50 - 7, "zscore"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"members": ""},
        {"members": "bm25,bm25"},
        {"members": "bm25,fusion"},
        {"members": "bm25,random", "weights": "1"},
        {"members": "bm25", "weights": "-1"},
        {"members": "bm25", "method": "max"},
        {"members": "bm25", "depth": "0"},
        {"members": "bm52"},
    ],
)
def test_what_can_not_be_fused_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        create("fusion", wrong)
