"""E-VQA's scorer: hand-worked cases, a naive version on random texts, and BEM where it decides."""

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_bem import save_bem

from m2kr.errors import M2KRError, MissingError, UsageError
from m2kr.rag.scorer import NO_GOLD, GoldAnswer, Verdict
from m2kr.rag.scorers.bem import Bem
from m2kr.rag.scorers.evqa import EvqaScorer


def gold(
    *answers: str, kind: str | None = "templated", question: str = "who built it?"
) -> GoldAnswer:
    return GoldAnswer("q1", question, answers, question_type=kind)


PLAIN = EvqaScorer()
RIGHT, OPEN, EMPTY = "exact match", "needs BEM", "empty answer"
ONE_ANSWER = [
    # prediction, answers, rule
    ("Lima", ("Lima",), RIGHT),
    ("  lima\n", ("LIMA",), RIGHT),
    ("lima peru", ("Lima,\tPeru",), RIGHT),
    ("the Menger family", ("Menger family",), RIGHT),
    ("The answer is Lima.", ("Lima",), RIGHT),
    ("the answer is: lima", ("an Lima",), RIGHT),
    ("answer is lima", ("lima",), OPEN),
    ("an apple", ("a apple",), RIGHT),
    ("theapple", ("apple",), OPEN),
    ("one", ("1",), RIGHT),
    ("ten metres", ("10 metres",), RIGHT),
    ("eleven", ("11",), OPEN),
    ("none", ("zero",), RIGHT),
    ("True", ("yes",), RIGHT),
    ("entailment", ("true",), RIGHT),
    ("contradiction", ("no",), RIGHT),
    ("FALSE", ("no",), RIGHT),
    ("1,000", ("1000",), RIGHT),
    ("3.5 m", ("35 m",), RIGHT),  # the authors', too: points go, also between digits
    ("10-12", ("1012",), RIGHT),
    ("dont", ("don't",), RIGHT),
    ("don‘t", ("don't",), RIGHT),
    ("king’s cross", ("kings cross",), RIGHT),
    ("don“t", ("dont",), OPEN),  # these marks aren't among the authors'
    ("under_score", ("underscore",), RIGHT),
    ("<extra_id_0> Lima", ("lima",), RIGHT),
    ("<extra_id_0>\nLima", ("lima",), RIGHT),
    ("extra_id_0 lima", ("lima",), OPEN),
    ("red fox", ("fox red",), OPEN),
    ("fox", ("foxes",), OPEN),
    ("Café", ("cafe",), OPEN),
    ("Cafe\u0301", ("caf\u00e9",), RIGHT),
    ("1 foot", ("30 cm|1 foot",), RIGHT),
    ("30 cm|1 foot", ("30 cm|1 foot",), OPEN),
    ("1 foot", ("30 cm", "a yard", "one foot"), RIGHT),
    ("foot", ("| |foot",), RIGHT),
    ("A", ("A",), RIGHT),  # the authors' stops here with an error
    ("a!", ("The|A",), RIGHT),
    ("the", ("A",), OPEN),
    ("", ("Lima",), EMPTY),
    (" \n", ("Lima",), EMPTY),
    ("...", ("Lima",), OPEN),
]
SEVERAL = [
    # prediction, answers, intersection over union
    ("red, blue", ("red&&blue",), 1),
    ("blue and red", ("red&&blue",), 1),
    ("blue & red", ("Red && the blue.",), 1),
    ("red", ("red&&blue",), 1 / 2),
    ("red, green", ("red&&blue",), 1 / 3),
    ("red, blue, green, grey", ("red&&blue",), 1 / 2),
    ("red, blue, green, grey, pink", ("red&&blue",), 2 / 5),
    ("red, red, red", ("red&&blue",), 1 / 2),
    ("red and blue and green", ("red&&blue&&green&&red",), 1),
    ("red blue", ("red&&blue",), 0),
    ("red&&blue", ("red&&blue",), 0),  # the reference's own form isn't the answer's
    ("red&blue", ("red&&blue",), 0),
    ("red AND blue", ("red&&blue",), 0),
    ("two, three", ("2&&3",), 1),
    ("sand", ("sand&&gravel",), 1 / 2),
    ("sand and", ("sand&&gravel",), 0),
    ("gravel,, the,", ("sand&&gravel",), 1 / 2),
    ("a, b", ("c&&d|a&&b",), 1 / 1),
    ("fox, badger", ("wolf&&bear", "fox&&badger&&wolf"), 2 / 3),
    ("red", ("&&", "red&&a"), 1),
    (",", ("red&&blue",), 0),
]


@pytest.mark.parametrize(("prediction", "answers", "rule"), ONE_ANSWER)
def test_one_answer(prediction: str, answers: tuple[str, ...], rule: str) -> None:
    for kind in ("templated", "automatic", "2_hop", None):
        verdict = PLAIN.score(prediction, gold(*answers, kind=kind))
        assert verdict.rule == rule
        assert verdict.score == {RIGHT: 1.0, OPEN: None, EMPTY: 0.0}[rule]


@pytest.mark.parametrize(("prediction", "answers", "overlap"), SEVERAL)
def test_several_answers(prediction: str, answers: tuple[str, ...], overlap: float) -> None:
    for kind in ("multi_answer", None):
        verdict = PLAIN.score(prediction, gold(*answers, kind=kind))
        if overlap >= 0.5:
            assert (verdict.score, verdict.rule) == (1.0, "set IoU")
        else:
            assert (verdict.score, verdict.rule) == (None, OPEN)
        assert verdict.detail["iou"] == pytest.approx(overlap)


def test_only_questions_for_several_answers_have_sets() -> None:
    assert PLAIN.score("blue, red", gold("red&&blue", kind="automatic")).score is None
    assert PLAIN.score("red blue", gold("red&&blue", kind="multi_answer")).score is None
    assert PLAIN.score("redblue", gold("red&&blue", kind="automatic")).rule == RIGHT
    assert PLAIN.score("blue, red", gold("red&&blue", kind="multi_answer")).score == 1.0


def test_a_question_without_gold_answers_is_not_judged() -> None:
    for answers in ((), ("",), (" | ",)):
        assert PLAIN.score("Lima", gold(*answers)) == Verdict(None, NO_GOLD)


# The authors' steps one after the other, the contractions' apostrophes included.
_CONTRACTED = {
    "dont": "don't",
    "hes": "he's",
    "shouldve": "should've",
    "twas": "'twas",
    "oclock": "o'clock",
}
_WORDS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "ten": "10",
    "true": "yes",
    "false": "no",
}


def naive_text(text: str) -> str:
    text = text.lower().replace("\n", " ").replace("\t", " ").strip()
    text = "".join(c for c in text if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~‘’´")
    text = re.sub(r"\b(the answer is|a|an|the)\b", " ", text)
    return " ".join(_CONTRACTED.get(w, _WORDS.get(w, w)) for w in text.split())


def naive(prediction: str, reference: str, kind: str) -> bool:
    if kind != "multi_answer":
        return naive_text(prediction) == naive_text(reference)
    wanted = {naive_text(part) for part in reference.split("&&")} - {""}
    parts = prediction.replace(" and ", ",").replace(" & ", ",").split(",")
    said = {naive_text(part) for part in parts} - {""}
    return len(wanted & said) / len(wanted | said) >= 0.5


_ALPHABET = (
    "the,a,an,answer,is,red,blue,one,1,zero,none,true,yes,two,10,ten,No,RED,dont,don't,hes,he's"
)
_ALPHABET += ",twas,'twas,oclock,o'clock,and,&,&&,.,',-,_,’,é,\n,\t"
_PIECES = st.sampled_from([*_ALPHABET.split(","), ","])
_TEXTS = st.builds(
    "".join, st.lists(st.builds(str.__add__, _PIECES, st.sampled_from(["", " "])), max_size=7)
)


@settings(max_examples=150, deadline=None)
@given(
    prediction=_TEXTS,
    reference=_TEXTS.filter(
        lambda text: any(map(naive_text, text.split("&&"))) and naive_text(text)
    ),
    kind=st.sampled_from(["templated", "multi_answer"]),
)
def test_the_rules_are_those_of_a_naive_version(prediction: str, reference: str, kind: str) -> None:
    verdict = PLAIN.score(prediction, gold(reference, kind=kind))
    if not prediction.strip():
        assert verdict == Verdict(0.0, EMPTY)
    else:
        assert verdict.score == (1.0 if naive(prediction, reference, kind) else None)


@settings(max_examples=60, deadline=None)
@given(prediction=_TEXTS, references=st.lists(_TEXTS, max_size=4), seed=st.integers(0, 99))
def test_the_order_of_the_references_decides_nothing(
    prediction: str, references: list[str], seed: int
) -> None:
    shuffled = references * 2
    random.Random(seed).shuffle(shuffled)
    for kind in ("automatic", "multi_answer", None):
        verdict = PLAIN.score(prediction, gold(*references, kind=kind))
        assert verdict == PLAIN.score(prediction, gold(*shuffled, kind=kind))
        assert verdict == PLAIN.score(prediction, gold("|".join(references), kind=kind))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return save_bem(tmp_path_factory.mktemp("bem"))


QUESTION = "what colour is this fox?"


def test_bem_decides_what_is_not_the_same(folder: Path) -> None:
    bem = Bem.open(folder)
    p = bem.probability("red fox", "blue", QUESTION)
    asked = gold("blue", question=QUESTION)
    for threshold, score in ((p, 1.0), (p + 1e-9, 0.0), (0.0, 1.0), (1.0, 0.0)):
        verdict = EvqaScorer(bem, threshold).score("red fox", asked)
        assert verdict == Verdict(score, "BEM", {"reference": "blue", "probability": p})
    # Exact matches and empty answers aren't BEM's, however it would judge.
    assert EvqaScorer(bem, 1.0).score("Blue.", asked).rule == RIGHT
    assert EvqaScorer(bem, 0.0).score(" ", asked).rule == EMPTY


def test_bem_takes_the_best_reference_and_texts_as_they_are(folder: Path) -> None:
    bem = Bem.open(folder)
    scorer = EvqaScorer(bem)
    references = ("The tower", "a plant!", "who")
    chances = {r: bem.probability("RED, fox.", r, QUESTION) for r in references}
    verdict = scorer.score("RED, fox.", gold("|".join(references), question=QUESTION))
    best = max(chances, key=chances.__getitem__)
    assert len(set(chances.values())) == 3
    assert verdict.detail == {"reference": best, "probability": chances[best]}
    assert verdict.score == (chances[best] >= 0.5)


def test_bem_sees_several_answers_with_commas(folder: Path) -> None:
    bem = Bem.open(folder)
    asked = gold("red&&blue&&fox", kind="multi_answer", question=QUESTION)
    verdict = EvqaScorer(bem).score("plant", asked)
    assert verdict.rule == "BEM"
    assert verdict.detail["iou"] == 0
    assert verdict.detail["probability"] == bem.probability("plant", "red,blue,fox", QUESTION)
    automatic = EvqaScorer(bem).score(
        "plant", gold("red&&blue", kind="automatic", question=QUESTION)
    )
    assert automatic.detail["probability"] == bem.probability("plant", "red&&blue", QUESTION)


def test_a_verdict_says_what_was_cut(folder: Path) -> None:
    verdict = EvqaScorer(Bem.open(folder)).score("red " * 50, gold("blue", question=QUESTION))
    assert verdict.detail["cut_tokens"] > 0


def test_the_order_of_questions_decides_nothing(folder: Path) -> None:
    texts = ["red", "the tower", "30 metre", "blue fox", "it"]
    pairs = list(itertools.product(texts, texts))
    first: dict[tuple[str, str], Verdict] = {}
    for seed in range(3):
        scorer = EvqaScorer(Bem.open(folder), 0.3)
        random.Random(seed).shuffle(pairs)
        for prediction, answer in pairs:
            verdict = scorer.score(prediction, gold(answer, question=QUESTION))
            assert first.setdefault((prediction, answer), verdict) == verdict
    assert {verdict.score for verdict in first.values()} == {0.0, 1.0}


def test_every_score_after_a_hit_counts(folder: Path) -> None:
    """The published Infoseek loop ends at its first numeric hit, which it loses; nothing does here."""
    rows = [("10", gold("ten")), ("12", gold("12")), ("blue", gold("red")), ("Lima", gold("Lima"))]
    scorer = EvqaScorer(Bem.open(folder), 1.0)
    verdicts = [scorer.score(prediction, answer) for prediction, answer in rows]
    assert [verdict.score for verdict in verdicts] == [1.0, 1.0, 0.0, 1.0]


def test_two_models_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    """Numbers of different BEMs have been published under the one name."""
    from support.tiny_bem import port_tensors

    other = Bem.open(save_bem(tmp_path, port_tensors(seed=5)))
    facts = [EvqaScorer(bem).facts() for bem in (None, Bem.open(folder), other)]
    assert len({json.dumps(each, sort_keys=True) for each in facts}) == 3
    assert facts[0] == {"name": "evqa", "bem": None, "threshold": 0.5}
    assert facts[1]["bem"]["sha256"] != facts[2]["bem"]["sha256"]


def test_totals_are_of_single_hop_questions_where_there_are_others() -> None:
    golds = [gold("a1"), gold("b1", kind="2_hop"), gold("c1"), gold(), gold("d1", kind="automatic")]
    said = ["a1", "b1", "other", "x", ""]
    verdicts = [PLAIN.score(text, answer) for text, answer in zip(said, golds, strict=True)]
    assert PLAIN.totals(verdicts, golds) == {}  # one of them needs BEM
    verdicts[2] = Verdict(0.0, "BEM")
    assert PLAIN.totals(verdicts, golds) == {"single_hop": pytest.approx(1 / 3)}
    assert PLAIN.totals(verdicts[:1], golds[:1]) == {}
    assert PLAIN.totals(verdicts[1:2], golds[1:2]) == {}
    assert PLAIN.totals([], []) == {}


def test_settings_open_it(folder: Path) -> None:
    plain = EvqaScorer.from_settings({"judge.model": "x"})
    assert plain.facts()["bem"] is None
    chosen = {"bem": str(folder), "bem.threshold": "0.25", "bem.segments": "0,1,2"}
    facts = EvqaScorer.from_settings(chosen | {"bem.activation": "gelu_new"}).facts()
    assert facts["threshold"] == 0.25
    assert facts["bem"]["segments"] == "0,1,2"
    assert facts["bem"]["activation"] == "gelu_new"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"bem.treshold": "1"}, UsageError, "no setting 'bem.treshold'"),
        ({"bem.threshold": "half"}, UsageError, "bem.threshold is 'half'"),
        ({"bem.threshold": "nan"}, UsageError, "bem.threshold is nan"),
        ({"bem.threshold": "50"}, UsageError, "bem.threshold is 50"),
        ({"bem": "google/answer_equivalence"}, MissingError, "no such folder"),
    ],
)
def test_wrong_settings_are_refused(
    change: dict[str, str], kind: type[M2KRError], message: str, folder: Path
) -> None:
    with pytest.raises(kind, match=message):
        EvqaScorer.from_settings({"bem": str(folder)} | change)
    with pytest.raises(UsageError, match=r"bem\.threshold is set, but no bem"):
        EvqaScorer.from_settings({"bem.threshold": "0.4"})
