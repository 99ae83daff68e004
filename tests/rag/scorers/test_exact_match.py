"""Exact match and token F1: SQuAD's normalisation by hand, and its formula written out."""

import collections
import re
import string
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.rag.scorer import GoldAnswer
from m2kr.rag.scorers.exact_match import ExactMatchScorer
from m2kr.rag.scorers.plain_answer import is_same_answer, plain_answer
from m2kr.rag.scorers.token_f1 import TokenF1Scorer, token_f1

EXACT, F1 = ExactMatchScorer(), TokenF1Scorer()


def gold(*answers: str) -> GoldAnswer:
    return GoldAnswer("q", "?", answers)


NORMALISED = {
    "The Eiffel Tower": "eiffel tower",
    "eiffel-tower": "eiffeltower",
    "  A  cat\tand\nan owl ": "cat and owl",
    "theatre": "theatre",
    "U.S.A.": "usa",
    "don't": "dont",
    "don’t": "dont",
    "“quoted”": "quoted",
    "1,000.5": "10005",
    "1990–2005": "19902005",
    "and…": "and",
    "A": "",
    "the": "",
    "?!": "",
    "": "",
    "a-b": "ab",
    "a b": "b",
    "É": "é",
    "STRASSE": "strasse",
    "Straße": "strasse",
    "ΟΔΟΣ": "οδοσ",
    "non\u00a0breaking": "non breaking",
    "🇮🇳": "🇮🇳",
    "C++": "c",
    "50%": "50",
    "the a an": "",
    "anthem": "anthem",
    "3 the 4": "3 4",
    "ﬁsh": "fish",
}


@pytest.mark.parametrize(
    ("text", "expected"), NORMALISED.items(), ids=[repr(t) for t in NORMALISED]
)
def test_normalisation(text: str, expected: str) -> None:
    assert plain_answer(text) == expected
    assert plain_answer(expected) == expected


@pytest.mark.parametrize(
    ("said", "answers", "right"),
    [
        ("pear", ["Pear"], 1),
        ("the pear.", ["pear"], 1),
        ("pears", ["pear"], 0),
        ("pear", ["fig", "apple", "a pear"], 1),
        ("pear fig", ["pear", "fig"], 0),
        ("pear\nBecause it is green.", ["pear"], 0),
        ("", ["pear"], 0),
        ("", [""], None),
        ("x", [""], None),
        ("", ["the"], 0),
        ("the", ["", "?"], 0),
        ("the", ["?"], 0),
        ("the", ["a"], 0),
        ("The", ["the", "x"], 1),
        ("?", ["?"], 1),
        (" ? ", ["?"], 1),
        ("a", ["A"], 1),
        ("2", ["two"], 0),
        ("1.0", ["10"], 1),  # SQuAD's own: points go
        ("naïve", [unicodedata.normalize("NFD", "naïve")], 1),
        ("naive", ["naïve"], 0),
        ("Rock ’n’ Roll", ["rock 'n' roll"], 1),
        ("STRASSE", ["Straße"], 1),
        ("x", [], None),
    ],
)
def test_exact_match(said: str, answers: list[str], right: int | None) -> None:
    assert EXACT.score(said, gold(*answers)).score == right
    if right:
        assert F1.score(said, gold(*answers)).score == 1


@pytest.mark.parametrize(
    ("said", "answers", "expected"),
    [
        ("red kite", ["red kite"], 1),
        ("kite", ["red kite"], 2 / 3),
        ("the red kite bird", ["red kite"], 4 / 5),
        ("kite red", ["red kite"], 1),
        ("kite kite", ["red kite"], 1 / 2),
        ("kite kite", ["kite kite kite"], 4 / 5),
        ("red", ["kite"], 0),
        ("kite", ["red", "kite", "big kite"], 1),
        ("big", ["red kite", "big red kite"], 1 / 2),
        ("", ["kite"], 0),
        ("the", ["kite"], 0),
        ("the", ["a"], 0),
        ("the", ["the"], 1),
        ("?", ["", "!"], 0),
        ("kite", [], None),
        ("kite", [""], None),
        ("kite", ["", "?"], 0),
    ],
)
def test_token_f1(said: str, answers: list[str], expected: float | None) -> None:
    assert F1.score(said, gold(*answers)).score == pytest.approx(expected)


def naive_clean(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def naive_f1(said: str, answer: str) -> float:
    first, second = naive_clean(said).split(), naive_clean(answer).split()
    common = sum((collections.Counter(first) & collections.Counter(second)).values())
    if not common:
        return 0.0
    precision, recall = common / len(first), common / len(second)
    return 2 * precision * recall / (precision + recall)


PIECES = st.sampled_from(
    ["a", "the", "Red", "red", "kite", " ", " ", "\n", ",", "!", "'", "-", "7"]
)
TEXTS = st.lists(PIECES, max_size=7).map("".join)


@settings(max_examples=40)
@given(TEXTS, st.lists(TEXTS, max_size=4))
def test_both_equal_squads_formula(said: str, answers: list[str]) -> None:
    kept = ["kite", *(a for a in answers if naive_clean(a))]  # else the texts decide: see above
    exact = float(any(naive_clean(a) == naive_clean(said) for a in kept))
    assert EXACT.score(said, gold(*kept)).score == exact
    best = max((naive_f1(said, a) for a in kept), default=0.0)
    assert F1.score(said, gold(*kept)).score == pytest.approx(best)
    assert F1.score(said, gold(*kept[::-1])).score == F1.score(said, gold(*kept)).score


@settings(max_examples=30)
@given(st.text(max_size=12), st.text(max_size=12))
def test_of_any_texts(said: str, answer: str) -> None:
    assert plain_answer(plain_answer(said)) == plain_answer(said)
    assert token_f1(said, answer) == token_f1(answer, said)
    assert 0 <= token_f1(said, answer) <= 1
    assert EXACT.score(said, gold(said, "x" + said)).score == bool(said.strip())
    exact = is_same_answer(said, answer)
    assert exact == is_same_answer(answer, said)
    if exact:
        assert token_f1(said, answer) == 1
