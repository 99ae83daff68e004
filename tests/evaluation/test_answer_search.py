"""All answers looked for at once, beside looking for each in each text."""

import re

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m2kr.evaluation import answer_ranks, answer_search
from m2kr.evaluation.answer_ranks import AnswersInTexts
from m2kr.evaluation.answer_search import AnswerSearch
from m2kr.retrieval.run import Run

# Few letters of one to four bytes, with capitals whose lower case is longer, and words' edges.
LETTERS = "abA é_-.1İΣσ語\U0001f600²\x00"
ANSWERS = st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=1, max_size=8)
TEXTS = st.lists(st.text(LETTERS, max_size=40), min_size=1, max_size=6)


def expected(answer, text):
    if answer not in text:
        return 0
    before = r"(?<![^\W_])" if answer[0].isalnum() else ""
    after = r"(?![^\W_])" if answer[-1].isalnum() else ""
    return 2 if re.search(before + re.escape(answer) + after, text) else 1


@settings(max_examples=80, deadline=None)
@given(answers=ANSWERS, texts=TEXTS)
@example(answers=["abababab", "abababababab"], texts=["abababa", "ab" * 6, "", "-ab" * 5])
@example(answers=["a" * 8, "a" * 9, "é", "語"], texts=["a" * 8, "a" * 30, "語é", "é語"])
def test_every_answer_is_found_where_it_is(answers, texts):
    answers = list(dict.fromkeys(a.lower() for a in answers))
    lowered = [text.lower() for text in texts]
    search = AnswerSearch(answers)
    wanted = [[expected(answer, text) for text in lowered] for answer in answers]
    assert search.matches(lowered).tolist() == wanted
    assert search.matches(lowered[::-1]).tolist() == [row[::-1] for row in wanted]


@settings(max_examples=40, deadline=None)
@given(
    answers=st.lists(st.lists(st.text(LETTERS, max_size=9), max_size=4), min_size=1, max_size=5),
    texts=st.lists(st.text(LETTERS, max_size=30), min_size=1, max_size=12),
    seed=st.integers(0, 99),
    texts_at_once=st.sampled_from([1, 3, 4096]),
    first=st.sampled_from([2, 5, 20]),
)
def test_first_ranks_equal_the_definition(answers, texts, seed, texts_at_once, first):
    rng = np.random.default_rng(seed)
    ids = [f"p{i:02}" for i in range(len(texts))]
    ranked = {
        f"q{i}": rng.permutation(len(ids))[: rng.integers(0, 13)].tolist()
        for i in range(len(answers))
    }
    run = Run.from_dict(
        {q: {ids[p]: -float(r) for r, p in enumerate(ps)} for q, ps in ranked.items()}
    )

    def read(places):
        names = run.vocabulary.take(places.tolist()).to_pylist()
        return [texts[int(name[1:])] for name in names]

    before = answer_search.TEXTS_AT_ONCE, answer_ranks._FIRST
    answer_search.TEXTS_AT_ONCE, answer_ranks._FIRST = texts_at_once, first
    try:
        within, words = AnswersInTexts(answers, read).first_ranks(run)
    finally:
        answer_search.TEXTS_AT_ONCE, answer_ranks._FIRST = before
    for i, accepted in enumerate(answers):
        looks = [
            max(
                (
                    2 if not a.strip() else expected(a.strip().lower(), texts[p].lower())
                    for a in accepted
                ),
                default=0,
            )
            for p in ranked[f"q{i}"]
        ]
        for least, got in ((1, within), (2, words)):
            hits = [rank for rank, look in enumerate(looks, 1) if look >= least]
            assert got[i] == min(hits, default=np.inf)
