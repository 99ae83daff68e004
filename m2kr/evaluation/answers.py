"""Where answers stand in a text, as official pseudo recall finds them."""

import itertools
from collections.abc import Iterable

Span = tuple[int, int]


def answer_spans(text: str, answers: Iterable[str]) -> list[Span]:
    """The places of a text that pseudo recall finds an answer at.

    Both are lower-cased and the answers stripped, as in `m2kr.evaluation.judgements.JudgedRun`. There is a
    span if, and only if, pseudo recall counts the text for an answer that isn't blank: a blank one
    is in every text, and nowhere in it.

    Args:
        text: As it was written; lower-casing it may change its length, as of ``İ``.
        answers: The accepted ones.

    Returns:
        Starts and ends in characters of ``text``, ascending; those that overlap or touch are one.

    Example:
        >>> answer_spans("The Nile, the nile", ["NILE ", ""])
        [(4, 8), (14, 18)]
    """
    lowered = text.lower()
    spans: list[Span] = []
    for answer in {answer.strip().lower() for answer in answers} - {""}:
        start = lowered.find(answer)
        while start >= 0:
            spans.append((start, start + len(answer)))
            start = lowered.find(answer, start + 1)
    if len(lowered) == len(text):
        return _joined(spans)
    # Per character of the lower-cased text the one that it came from; a part of one marks all of it.
    origin = [n for n, char in enumerate(text) for _ in char.lower()]
    return _joined((origin[start], origin[end - 1] + 1) for start, end in spans)


def _joined(spans: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def stretches(text: str, spans: Iterable[Span]) -> list[tuple[str, bool]]:
    """A text in pieces, and whether each is in a span.

    Args:
        text: The text.
        spans: As of `answer_spans`.
    """
    edges = [0, *itertools.chain.from_iterable(spans), len(text)]
    pieces = ((text[a:b], n % 2 == 1) for n, (a, b) in enumerate(itertools.pairwise(edges)))
    return [(piece, marked) for piece, marked in pieces if piece]
