"""A question without an accepted answer is not judged, whatever is answered: never 0, never 1."""

import pytest

from m2kr.rag.scorer import NO_GOLD, GoldAnswer
from m2kr.rag.scorer_registry import open_scorer

BLANK: tuple[tuple[str, ...], ...] = ((), ("",), ("", " "))


@pytest.mark.parametrize(
    ("scorer", "answers"),
    [
        ("okvqa", ()),  # blank ones are annotators
        *((name, of) for name in ("infoseek", "exact_match", "token_f1") for of in BLANK),
    ],
)
@pytest.mark.parametrize("said", ["", "pear"])
def test_no_accepted_answer(scorer: str, answers: tuple[str, ...], said: str) -> None:
    verdict = open_scorer(scorer, {}).score(said, GoldAnswer("q", "?", answers))
    assert verdict.score is None
    assert verdict.rule == NO_GOLD


@pytest.mark.parametrize("scorer", ["okvqa", "infoseek", "evqa", "exact_match", "token_f1"])
def test_facts_say_who_judged(scorer: str) -> None:
    opened = open_scorer(scorer, {})
    assert opened.facts()["name"] == opened.name == scorer
