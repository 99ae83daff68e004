"""Answers are marked where official pseudo recall finds them, and nowhere else."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m2kr.evaluation.answers import answer_spans, stretches
from m2kr.evaluation.judgements import JudgedRun
from m2kr.retrieval.run import Run

# Letters whose small forms are longer, are two, depend on their place, or are not the usual ones.
LETTERS = st.text("aAiIİıßẞΣσςKKéÉe\u0301\u0307 .-\U0001f600", max_size=12)


def pseudo_recall(text: str, answers: list[str]) -> bool:
    """Whether the metric counts a text."""
    judgements = pa.table(
        {
            "question_id": pa.array([], pa.string()),
            "passage_id": pa.array([], pa.string()),
            "relevance": pa.array([], pa.float64()),
        }
    )
    run = Run.from_dict({"q": {"p": 1.0}})
    judged = JudgedRun(run, judgements, [answers], lambda places: [text] * len(places))
    return bool(np.isfinite(judged.first_answer[0]))


@settings(max_examples=50)
@given(LETTERS, st.lists(LETTERS, max_size=3))
@example("İstanbul", ["i"])
@example("ΑΣ ΑΣΑ", ["ασ"])
@example("xİy", ["\u0307"])
def test_a_text_is_marked_if_and_only_if_it_counts(text, answers):
    spans = answer_spans(text, answers)
    worth = [answer for answer in answers if answer.strip()]
    assert bool(spans) == pseudo_recall(text, worth)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    assert "".join(piece for piece, _ in stretches(text, spans)) == text
    assert [text[a:b] for a, b in spans] == [p for p, marked in stretches(text, spans) if marked]


@pytest.mark.parametrize(
    ("text", "answers", "marked"),
    [
        ("The Nile, the nile", ["NILE "], ["Nile", "nile"]),
        ("aaa", ["aa"], ["aaa"]),
        ("Mount Everest", ["mount ever", "everest"], ["Mount Everest"]),
        ("In İzmir, İ", ["izmir"], []),  # the small form has a dot more, and so has the text's
        ("In İzmir", ["i̇zmir", "zmir"], ["İzmir"]),
        ("before İİ: Ankara", ["ankara"], ["Ankara"]),
        ("anything", ["", "  "], []),
        ("", ["a"], []),
    ],
)
def test_what_is_marked(text, answers, marked):
    assert [text[a:b] for a, b in answer_spans(text, answers)] == marked
