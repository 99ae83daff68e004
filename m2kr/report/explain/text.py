"""What the panel of an explanation says of texts, rows and tokens; templates/panel.html shows it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from m2kr.report.explain.explanation import Explanation, PassageToken, QueryRow
from m2kr.report.html import number, percent

if TYPE_CHECKING:
    from m2kr.report.explain.pieces import Kind, Piece

#: What a kind of query row is called.
PARTS: "dict[Kind, str]" = {
    "text": "query words",
    "special": "markers",
    "filler": "[MASK] fillers",
    "prefix": "whole image",
    "patch": "image patches",
    "row": "query rows",
}
_STRIPS: "tuple[Kind, ...]" = ("special", "filler", "prefix", "row")
_TOP = 10
_CONTEXT = 28  # characters of a passage around a token
_NAMES = 5
LONG = 1200  # characters of a passage beyond which it scrolls


def name(piece: "Piece", text: str) -> str:
    """What a row is called: its own text where it has any."""
    own = text[piece.start : piece.end] if piece.start is not None else ""
    return own.strip() or piece.label


def row_title(explanation: Explanation, row: QueryRow) -> str:
    """A sentence on one query row."""
    called = name(row.piece, explanation.query)
    if row.best is None:
        return f"{called}: not counted"
    token = explanation.tokens[row.best]
    return (
        f"{called}: {number(row.similarity)} ({percent(explanation.share(row.similarity))}), "
        f"matched “{name(token.piece, explanation.passage)}”"
    )


def token_title(explanation: Explanation, token: PassageToken) -> str:
    """A sentence on one passage token."""
    called = name(token.piece, explanation.passage)
    if not token.counts:
        return f"{called}: not counted"
    return (
        f"{called}: {number(token.received)} ({percent(explanation.share(token.received))}) from "
        f"{token.rows} rows, text {number(token.from_text)}, image {number(token.from_image)}"
    )


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of text and how a page shows it.

    Attributes:
        text: Its characters.
        kind: ``plain``; ``cut``, beyond the model's length; ``none``, not counted; ``rows``, ``tokens``.
        title: A sentence on it.
        attribute: ``data-t``: the tokens that its rows matched; ``data-p``: the tokens it is.
        target: Their places.
        style: Weights, as custom properties of CSS.
    """

    text: str
    kind: Literal["plain", "cut", "none", "rows", "tokens"]
    title: str = ""
    attribute: str = ""
    target: str = ""
    style: str = ""


def query_stretches(explanation: Explanation) -> Iterator[Stretch]:
    """The query's text with what each word gave."""
    most = _most(row.similarity for row in explanation.rows)
    for span, places in _spans(explanation.query, [row.piece for row in explanation.rows]):
        if not places:
            yield _plain(span, explanation.query_cut, explanation.query)
            continue
        rows = [explanation.rows[place] for place in places]
        title = "; ".join(row_title(explanation, row) for row in rows)
        targets = " ".join(str(row.best) for row in rows if row.best is not None)
        text = explanation.query[span.start : span.stop]
        if not targets:
            yield Stretch(text, "none", title)
            continue
        weight = _clip(max(row.similarity for row in rows) / most)
        yield Stretch(text, "rows", title, "data-t", targets, f"--w:{weight:.3f}")


def passage_stretches(explanation: Explanation) -> Iterator[Stretch]:
    """The passage's text with what each token received."""
    for span, places in _spans(explanation.passage, [t.piece for t in explanation.tokens]):
        if places:
            yield _tokens(explanation, places, explanation.passage[span.start : span.stop])
        else:
            yield _plain(span, explanation.passage_cut, explanation.passage)


def markers(explanation: Explanation) -> list[Stretch]:
    """The passage's tokens that have no place in its text."""
    return [
        _tokens(explanation, [place], token.piece.label)
        for place, token in enumerate(explanation.tokens)
        if token.piece.start is None
    ]


def strips(explanation: Explanation) -> "Iterator[tuple[Kind, list[tuple[QueryRow, str]]]]":
    """The query rows that have no place in its text, by kind, with their weights."""
    most = _most(row.similarity for row in explanation.rows)
    for kind in _STRIPS:
        rows = [row for row in explanation.rows if row.piece.kind == kind]
        if rows:
            yield kind, [(row, f"{_clip(row.similarity / most):.3f}") for row in rows]


def top_tokens(explanation: Explanation) -> list[tuple[int, PassageToken]]:
    """Places of the passage tokens that the score owes most to, and these."""
    matched = [(place, token) for place, token in enumerate(explanation.tokens) if token.rows]
    return sorted(matched, key=lambda item: (-item[1].received, item[0]))[:_TOP]


def _tokens(explanation: Explanation, places: list[int], text: str) -> Stretch:
    tokens = [explanation.tokens[place] for place in places]
    title = "; ".join(token_title(explanation, token) for token in tokens)
    if not any(token.rows for token in tokens):
        return Stretch(text, "tokens" if any(token.counts for token in tokens) else "none", title)
    most = _most(token.received for token in explanation.tokens)
    words = math.sqrt(_clip(sum(token.from_text for token in tokens) / most))
    image = math.sqrt(_clip(sum(token.from_image for token in tokens) / most))
    target, style = " ".join(map(str, places)), f"--w:{words:.3f};--i:{image:.3f}"
    return Stretch(text, "tokens", title, "data-p", target, style)


def _spans(text: str, pieces: "Sequence[Piece]") -> Iterator[tuple[range, list[int]]]:
    """The text in order: stretches with the pieces that lie there, and those without.

    One character can give several pieces (a syllable that is taken apart), which are kept together.
    """
    spans: list[tuple[int, int, list[int]]] = []
    for place, piece in enumerate(pieces):
        if piece.start is None or piece.end is None or piece.end <= piece.start:
            continue
        if spans and piece.start < spans[-1][1]:
            start, end, held = spans[-1]
            spans[-1] = (start, max(end, piece.end), [*held, place])
        else:
            spans.append((piece.start, piece.end, [place]))
    at = 0
    for start, end, held in spans:
        if start > at:
            yield range(at, start), []
        yield range(start, end), held
        at = end
    if at < len(text):
        yield range(at, len(text)), []


def _plain(span: range, cut: int | None, text: str) -> Stretch:
    shown = text[span.start : span.stop]
    unread = cut is not None and span.start >= cut and bool(shown.strip())
    return Stretch(shown, "cut" if unread else "plain")


def in_context(text: str, piece: "Piece") -> tuple[str | None, str, str]:
    """What stands before a piece of the text, the piece, and what stands after; None, if nowhere."""
    if piece.start is None or piece.end is None:
        return None, piece.label, ""
    before = text[max(0, piece.start - _CONTEXT) : piece.start]
    after = text[piece.end : piece.end + _CONTEXT]
    if piece.start > _CONTEXT:  # whole words only, where there are words
        before = "…" + before.split(" ", 1)[-1]
    if piece.end + _CONTEXT < len(text):
        after = after.rsplit(" ", 1)[0] + "…"
    return before, text[piece.start : piece.end], after


def matchers(explanation: Explanation, place: int) -> str:
    """Names of the rows that matched a token, the strongest first, patches counted."""
    rows = sorted(
        (row for row in explanation.rows if row.best == place), key=lambda row: -row.similarity
    )
    named = [
        name(row.piece, explanation.query) for row in rows if row.piece.kind in ("text", "special")
    ]
    shown = [f"“{each}”" for each in named[:_NAMES]]
    if len(named) > _NAMES:
        shown.append(f"{len(named) - _NAMES} more words")
    for kind, one, several in (
        ("filler", "1 filler", "fillers"),
        ("prefix", "1 row of the whole image", "rows of the whole image"),
        ("patch", "1 patch", "patches"),
        ("row", "1 row", "rows"),
    ):
        count = sum(row.piece.kind == kind for row in rows)
        if count:
            shown.append(one if count == 1 else f"{count} {several}")
    return ", ".join(shown)


def _most(values: Iterator[float]) -> float:
    return max(max(values, default=0.0), 1e-9)


def _clip(weight: float) -> float:
    return min(max(weight, 0.0), 1.0)
