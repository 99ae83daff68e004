"""Which passages are mined as negatives, and what the file says of the others."""

import json
import random
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

import m2kr
from m2kr.data.records import Passages, Queries
from m2kr.errors import CheckError, MissingError, UsageError
from m2kr.retrieval.rerank import RerankItem
from m2kr.retrievers.bm25 import BM25
from m2kr.retrievers.rerank import Rerank
from m2kr.training.mine import mine
from m2kr.training.mined_file import MinedFile
from m2kr.training.mixture import Mixture, open_splits
from m2kr.training.recipe_file import load_recipe
from m2kr.training.right_passages import QueryAnswers, RightPassages
from m2kr.training.scored_pairs import read_provenance

WORDS = [
    "red",
    "Blue",
    "gréen",
    "C++",
    "ice",
    "river",
    "ii",
    "Köln",
    "stone",
    "7",
    "İzmir",
    "cat",
    "dog",
    "elm",
    "oak",
    "ash",
    "fir",
    "bay",
]
RERANKER = """
class Longest:
    name = "longest"
    def rerank(self, query, passages):
        return [len(each.text) for each in passages]
"""


def made(data: Path, **more: Any) -> m2kr.Split:
    """60 queries with answers of all kinds, and 200 passages some of which read alike."""
    rng = random.Random(3)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(190)]
    texts += [f"  {texts[n].upper()}  " for n in range(10)]
    queries = []
    for n in range(60):
        answers = rng.sample(WORDS, k=rng.randint(0, 2)) + rng.choices(["", " RED "], k=n % 3 == 0)
        positives = rng.sample(range(12 if n % 2 else 200), k=rng.randint(1, 3))
        queries.append(
            {
                "id": f"q{n}",
                "question": " ".join(rng.choices(WORDS, k=3)) if n else "zzz",
                "answers": answers,
                "positives": {f"p{p}": rng.choice([1, 2]) for p in positives},
            }
        )
    return m2kr.from_records(
        {f"p{n}": text for n, text in enumerate(texts)},
        queries,
        name="wordy",
        split="train",
        data=data,
        **more,
    )


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> m2kr.Split:
    return made(tmp_path_factory.mktemp("data"), relevance_threshold=2)


def plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def reason_of(query: dict[str, Any], passage: dict[str, Any]) -> str:
    """The rules, one pair at a time; scores apart."""
    if passage["passage_id"] in query["pos_item_ids"]:
        return "positive"
    if plain(passage["passage_content"]) in map(plain, query["pos_item_contents"]):
        return "same text as a positive"
    found = [
        a.strip().lower() in passage["passage_content"].lower()
        for a in query["answers"]
        if a.strip()
    ]
    return "answer" if any(found) else ""


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("margin", [None, 0.5])
def test_nothing_is_kept_that_may_be_right(
    split: m2kr.Split, tmp_path: Path, margin: float | None
) -> None:
    path = mine(split, "bm25", k=40, margin=margin, out=tmp_path / "mined.parquet")
    run = m2kr.evaluate(split, "bm25", k=40)[0].run
    assert run is not None
    rows, pool = rows_of(path), split.passages.to_list()
    for query in split:
        own = [row for row in rows if row["question_id"] == query["question_id"]]
        ranked = [row for row in own if row["rank"] is not None]
        assert [row["passage_id"] for row in ranked] == run.passage_ids(query["question_id"])
        assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
        assert [row["score"] for row in ranked] == run.scores(query["question_id"]).tolist()
        scores = {row["passage_id"]: row["score"] for row in own}
        if not ranked:
            assert query["question"] == "zzz"
            continue
        best = max(scores[each] for each in query["pos_item_ids"])
        for row in own:
            expected = reason_of(query, pool[row["passage_row"]])
            if not expected and margin is not None and row["score"] > best + margin:
                expected = "above positive + margin"
            assert (row["reason"], row["kept"]) == (expected, not expected)
            assert row["positive_score"] == best
            assert pool[row["passage_row"]]["passage_id"] == row["passage_id"]
    facts = read_provenance(path)
    assert facts is not None
    reasons = [row["reason"] for row in rows if row["rank"] is not None]
    assert facts["counts"]["kept"] == reasons.count("") > 0
    assert facts["counts"]["left_out"] == {
        each: reasons.count(each) for each in facts["counts"]["left_out"]
    }
    assert facts["counts"]["candidates"] == len(reasons)
    assert facts["fingerprints"] == split.fingerprints
    assert (facts["margin"], facts["k"], facts["retriever"]["name"]) == (margin, 40, "bm25")
    assert facts["counts"]["blank_answers"] == sum(
        not a.strip() for q in split for a in q["answers"]
    )


def test_right_passages_below_k_have_the_score_of_a_deeper_search(
    split: m2kr.Split, tmp_path: Path
) -> None:
    shallow = rows_of(mine(split, "bm25", k=3, out=tmp_path / "3.parquet"))
    deep = m2kr.evaluate(split, "bm25", k=200)[0].run
    assert deep is not None
    below = [row for row in shallow if row["rank"] is None]
    assert below
    for row in below:
        assert row["score"] == deep.to_dict()[row["question_id"]].get(row["passage_id"], 0.0)


def test_a_mined_file_is_the_run_again(split: m2kr.Split, tmp_path: Path) -> None:
    first = mine(split, "bm25", k=20, out=tmp_path / "a.parquet")
    again = mine(split, f"run:{first}", out=tmp_path / "b.parquet", margin=0.25)
    searched = mine(split, "bm25", k=20, out=tmp_path / "c.parquet", margin=0.25)
    assert {row["kept"] for row in rows_of(again)} == {True, False}
    assert rows_of(again) == rows_of(searched)
    replayed, scored = m2kr.evaluate(split, f"run:{first}"), m2kr.evaluate(split, "bm25", k=20)
    assert replayed[0].run_sha256 == scored[0].run_sha256
    assert replayed[0].metrics == scored[0].metrics


def test_a_margin_needs_a_score_of_a_right_passage(split: m2kr.Split, tmp_path: Path) -> None:
    run = m2kr.evaluate(split, "bm25", k=5)[0].run
    assert run is not None
    file = run.save(tmp_path / "bm25.parquet")
    path = mine(split, f"run:{file}", margin=5.0, out=tmp_path / "mined.parquet")
    facts = read_provenance(path)
    assert facts is not None
    assert facts["k"] == 5
    assert facts["retriever"]["run_sha256"] == run.sha256()
    unknown = {row["question_id"] for row in rows_of(path) if row["positive_score"] is None}
    assert facts["counts"]["queries_whose_positive_has_no_score"] == len(unknown) > 0
    assert not any(row["kept"] for row in rows_of(path) if row["question_id"] in unknown)
    without = rows_of(mine(split, f"run:{file}", out=tmp_path / "all.parquet"))
    assert any(row["kept"] for row in without if row["question_id"] in unknown)


def test_a_reranker_scores_right_passages_too_and_nothing_below_its_depth(
    split: m2kr.Split, tmp_path: Path
) -> None:
    class Longest:
        name = "longest"

        def rerank(self, query: RerankItem, passages: list[RerankItem]) -> list[int]:
            return [len(each.text) for each in passages]

    retriever: Any = Rerank(first=BM25(), model=Longest(), depth=10)  # type: ignore[arg-type]
    rows = rows_of(mine(split, retriever, out=tmp_path / "mined.parquet"))
    texts = {row["passage_id"]: row["passage_content"] for row in split.passages}
    assert all(row["score"] == len(texts[row["passage_id"]]) for row in rows)
    assert max(row["rank"] or 0 for row in rows) == 10
    assert any(row["rank"] is None for row in rows)
    with pytest.raises(UsageError, match="first 10 passages"):
        mine(split, retriever, k=11, out=tmp_path / "deeper.parquet")


def test_a_search_that_changes_scores_is_not_believed_on_single_passages(
    split: m2kr.Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Doubled(BM25):
        def search(self, queries: Any, k: int) -> m2kr.Run:
            run = super().search(queries, k).to_dict()
            return m2kr.Run.from_dict(
                {q: {p: 2 * s for p, s in own.items()} for q, own in run.items()}
            )

    rows = rows_of(mine(split, Doubled(), k=3, out=tmp_path / "mined.parquet"))
    assert "scores a passage otherwise" in caplog.text
    assert all(row["rank"] for row in rows)
    assert {row["positive_score"] is None for row in rows} == {True, False}


def test_chunks_of_queries_make_the_same_file(
    split: m2kr.Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mine(split, "bm25", k=10, out=tmp_path / "a.parquet")
    monkeypatch.setattr("m2kr.training.mine._QUERIES", 7)
    parts = mine(split, "bm25", k=10, out=tmp_path / "b.parquet")
    assert pq.read_metadata(parts).num_row_groups == 9
    assert pq.read_table(parts).equals(pq.read_table(whole))
    assert read_provenance(parts) == read_provenance(whole)


def test_dense_and_late_scores_of_right_passages_are_those_of_the_search(
    split: m2kr.Split, tmp_path: Path
) -> None:
    class Dense(m2kr.EncoderRetriever):
        similarity = "cosine"

        def vectors(self, texts: Any) -> np.ndarray:
            seeds = [sum(text.encode()) for text in texts]
            return np.stack([np.random.default_rng(s).normal(size=6) for s in seeds]).astype("f4")

        def encode_query(self, batch: Any) -> Any:
            return self.vectors(batch.texts)

        def encode_document(self, batch: Any) -> Any:
            return self.vectors(batch.texts)

    class Late(Dense):
        similarity = "dot"

        def encode_query(self, batch: Any) -> Any:
            return [self.vectors(text.split()) for text in batch.texts]

        encode_document = encode_query

    for retriever in (Dense(), Late()):
        few = rows_of(mine(split, retriever, k=4, out=tmp_path / "few.parquet"))
        deep = m2kr.evaluate(split, retriever, k=200)[0].run
        assert deep is not None
        scores = deep.to_dict()
        assert any(row["rank"] is None for row in few)
        assert all(row["score"] == scores[row["question_id"]][row["passage_id"]] for row in few)


def test_what_cannot_be_mined_is_said_first(split: m2kr.Split, tmp_path: Path) -> None:
    unjudged = m2kr.from_records(
        {"a": "one"}, {"q": "what?"}, name="unjudged", split="train", data=tmp_path
    )
    with pytest.raises(MissingError, match="no query has a right passage"):
        mine(unjudged, "bm25", out=tmp_path / "x.parquet")
    run = m2kr.evaluate(split, "bm25", k=5)[0].run
    assert run is not None
    with pytest.raises(UsageError, match="5 deep, and k is 9"):
        mine(split, run, k=9, out=tmp_path / "x.parquet")
    with pytest.raises(CheckError, match="the run lacks 59 queries"):
        mine(split, run.select(["q3"]), out=tmp_path / "x.parquet")
    other = m2kr.Run.from_dict({q: {"nobody": 1.0} for q in run.query_ids})
    with pytest.raises(CheckError, match="'nobody'"):
        mine(split, other, out=tmp_path / "x.parquet")
    edited = m2kr.Run.load(run.save(tmp_path / "r.parquet"))
    prints = {**edited.metadata["fingerprints"], "pool": "fp1:0"}
    with pytest.raises(CheckError, match="another pool"):
        mine(split, edited.named("bm25", fingerprints=prints), out=tmp_path / "x.parquet")
    with pytest.raises(MissingError, match="no such run file"):
        mine(split, "run:nowhere.trec", out=tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="margin is nan"):
        mine(split, "bm25", margin=float("nan"), out=tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


def test_where_everything_is_right_nothing_is_kept(split: m2kr.Split, tmp_path: Path) -> None:
    path = mine(split, "oracle", k=3, out=tmp_path / "mined.parquet", margin=0)
    facts = read_provenance(path)
    assert facts is not None
    assert facts["counts"]["kept"] == 0
    assert facts["counts"]["queries_without_negatives"] == 60
    silent = m2kr.Run.from_dict({query["question_id"]: {} for query in split}, name="silent")
    path = mine(split, silent, out=tmp_path / "silent.parquet")
    assert rows_of(path) == []
    assert m2kr.Run.load(path) == silent
    assert MinedFile.open(path, split).counts().tolist() == [0] * 60


def test_a_failed_search_leaves_the_old_file(split: m2kr.Split, tmp_path: Path) -> None:
    class Odd(BM25):
        def search(self, queries: Any, k: int) -> Any:
            raise ValueError("no")

    path = mine(split, "bm25", k=3, out=tmp_path / "mined.parquet")
    before = path.read_bytes()
    with pytest.raises(m2kr.errors.RetrieverError):
        mine(split, Odd(), k=3, out=path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["mined.parquet"]


def test_the_command(split: m2kr.Split, tmp_path: Path, cli: Any) -> None:
    data = split.folder.parent
    done = cli("mine", "wordy", "-r", "bm25", "-k", "20", "--data", data, "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    path = tmp_path / told["out"]
    assert path.parent.name == "mined"
    assert path.name.startswith("wordy.train.bm25.")
    assert told["counts"] == (read_provenance(path) or {})["counts"]
    reranker = tmp_path / "own.py"
    reranker.write_text(RERANKER, encoding="utf-8")
    shown = cli(
        *("mine", "wordy", "-r", "rerank", "--set", f"first=run:{path}", "--set", "depth=20"),
        *(
            "--set",
            f"model={reranker}:Longest",
            "--data",
            data,
            "--out",
            tmp_path / "scored.parquet",
        ),
        *("--margin", 3),
    ).stdout
    assert "above positive + margin" in shown
    (line,) = (line for line in shown.splitlines() if line.startswith("next: "))
    words = shlex.split(line)[2:]
    assert words[:2] == ["train", "fine-tuning"]
    assert words[-2:] == ["--data", str(data)]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    recipe = load_recipe(words[1], settings)
    mixture = Mixture(recipe, open_splits(recipe, data))
    drawn = {each.origin for number in range(20) for each in mixture.visit(number).passages}
    assert "mined" in drawn
    deep = cli("mine", "wordy", "-r", "bm25", "-k", "10000", "--data", data, cwd=tmp_path).stdout
    (numbers,) = re.findall(r"(\d+) queries x 10,?000", deep)
    rows = re.findall(r"^│ (?:negatives|left out|fewer)[^│]*│ +([\d,]+)", deep, flags=re.MULTILINE)
    assert sum(int(n.replace(",", "")) for n in rows) == int(numbers) * 10_000


def test_a_copy_of_a_right_passage_is_right() -> None:
    """As in E-VQA's pool, some of whose passages count as another one."""
    pool = {
        "passage_id": ["a", "b", "c", "d"],
        "passage_content": ["one", "two", "three", ""],
        "scored_as": [None, "a", "nobody", "b"],
    }
    asked = {
        "question_id": ["q", "r"],
        "pos_item_ids": [["a"], ["c", "lost"]],
        "answers": [None, ["E"]],
    }
    split: Any = SimpleNamespace(
        passages_view=Passages(Dataset.from_dict(pool)),
        queries_view=Queries(Dataset.from_dict(asked)),
    )
    right = RightPassages(split)
    rows = np.arange(4)
    held = [right.hold(np.full(4, q), right.counted_as(rows)).tolist() for q in (0, 1)]
    assert held == [[True, True, False, False], [False, False, True, False]]
    assert right.rows.tolist() == [0, 2]
    answers = QueryAnswers(split)
    assert not len(answers.within(rows[:0], rows[:0]))
    assert answers.within(np.repeat([0, 1], 4), np.tile(rows, 2)).tolist() == [
        *[False] * 4, True, False, True, False
    ]  # fmt: skip
