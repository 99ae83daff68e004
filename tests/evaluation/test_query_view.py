"""One query as it is looked at: it says what the metrics count."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import m2kr
from m2kr.data.load import load
from m2kr.data.records import Passages
from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.evaluation.query_view import QueryView
from m2kr.evaluation.rankings import open_run
from m2kr.evaluation.result import Result
from m2kr.evaluation.result_data import open_split
from m2kr.report.page.folder import write_report
from m2kr.retrieval.run import Run

IDS = ["a/b", "50%", "späce d", "🦒", "n'o\"q", "-x", "#1", "1"]
PASSAGES = [{"id": name, "text": f"Text of {name}: Gold number {n}."} for n, name in enumerate(IDS)]
TWINS = [{"id": f"{name}#2", "text": "Silver."} for name in IDS[:4]]


def build(data: Path, text: str = "what is it", **options) -> m2kr.Split:
    """A source with grades 1 and 2 (right from 2), twins, and a picture for every second query."""
    photos = data.parent / "photos"
    photos.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (6, 4), (200, 0, 0)).save(photos / "red.png")
    queries = [
        {
            "id": f"q {n}/{name}",
            "question": f"{text} {n}",
            "positives": {name: 2, IDS[n - 1]: 1, IDS[n - 2]: 3, f"gone {n}": 2},
            "answers": ["gold", ""] if n % 2 else [],
            "image": "red.png" if n % 2 else None,
        }
        for n, name in enumerate(IDS)
    ]
    return m2kr.from_records(
        [*PASSAGES, *TWINS],
        queries,
        name="pets",
        images=photos,
        data=data,
        drop_missing=True,
        relevance_threshold=2,
        edition="pets",
        **options,
    )


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> m2kr.Split:
    split = build(tmp_path_factory.mktemp("show") / "data")
    # As of the authors' release of E-VQA, whose pool has some ids twice.
    twins = [p["id"].removesuffix("#2") if "#" in p["id"][1:] else None for p in PASSAGES + TWINS]
    pool = split.passages.add_column("scored_as", twins)
    split.__dict__["passages_view"] = Passages(pool, split.images)
    return split


def some_run(split: m2kr.Split, seed: int) -> Run:
    chance = random.Random(seed)
    ids = [*IDS, *(twin["id"] for twin in TWINS)]
    return Run.from_dict(
        {
            query: {
                p: chance.choice([1.0, 2.0, 3.0]) for p in chance.sample(ids, chance.randrange(13))
            }
            for query in split.queries_view.column("question_id")
        },
        name="dice",
    )


@pytest.fixture(scope="module")
def result(split: m2kr.Split, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """As it is read from its file."""
    out = tmp_path_factory.mktemp("results")
    made = m2kr.evaluate(split, some_run(split, 0), k=12, out=out)[0]
    assert made.path is not None
    return Result.load(made.path)


@pytest.mark.parametrize("seed", range(4))
def test_a_view_says_what_the_metrics_count(split, seed):
    run = some_run(split, seed)
    names = "mrr@12,hit_rate@1,hit_rate@3,set_recall@12,pseudo_recall@1"
    scored = m2kr.evaluate(split, run, k=12, metrics=names)[0]
    for n, query in enumerate(scored.query_ids):
        view = QueryView.of(split, query, run, k=12)
        score = {name: values[n] for name, values in scored.scores.items()}
        assert (1 / view.first_right if view.first_right else 0) == score["mrr@12"]
        assert (view.first_right == 1) == score["hit_rate@1"]
        assert any(p.right for p in view.ranked[:3]) == score["hit_rate@3"]
        right = [p for p in view.ranked if p.right]
        assert len(right) / len(view.positives) == pytest.approx(score["set_recall@12"])
        assert sorted(p.rank for p in view.positives if p.rank) == [p.rank for p in right]
        assert [p.passage_id for p in view.ranked] == run.passage_ids(query)
        assert [p.score for p in view.ranked] == run.scores(query).tolist()
        if view.row["answers"]:  # one of which is blank, and in every text
            assert score["pseudo_recall@1"] == bool(view.ranked)


def test_what_a_view_holds(split):
    query = f"q 1/{IDS[1]}"
    run = Run.from_dict({query: {"50%#2": 3.0, "nowhere": 2.0, "50%": 1.0}}, name="mine")
    view = QueryView.of(split, query, run, k=2)
    assert [(p.rank, p.right, p.grade, p.text is None) for p in view.ranked] == [
        (1, True, 2.0, False),
        (2, False, 0.0, True),
    ]
    assert (view.depth, view.first_right, view.run) == (3, 1, "mine")
    assert {p.passage_id: (p.grade, p.text is None) for p in view.positives} == {
        "50%": (2.0, False),
        IDS[-1]: (3.0, False),
        "gone 1": (2.0, True),
    }
    gold = view.positives[0]
    assert [gold.text[a:b] for a, b in gold.answers] == ["Gold"]
    assert view.image.size == (6, 4)
    assert view.image_fault == ""


def test_each_grade_is_shown_where_one_is_not_1(split):
    query = f"q 1/{IDS[1]}"
    lines = repr(
        QueryView.of(split, query, Run.from_dict({query: {IDS[0]: 2.0, IDS[3]: 1.0}}))
    ).splitlines()
    assert [line.split("grade ")[1][0] for line in lines if "grade " in line] == list("1232")
    assert any(IDS[3] in line and "grade" not in line for line in lines)


def test_without_a_run_and_of_a_run_without_the_query(split):
    query = f"q 2/{IDS[2]}"
    alone = QueryView.of(split, query)
    assert (alone.run, alone.depth, alone.ranked, alone.first_right) == (None, None, (), None)
    other = QueryView.of(split, query, Run.from_dict({"q": {}}, name="other"))
    assert (other.run, other.depth, other.ranked) == ("other", None, ())
    empty = QueryView.of(split, query, Run.from_dict({query: {}}, name="none"))
    assert (empty.depth, empty.ranked, empty.first_right) == (0, (), None)
    assert alone.image is None
    assert alone.image_fault == ""


def test_a_missing_image_is_said_and_no_error(tmp_path):
    split = build(tmp_path / "data")
    (tmp_path / "photos" / "red.png").unlink()
    view = QueryView.of(load("pets", data=tmp_path / "data"), f"q 1/{IDS[1]}")
    assert view.image is None
    assert view.image_fault
    assert split.label


def test_a_result_opens_its_split_wherever_it_lies(split, result, tmp_path, monkeypatch):
    monkeypatch.setenv("M2KR_DATA", str(tmp_path / "empty"))
    query = result.query_ids[3]
    assert open_split(result).folder == split.folder
    assert result.show(query, 2).ranked == QueryView.of(split, query, result.load_run(), 2).ranked
    copy = tmp_path / "copy"
    shutil.copytree(split.folder.parent, copy)
    assert open_split(result, data=copy).folder.parent == copy
    moved = tmp_path / "moved"
    moved.mkdir()
    gone = result.experiment | {"data": str(tmp_path / "gone" / "pets")}
    there = Result.load(replace(result, experiment=gone, run=result.load_run()).save(moved))
    assert there.load_run() == result.load_run()
    with pytest.raises(MissingError, match="is not here"):
        open_split(there)
    monkeypatch.setenv("M2KR_DATA", str(copy))
    assert open_split(there).folder.parent == copy


@pytest.mark.parametrize(("ties", "rank"), [("m2kr", 2), ("trec", 1)])
def test_passages_that_score_alike_are_shown_in_the_order_that_was_scored(tmp_path, ties, rank):
    passages = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]
    queries = [{"id": "q 1", "question": "?", "positives": ["b"]}]
    flat = m2kr.from_records(passages, queries, name="flat", data=tmp_path)
    run = Run.from_dict({"q 1": {"a": 1.0, "b": 1.0}})
    (result,) = m2kr.evaluate(flat, run, ties=ties, metrics="mrr@5")
    assert result.value("mrr@5") == 1 / rank
    path = result.save(tmp_path / "results")
    assert result.show("q 1").first_right == Result.load(path).show("q 1").first_right == rank
    assert QueryView.of(flat, "q 1", open_run(path, flat)).first_right == rank
    report = write_report([result], tmp_path / "out").parent
    assert f'"ranks":[[{rank}]]' in (report / "0" / "list-0.js").read_text(encoding="utf-8")


def test_a_split_that_was_built_anew_is_refused(result, tmp_path):
    other = tmp_path / "data"
    build(other, text="what was it")
    old = replace(result, experiment=result.experiment | {"data": str(other / "pets")})
    with pytest.raises(CheckError, match="built anew") as error:
        open_split(old, data=other)
    assert str(other) in str(error.value)


def test_rankings_that_are_not_the_results_own_are_refused(result, split, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(result.path.parent, folder)
    moved = Result.load(folder / result.path.name)
    assert moved.load_run() == result.load_run()
    (run,) = folder.glob("*.run.parquet")
    some_run(split, 5).save(run)
    with pytest.raises(CheckError, match="not the rankings"):
        Result.load(moved.path).load_run()
    run.unlink()
    with pytest.raises(MissingError, match="not beside it"):
        Result.load(moved.path).load_run()


@pytest.mark.parametrize(("query", "k"), [(3, 5), (None, 5), (f"q 2/{IDS[2]}", -1)])
def test_what_is_no_id_and_no_depth(split, query, k):
    with pytest.raises(UsageError, match=r"is no id|k is -1"):
        QueryView.of(split, query, k=k)


def test_an_answer_longer_than_what_is_shown(tmp_path):
    text = "x" * 3000
    odd = m2kr.from_records(
        [{"id": "p", "text": f"a {text} b"}],
        [{"id": "q", "question": "?", "positives": ["p"], "answers": [text, *map(str, range(40))]}],
        data=tmp_path,
    )
    shown = QueryView.of(odd, "q")
    assert "**xxx" in repr(shown)
    assert "and 29 more" in repr(shown)
    assert len(repr(shown)) < 4500


def test_an_unknown_query_names_the_nearest(split):
    with pytest.raises(InputError, match="no query") as error:
        QueryView.of(split, "q 1/50")
    assert "q 1/50%" in str(error.value)
