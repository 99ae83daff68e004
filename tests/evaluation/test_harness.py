import json
import logging
import re

import numpy as np
import pytest
from support.progress import Recorder
from support.scores import score
from support.toys import PASSAGES, QUERIES, Dense, image_folder, toy_split

from m2kr.data.images.store import ImageStore
from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.result import Result
from m2kr.fingerprint import images_part
from m2kr.report.tables import rows
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.retrieval.search_split import search_split

RANKING = {
    "q1": {"p/dog": 2, "p/apple": 1},
    "q2": {"p/bear": 2, "p/apple": 1},
    "q3": {},
    "q4": {"p/dog": 1},
}


class Fixed:
    """Answers with what it was given."""

    name = "fixed"
    settings = {"knob": 1}  # noqa: RUF012

    def __init__(self, ranking=RANKING, modalities=None):
        self.ranking, self.modalities = ranking, modalities or Modalities()

    def index(self, passages, *, workdir):
        (workdir / "index.bin").write_bytes(b"x" * 100)

    def search(self, queries, k):
        return Run.from_dict(self.ranking)


def values(result):
    return {name: facts["value"] for name, facts in result.metrics.items()}


def test_a_result_by_hand():
    result = evaluate_split(toy_split(), Fixed(), k=5)
    # q4 has no right passage, q3 no answer; q4's blank answer is in every text.
    assert values(result) == {
        "hit_rate@1": 1 / 3,
        "hit_rate@5": 2 / 3,
        "pseudo_recall@1": 2 / 3,
        "pseudo_recall@5": 1.0,
        "pseudo_recall_nonempty@1": 1 / 2,
        "pseudo_recall_nonempty@5": 1.0,
        "pseudo_recall_words@1": 2 / 3,
        "pseudo_recall_words@5": 1.0,
        "set_recall@1": (0 + 1 / 2 + 0) / 3,
        "set_recall@5": (1 + 1 / 2 + 0) / 3,
    }
    hit = result.metrics["hit_rate@5"]
    assert hit["n"] == 3
    assert 0 <= hit["low"] <= hit["value"] <= hit["high"] <= 1
    assert result.counts == {
        "queries": 4,
        "passages": 4,
        "queries_without_positives": 1,
        "queries_without_answers": 1,
        "queries_with_empty_answer": 1,
        "empty_rankings": 1,
        "short_rankings": 4,
    }
    fruit = result.groups["kind"]["fruit"]
    assert fruit["n"] == 2
    assert {name: facts["value"] for name, facts in fruit["metrics"].items()} == {
        "hit_rate@1": 0.0,
        "hit_rate@5": 0.5,
        "pseudo_recall@1": 0.0,
        "pseudo_recall@5": 1.0,
        "pseudo_recall_nonempty@1": 0.0,
        "pseudo_recall_nonempty@5": 1.0,
        "pseudo_recall_words@1": 0.0,
        "pseudo_recall_words@5": 1.0,
        "set_recall@1": 0.0,
        "set_recall@5": 0.5,
    }
    assert fruit["metrics"]["hit_rate@5"]["n"] == 2
    assert fruit["metrics"]["pseudo_recall@5"]["n"] == 1
    assert result.groups["kind"]["(none)"]["n"] == 1
    assert "hit_rate@5" not in result.groups["kind"]["(none)"]["metrics"]


def test_all_groupings_are_shown(tmp_path):
    split = toy_split()
    split.manifest["groups"] = ["kind", "img_path", "instruction"]
    result = evaluate_split(split, Fixed(), k=5, metrics="hit_rate@5", workdir=tmp_path)
    _, body = rows([result])
    assert [line[2] for line in body[1:]] == [
        *("(none) 1", "animal 1", "fruit 2"),
        *("(none) 2", "a.png 1", "b.png 1"),  # and all have one instruction: that is no group
    ]


def test_provenance_is_in_the_result(tmp_path):
    split = toy_split()
    result = evaluate_split(split, Fixed(), k=5, metrics="hit_rate@5", workdir=tmp_path)
    assert (result.source, result.split, result.edition, result.k) == ("toy", "test", "here", 5)
    assert result.retriever == {
        "name": "fixed",
        "settings": {"knob": 1},
        "modalities": {"query": ["text"], "passage": ["text"]},
        "arguments": {"ranking": RANKING},
    }
    assert result.fingerprints == {**split.fingerprints, "images": None}
    assert result.run_sha256 == Run.from_dict(RANKING).sha256()
    assert result.bytes_per_passage == 25
    assert set(result.seconds) == {"load", "encode", "index", "search", "score", "total"}
    assert result.peak_memory_bytes > 1 << 20
    assert {"m2kr", "python", "numpy", "pyarrow", "platform"} <= set(result.versions)
    assert (result.headline, result.partial, result.comparable) == ("hit_rate@5", False, "")
    assert result.query_ids == tuple(QUERIES)
    assert result.scores["hit_rate@5"].tolist()[:3] == [1, 1, 0]
    assert np.isnan(result.scores["hit_rate@5"][3])
    assert result.value("hit_rate@5") == 2 / 3
    assert result.value("mrr@10") is None


def test_results_are_saved_and_read_back(tmp_path):
    result = evaluate_split(toy_split(), Fixed(), k=5)
    result.save(tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [f"{result.name}.{e}" for e in ("json", "queries.parquet", "run.parquet")]
    assert re.fullmatch(r"toy\.test\.fixed\.[0-9a-f]{8}", result.name)
    loaded = Result.load(tmp_path / f"{result.name}.json")
    assert loaded.as_dict() == result.as_dict() | {"files": loaded.files}
    assert loaded.query_ids == result.query_ids
    for name, scores in result.scores.items():
        assert np.array_equal(loaded.scores[name], scores, equal_nan=True)
    run = Run.load(tmp_path / loaded.files["run"])
    assert run.sha256() == result.run_sha256
    assert run.metadata["fingerprints"] == dict(toy_split().fingerprints)
    json.loads((tmp_path / f"{result.name}.json").read_text(), parse_constant=pytest.fail)


def test_a_replayed_run_scores_the_same(tmp_path):
    split = toy_split()
    result = evaluate_split(split, Fixed(), k=5)
    result.save(tmp_path)
    path = tmp_path / f"{result.name}.run.parquet"
    again = evaluate_split(split, RunRetriever(path))
    assert again.metrics == result.metrics
    assert again.run_sha256 == result.run_sha256
    assert (again.k, again.retriever["name"]) == (5, "fixed")
    assert again.retriever["settings"] == result.retriever["settings"]


def test_short_lists_are_scored_and_what_a_run_can_not_tell_is_refused():
    short = Run.from_dict(RANKING)  # lists of two and one: nothing else was found
    result = score(toy_split(), short)
    assert {"hit_rate@10", "mrr@10"} <= result.metrics.keys()
    assert "hit_rate@20" not in result.metrics
    assert score(toy_split(), short, "hit_rate@50").value("hit_rate@50") == 2 / 3
    made = short.named("two", k=2)  # whoever made it asked for no more
    assert score(toy_split(), made).k == 2
    assert "hit_rate@5" not in score(toy_split(), made).metrics
    with pytest.raises(UsageError, match=r"made 2 deep(.|\n)*--k 5"):
        score(toy_split(), made, "hit_rate@5")
    with pytest.raises(UsageError, match=r"k is 2(.|\n)*--k 5"):
        evaluate_split(toy_split(), Fixed(), k=2, metrics="hit_rate@5")
    assert "made 2 deep" in score(toy_split(), made, k=50).notes[0]
    for told in (score(toy_split(), short, k=50), score(toy_split(), short, "hit_rate@50")):
        assert "has 2 passages, and it is scored to rank 50" in told.notes[0]


def test_deeper_runs_are_cut():
    deep = {q: {p: -i for i, p in enumerate(PASSAGES)} for q in QUERIES}
    result = evaluate_split(toy_split(), Fixed(deep), k=2)
    assert result.run == Run.from_dict(deep).top(2)
    assert result.counts["short_rankings"] == 0


def test_named_metrics_stay_even_if_undefined():
    queries = {q: (*row[:2], [], *row[3:]) for q, row in QUERIES.items()}
    split = toy_split(queries=queries)
    assert not any(n.startswith("pseudo") for n in evaluate_split(split, Fixed(), k=5).metrics)
    named = evaluate_split(split, Fixed(), k=5, metrics="pseudo_recall@5").metrics
    assert named == {"pseudo_recall@5": {"value": None, "low": None, "high": None, "n": 0}}


def test_scoring_a_shallow_cut_reads_the_right_texts():
    """Metrics at 1 are computed on a cut run whose vocabulary is smaller."""
    full = evaluate_split(toy_split(), Fixed(), k=5)
    assert values(evaluate_split(toy_split(), Fixed(), k=5, metrics="pseudo_recall@1")) == {
        "pseudo_recall@1": full.value("pseudo_recall@1")
    }


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        (
            {q: r for q, r in RANKING.items() if q != "q3"},
            r"lacks 1 queries \(of 4\), such as 'q3'",
        ),
        (RANKING | {"q9": {}}, r"1 of the run's 5 queries are unknown: not among the 4 .* 'q9'"),
        (RANKING | {"q1": {"p/apple": 2, "nowhere": 1}}, "ranks 1 passages .* 'nowhere'"),
    ],
)
def test_incomplete_and_foreign_runs_are_refused(ranking, message):
    with pytest.raises(CheckError, match=message):
        evaluate_split(toy_split(), Fixed(ranking), k=5)
    with pytest.raises(CheckError, match=message):
        score(toy_split(), Run.from_dict(ranking))


def test_a_run_made_for_another_pool_is_warned_about(caplog):
    run = evaluate_split(toy_split(), Fixed(), k=5).run
    other = toy_split(passages=PASSAGES | {"p/dog": "Dogs bark!"})
    with caplog.at_level(logging.WARNING, "m2kr"):
        result = score(other, run)
    assert "was made for another pool" in caplog.text
    assert "made for another pool" in " ".join(result.notes)
    assert "another pool" not in " ".join(score(toy_split(), run).notes)


def test_a_split_without_judgements_can_be_searched_but_not_scored():
    split = toy_split(judged=False)
    with pytest.raises(MissingError, match="can be searched but not scored"):
        evaluate_split(split, Fixed(), k=5)
    assert search_split(split, Fixed(), k=5).run == Run.from_dict(RANKING)


def test_answers_alone_allow_pseudo_recall():
    queries = {q: (row[0], [], *row[2:]) for q, row in QUERIES.items()}
    found = evaluate_split(toy_split(queries=queries), Fixed(), k=5)
    assert found.value("pseudo_recall@5") == 1
    assert not any(n.startswith("hit_rate") for n in found.metrics)


SEEING = Modalities(frozenset({"text", "image"}))


class Untouched(Fixed):
    def index(self, passages, *, workdir):
        pytest.fail("encoding began before the images were checked")


def test_missing_images_stop_before_indexing(tmp_path):
    images = ImageStore(image_folder(tmp_path, "a.png"))
    with pytest.raises(MissingError, match=r"1 of 2 images found.*b\.png"):
        evaluate_split(toy_split(images), Untouched(modalities=SEEING))
    with pytest.raises(MissingError, match="no image root"):
        evaluate_split(toy_split(None), Untouched(modalities=SEEING))
    # Who reads no images needs none.
    assert evaluate_split(toy_split(images), Fixed(), k=5).images is None


def test_tolerated_gaps_are_counted_and_marked(tmp_path):
    images = ImageStore(image_folder(tmp_path, "a.png"), missing="black")
    result = evaluate_split(toy_split(images), Fixed(modalities=SEEING), k=5)
    assert result.images == {"policy": "black", "total": 2, "found": 1, "missing": ["b.png"]}
    assert result.comparable == "1 of 2 images missing (black)"


def test_what_was_done_about_a_missing_image_is_in_the_images_fingerprint(tmp_path):
    folder = image_folder(tmp_path, "a.png")
    seen = [
        evaluate_split(toy_split(ImageStore(folder, missing=policy)), Fixed(modalities=SEEING), k=5)
        for policy in ("black", "skip")
    ]
    a = ImageStore(folder).sha256("a.png")
    none = images_part([("q1", a), ("q2", None), ("q3", None), ("q4", None)])
    assert len({none, *(result.fingerprints["images"] for result in seen)}) == 3


def test_the_images_fingerprint_is_of_the_query_images(tmp_path):
    images = ImageStore(image_folder(tmp_path, "a.png", "b.png"))
    result = evaluate_split(toy_split(images), Fixed(modalities=SEEING), k=5)
    a, b = images.sha256("a.png"), images.sha256("b.png")
    expected = images_part([("q1", a), ("q2", None), ("q3", b), ("q4", None)])
    assert result.fingerprints["images"] == expected
    on_passages = Modalities(frozenset({"text"}), frozenset({"image"}))
    assert (
        evaluate_split(toy_split(images), Fixed(modalities=on_passages), k=5).fingerprints["images"]
        is None
    )


def test_manifest_notes_reach_the_result():
    split = toy_split()
    split.manifest |= {"partial": True, "comparable": "a partial build (--limit)"}
    result = evaluate_split(split, Fixed(), k=5)
    assert result.partial
    assert result.comparable == "a partial build (--limit)"


def test_stages_are_reported():
    told = Recorder()
    evaluate_split(toy_split(), Dense(4), k=5, progress=told)
    assert [call for call in told.calls if call[::2] != ("advance", 0)] == [
        ("start", "index", 4),
        ("start", "encode document", 4),
        ("advance", "encode document", 4),
        ("done", "encode document", 0),
        ("done", "index", 0),
        ("start", "search", 4),
        ("start", "encode query", 4),
        ("advance", "encode query", 4),
        ("done", "encode query", 0),
        ("done", "search", 0),
        ("start", "score", 4),
        ("done", "score", 0),
    ]


def test_broken_retrievers_and_arguments_are_named():
    bad = Fixed()
    bad.search = lambda queries, k: {"q1": {}}
    with pytest.raises(InputError, match="returned dict"):
        evaluate_split(toy_split(), bad)
    bad = Fixed()
    bad.settings = {"model": object()}
    with pytest.raises(InputError, match="settings"):
        evaluate_split(toy_split(), bad)
    with pytest.raises(UsageError, match="k is 0"):
        evaluate_split(toy_split(), Fixed(), k=0)
    with pytest.raises(UsageError, match="hit_rate@5"):
        evaluate_split(toy_split(), Untouched(), metrics="recall@5")


def test_repeated_ids_in_the_pool_are_ranked_once(tmp_path):
    from datasets import Dataset

    from m2kr.data.records import Passages

    split = toy_split()
    pool = Dataset.from_dict(
        {
            "passage_id": ["a", "b", "a"],
            "passage_content": ["aa", "b", "aaa"],
            "img_path": [None] * 3,
        }
    )
    split.passages_view = Passages(pool)
    run = search_split(split, Dense(), k=5, workdir=tmp_path).run
    assert run.to_dict()["q1"] == {"a": 3.0, "b": 0.0}


def test_file_names_are_safe(tmp_path):
    odd = Fixed()
    odd.name = "../my model:v1"
    path = evaluate_split(toy_split(), odd, k=5).save(tmp_path)
    assert re.fullmatch(r"toy\.test\.-my-model-v1\.[0-9a-f]{8}\.json", path.name)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', '{"format": "m2kr-result-1"}'])
def test_other_files_are_no_results(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.json"):
        Result.load(path)
    with pytest.raises(MissingError):
        Result.load(tmp_path / "none.json")
