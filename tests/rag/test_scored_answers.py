"""Scored answers: means, intervals, groups, what can't be judged, and files of verdicts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import m2kr
from m2kr.errors import CheckError, UsageError
from m2kr.evaluation.significance import bootstrap_interval
from m2kr.rag.answer_in_passage import answers_in_passages
from m2kr.rag.scored_answers import require_verdicts_file, save_verdicts, score_answers
from m2kr.rag.scorer import GoldAnswer, MeanScorer, Verdict
from m2kr.rag.scorer_registry import default_scorers, open_scorer, scorer_name, scorer_names
from m2kr.rag.scorers.exact_match import ExactMatchScorer
from m2kr.rag.scorers.infoseek import InfoseekScorer

GROUPS = ("val_unseen_entity", "val_unseen_question")
GOLDS = {
    str(n): GoldAnswer(str(n), "?", ("pear",), ("String", "Time")[n % 2], GROUPS[n % 3 == 0])
    for n in range(60)
}
SAID = {str(n): "pear" if n % 4 else "fig" for n in range(60)}


def test_mean_interval_and_groups() -> None:
    scored = score_answers(SAID, GOLDS, ExactMatchScorer())
    told = scored.as_dict()
    scores = np.array([float(n % 4 > 0) for n in range(60)])
    assert told["score"]["value"] == pytest.approx(0.75)
    assert (told["score"]["low"], told["score"]["high"]) == bootstrap_interval(scores)
    assert told["bounds"] is None
    assert told["rules"] == {"exact match": 45, "no match": 15}
    by_type = told["groups"]["question_type"]
    assert by_type["String"]["value"] == pytest.approx(15 / 30)
    assert by_type["Time"]["value"] == 1
    assert {name: group["n"] for name, group in told["groups"]["group"].items()} == dict(
        zip(GROUPS, (40, 20), strict=True)
    )
    assert json.loads(json.dumps(told)) == told


def test_the_order_of_the_answers_is_nothing() -> None:
    one = score_answers(SAID, GOLDS, InfoseekScorer()).as_dict()
    turned = dict(reversed(SAID.items()))
    assert score_answers(turned, dict(reversed(GOLDS.items())), InfoseekScorer()).as_dict() == one


def test_infoseeks_figures_have_intervals_that_hold_them() -> None:
    told = score_answers(SAID, GOLDS, InfoseekScorer()).as_dict()["totals"]
    assert set(told) == {"accuracy", "unseen_entity", "unseen_question", "harmonic_mean"}
    for total in told.values():
        assert total["low"] < total["value"] < total["high"]
    scores = np.array([float(n % 4 > 0) for n in range(60)])
    assert (told["accuracy"]["low"], told["accuracy"]["high"]) == bootstrap_interval(scores)
    parts = [told[name]["value"] for name in ("unseen_entity", "unseen_question")]
    assert told["harmonic_mean"]["value"] == pytest.approx(2 / sum(1 / part for part in parts))


class Soft(MeanScorer):
    """Scores of many values, and a figure of its own."""

    name = "soft"

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        return Verdict(int(gold.question_id) % 7 / 10, "rule")

    def totals(
        self, verdicts: Sequence[Verdict], golds: Sequence[GoldAnswer]
    ) -> Mapping[str, float]:
        return {"above": sum((v.score or 0) > 0.4 for v in verdicts) / len(golds)}


@pytest.mark.parametrize("scorer", [Soft(), InfoseekScorer()])
def test_no_digit_depends_on_the_order_of_the_questions(scorer: MeanScorer) -> None:
    one = score_answers(SAID, GOLDS, scorer).as_dict()
    for order in (reversed(GOLDS), sorted(GOLDS, key=lambda i: (int(i) * 37) % 61)):
        assert score_answers(SAID, {i: GOLDS[i] for i in order}, scorer).as_dict() == one


def test_a_figure_of_a_scorer_of_ones_own_has_an_interval() -> None:
    told = score_answers(SAID, GOLDS, Soft()).as_dict()["totals"]["above"]
    assert (told["value"], told["n"]) == (16 / 60, 60)
    # The standard error is about .057.
    assert told["low"] == pytest.approx(0.155, abs=0.04)
    assert told["high"] == pytest.approx(0.38, abs=0.04)


class Unsure(MeanScorer):
    """Judges each second answer alone."""

    name = "unsure"

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        return Verdict(1.0 if int(gold.question_id) % 2 else None, prediction)


def test_what_can_not_be_judged_is_never_0() -> None:
    told = score_answers(SAID, GOLDS, Unsure()).as_dict()
    unknown = {"value": None, "low": None, "high": None}
    assert told["score"] == unknown | {"n": 30, "least": 0.5, "most": 1.0}
    assert told["bounds"] == {"unjudged": 30, "all_wrong": 0.5, "all_right": 1.0}
    strings = told["groups"]["question_type"]["String"]
    assert strings == unknown | {"n": 0, "least": 0.0, "most": 1.0}


def test_questions_without_a_usable_answer_are_left_out_and_counted() -> None:
    golds = {"1": GOLDS["1"], "2": GoldAnswer("2", "?", (), "Numerical", None, 7.0)}
    told = score_answers({"1": "pear", "2": "7"}, golds, ExactMatchScorer()).as_dict()
    assert (told["score"]["value"], told["score"]["n"], told["undefined"]) == (1.0, 1, 1)
    assert told["bounds"] is None
    assert told["groups"]["question_type"]["Numerical"]["n"] == 0


def test_every_question_needs_an_answer() -> None:
    with pytest.raises(UsageError, match="1 questions have no answer"):
        score_answers({"1": "pear"}, {"1": GOLDS["1"], "2": GOLDS["2"]}, ExactMatchScorer())


@pytest.mark.parametrize("name", ["v.jsonl", "v.parquet"])
def test_files_of_verdicts(tmp_path: Path, name: str) -> None:
    gold = GoldAnswer("n", "how tall?", ("7",), "Numerical", None, 7.0, (6.3, 7.7))
    golds = {"n": gold, "s": GoldAnswer("s", "=1+1", ("naïve",))}
    answers = {"n": "7 m", "s": "naive"}
    scored = [score_answers(answers, golds, scorer) for scorer in (InfoseekScorer(), Unsure2())]
    path = save_verdicts(scored, tmp_path / name)
    if name.endswith("parquet"):
        rows = [
            row | {"detail": json.loads(row["detail"])} for row in pq.read_table(path).to_pylist()
        ]
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["question_id"], row["scorer"], row["score"]) for row in rows] == [
        ("n", "infoseek", 1.0),
        ("s", "infoseek", 0.0),
        ("n", "unsure", None),
        ("s", "unsure", None),
    ]
    assert rows[0]["detail"] == {"accepted": [6.3, 7.7], "number": 7.0}
    assert rows[0]["value_range"] == [6.3, 7.7]
    assert rows[1]["answers"] == ["naïve"]
    assert rows[1]["answer"] == "naive"


class Unsure2(Unsure):
    """Judges none."""

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        return Verdict(None, "too hard")


def test_verdicts_never_overwrite_the_answers(tmp_path: Path) -> None:
    answers = tmp_path / "a.jsonl"
    answers.write_text("{}")
    with pytest.raises(UsageError, match="a file that is read"):
        require_verdicts_file(tmp_path / "." / "a.jsonl", answers)
    with pytest.raises(UsageError, match=r"\.jsonl or \.parquet"):
        require_verdicts_file(tmp_path / "v.csv", answers)
    with pytest.raises(UsageError, match="a file that is read"):
        require_verdicts_file(tmp_path / "gold.jsonl", answers, tmp_path / "gold.jsonl")
    require_verdicts_file(tmp_path / "v.jsonl", answers)


# --- scorers by name -------------------------------------------------------------------------------


def test_scorers_by_name() -> None:
    for name in scorer_names():
        assert scorer_name(name) == name
    others = {
        "exact-match": "exact_match",
        "EM": "exact_match",
        "OK-VQA": "okvqa",
        "F1": "token_f1",
    }
    for spec, name in others.items():
        assert open_scorer(spec, {}).name == name
    with pytest.raises(UsageError, match="did you mean 'infoseek'"):
        open_scorer("infoseeek", {})
    with pytest.raises(UsageError, match="one of okvqa"):
        open_scorer("bleu", {})


def test_each_source_has_its_own() -> None:
    assert default_scorers("okvqa") == ["okvqa"]
    assert default_scorers("infoseek") == ["infoseek"]
    assert default_scorers("evqa") == ["evqa"]
    assert default_scorers("mini") == default_scorers("mine") == ["exact_match", "token_f1"]


# --- answers in passages ----------------------------------------------------------------------------

PASSAGES = {
    "p0": "A pear tree.",
    "p1": "Spearmint is a herb.",
    "p2": "The FIG is sweet.",
    "p3": "Nothing.",
}
QUERIES: Sequence[Mapping[str, object]] = (
    {"id": "in", "question": "a", "positives": ["p0"], "answers": [" Pear "]},
    {"id": "within", "question": "b", "positives": ["p0"], "answers": ["pear"]},
    {"id": "second", "question": "c", "positives": ["p0"], "answers": ["plum", "fig"]},
    {"id": "none", "question": "d", "positives": ["p0"], "answers": ["quince"]},
    {"id": "empty", "question": "e", "positives": ["p0"], "answers": ["nothing"]},
    {"id": "open", "question": "f", "positives": ["p0"]},
)
RANKED = {
    "in": ["p0", "p1"],
    "within": ["p1", "p0"],
    "second": ["p3", "p2"],
    "none": ["p0", "p1", "p2", "p3"],
    "empty": [],
    "open": ["p0"],
}


def ranked(lists: Mapping[str, Sequence[str]]) -> m2kr.Run:
    return m2kr.Run.from_dict(
        {q: {p: 1.0 - n / 10 for n, p in enumerate(ids)} for q, ids in lists.items()}
    )


def test_answers_in_the_first_k_passages(tmp_path: Path) -> None:
    split = m2kr.from_records(PASSAGES, QUERIES, name="own", data=tmp_path)
    ranks = answers_in_passages(split, ranked(RANKED))
    assert ranks.question_ids == ("in", "within", "second", "none", "empty")
    assert ranks.within.tolist() == [1, 1, 2, np.inf, np.inf]
    assert ranks.words.tolist() == [1, 2, 2, np.inf, np.inf]
    assert {k: ranks.shares(k)["within"]["value"] for k in (1, 2, 10)} == {1: 0.4, 2: 0.6, 10: 0.6}
    assert {k: ranks.shares(k)["words"]["value"] for k in (1, 2, 10)} == {1: 0.2, 2: 0.6, 10: 0.6}
    assert ranks.shares(1)["within"]["n"] == 5
    # Queries that a run lacks have no passages; its order is nothing.
    few = answers_in_passages(split, ranked({"second": RANKED["second"], "in": RANKED["in"]}))
    assert few.within.tolist() == [1, np.inf, 2, np.inf, np.inf]
    with pytest.raises(CheckError, match="1 passages of the run are not in the pool: 'p9'"):
        answers_in_passages(split, ranked({"in": ["p9"]}))


def test_blank_answers_are_in_no_passage(tmp_path: Path) -> None:
    split = m2kr.from_records(PASSAGES, QUERIES, name="own", data=tmp_path)
    golds = {
        "in": GoldAnswer("in", "?", ("", "quince")),
        "none": GoldAnswer("none", "?", ("", " ")),
    }
    ranks = answers_in_passages(split, ranked(RANKED), golds)
    assert ranks.question_ids == ("in",)
    assert ranks.within.tolist() == [np.inf]
    assert answers_in_passages(split, ranked(RANKED), {}).shares(1)["words"]["value"] is None


def test_it_equals_pseudo_recall(mini_root: Path) -> None:
    split = m2kr.load("mini", "valid", data=mini_root)
    pool = split.passages_view.ids.to_pylist()
    lists = {
        query["question_id"]: [*pool[n * 8 : n * 8 + 4], *query["pos_item_ids"][n % 3 : 3]]
        for n, query in enumerate(split)
    }
    run = ranked({query: list(dict.fromkeys(ids)) for query, ids in lists.items()})
    (result,) = m2kr.evaluate(split, run, k=10)
    ranks = answers_in_passages(split, run)
    for kind, metric in (("within", "pseudo_recall"), ("words", "pseudo_recall_words")):
        for k in (1, 5, 10):
            found, scored = ranks.shares(k)[kind], result.metrics[f"{metric}@{k}"]
            assert (found["value"], found["n"]) == (pytest.approx(scored["value"]), scored["n"])
            assert 0 < scored["value"] < 1
