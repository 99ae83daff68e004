"""The texts and tables of an explanation's panel, escaped."""

import html
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from m2kr.report.explain.explanation import Explanation, PassageToken, QueryRow

if TYPE_CHECKING:
    from m2kr.report.explain.tokens import Kind, Piece

#: What a kind of query row is called.
PARTS: "dict[Kind, str]" = {
    "text": "query words",
    "special": "markers",
    "filler": "[MASK] fillers",
    "prefix": "whole image",
    "patch": "image patches",
}
_STRIPS: "tuple[Kind, ...]" = ("special", "filler", "prefix")
_TOP = 10
_CONTEXT = 28  # characters of a passage around a token
_NAMES = 5
_LONG = 1200  # characters of a passage beyond which it scrolls
# What HTML can't hold, UTF-8 can't encode, or turns round all that stands after it.
_UNFIT = re.compile(
    "[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
)


def escape(text: str) -> str:
    """A text for HTML, in elements and quoted attributes alike."""
    return html.escape(_UNFIT.sub("\ufffd", text), quote=True)


def number(value: float) -> str:
    """A similarity or score, two places."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """A share of the score."""
    return f"{share * 100:.1f} %".replace("-", "\N{MINUS SIGN}")


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


def read_query(explanation: Explanation) -> str:
    """The query's text with what each word gave."""
    most = _most(row.similarity for row in explanation.rows)
    out = []
    for between, places in _spans(explanation.query, [row.piece for row in explanation.rows]):
        if not places:
            out.append(_plain(between, explanation.query_cut, explanation.query))
            continue
        rows = [explanation.rows[place] for place in places]
        title = escape("; ".join(row_title(explanation, row) for row in rows))
        targets = " ".join(str(row.best) for row in rows if row.best is not None)
        text = escape(explanation.query[between.start : between.stop])
        if not targets:
            out.append(f'<span class="mx-none" title="{title}">{text}</span>')
            continue
        weight = max(row.similarity for row in rows) / most
        out.append(
            f'<span data-t="{targets}" style="--w:{_clip(weight):.3f}" title="{title}">{text}</span>'
        )
    return f'<p class="mx-read" dir="auto">{"".join(out)}</p>'


def read_passage(explanation: Explanation) -> str:
    """The passage's text with what each token received, its markers before it."""
    most = _most(token.received for token in explanation.tokens)
    out, marks = [], []
    for place, token in enumerate(explanation.tokens):
        if token.piece.start is None:
            marks.append(_token(explanation, [place], escape(token.piece.label), most))
    for between, places in _spans(explanation.passage, [t.piece for t in explanation.tokens]):
        text = escape(explanation.passage[between.start : between.stop])
        if places:
            out.append(_token(explanation, places, text, most))
        else:
            out.append(_plain(between, explanation.passage_cut, explanation.passage))
    long = " mx-long" if len(explanation.passage) > _LONG else ""
    focus = ' tabindex="0"' if long else ""
    return (
        f'<p class="mx-read{long}" dir="auto"{focus}>{"".join(out)}</p>'
        f'<div class="mx-strip"><span>markers</span><span class="mx-read">{" ".join(marks)}</span>'
        "</div>"
    )


def strips(explanation: Explanation) -> str:
    """The query rows that have no place in its text, as small cells."""
    most = _most(row.similarity for row in explanation.rows)
    out = []
    for kind in _STRIPS:
        rows = [row for row in explanation.rows if row.piece.kind == kind]
        if not rows:
            continue
        cells = "".join(
            f'<span class="mx-c-{kind}" style="--w:{_clip(row.similarity / most):.3f}"'
            f"{'' if row.best is None else f' data-t={chr(34)}{row.best}{chr(34)}'} "
            f'title="{escape(row_title(explanation, row))}">'
            f"{escape(row.piece.label) if kind == 'special' else ''}</span>"
            for row in rows
        )
        out.append(
            f'<div class="mx-strip"><span>{PARTS[kind]}</span><span class="mx-cells">{cells}</span>'
            "</div>"
        )
    return "".join(out)


def token_table(explanation: Explanation) -> str:
    """The passage tokens that the score owes most to, in their context."""
    places = sorted(
        (p for p, token in enumerate(explanation.tokens) if token.rows),
        key=lambda p: (-explanation.tokens[p].received, p),
    )[:_TOP]
    body = []
    for place in places:
        token = explanation.tokens[place]
        body.append(
            f'<tr data-t="{place}"><td>{_in_context(explanation.passage, token.piece)}</td>'
            f'<td class="mx-n"><b>{number(token.received)}</b></td>'
            f'<td class="mx-n">{percent(explanation.share(token.received))}</td>'
            f'<td class="mx-n">{number(token.from_text)}</td>'
            f'<td class="mx-n">{number(token.from_image)}</td>'
            f'<td class="mx-by">{escape(_matchers(explanation, place))}</td></tr>'
        )
    return (
        '<div class="mx-scroll"><table><caption><h3>Passage tokens that gave most</h3></caption>'
        '<thead><tr><th scope="col">Token</th><th class="mx-n" scope="col">Gave</th>'
        '<th class="mx-n" scope="col">Share</th><th class="mx-n" scope="col">Text</th>'
        '<th class="mx-n" scope="col">Image</th><th scope="col">Matched by</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def row_table(explanation: Explanation) -> str:
    """Every query row with its match."""
    body = []
    for place, row in enumerate(explanation.rows):
        matched, target = '<span class="mx-none">not counted</span>', ""
        if row.best is not None:
            matched = _in_context(explanation.passage, explanation.tokens[row.best].piece)
            target = f' data-t="{row.best}"'
        body.append(
            f'<tr{target}><td class="mx-n">{place}</td>'
            f"<td>{escape(name(row.piece, explanation.query))}</td>"
            f'<td><i class="mx-dot mx-c-{row.piece.kind}"></i>{PARTS[row.piece.kind]}</td>'
            f'<td>{matched}</td><td class="mx-n">{number(row.similarity)}</td>'
            f'<td class="mx-n">{percent(explanation.share(row.similarity))}</td></tr>'
        )
    return (
        '<div class="mx-scroll"><table><thead><tr><th class="mx-n" scope="col">Row</th>'
        '<th scope="col">Query row</th><th scope="col">Kind</th>'
        '<th scope="col">Matched</th><th class="mx-n" scope="col">Similarity</th>'
        '<th class="mx-n" scope="col">Share</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _token(explanation: Explanation, places: list[int], text: str, most: float) -> str:
    tokens = [explanation.tokens[place] for place in places]
    title = escape("; ".join(token_title(explanation, token) for token in tokens))
    if not any(token.rows for token in tokens):
        kind = "" if any(token.counts for token in tokens) else ' class="mx-none"'
        return f'<span{kind} title="{title}">{text}</span>'
    words = math.sqrt(_clip(sum(token.from_text for token in tokens) / most))
    image = math.sqrt(_clip(sum(token.from_image for token in tokens) / most))
    return (
        f'<span data-p="{" ".join(map(str, places))}" style="--w:{words:.3f};--i:{image:.3f}" '
        f'title="{title}">{text}</span>'
    )


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


def _plain(between: range, cut: int | None, text: str) -> str:
    shown = escape(text[between.start : between.stop])
    if cut is None or between.start < cut or not shown.strip():
        return shown
    return f'<span class="mx-cut" title="beyond the model’s length: not read">{shown}</span>'


def _in_context(text: str, piece: "Piece") -> str:
    if piece.start is None or piece.end is None:
        return f"<mark>{escape(piece.label)}</mark>"
    before = text[max(0, piece.start - _CONTEXT) : piece.start]
    after = text[piece.end : piece.end + _CONTEXT]
    left = right = ""
    if piece.start > _CONTEXT:  # whole words only, where there are words
        left, before = "…", before.split(" ", 1)[-1]
    if piece.end + _CONTEXT < len(text):
        after, right = after.rsplit(" ", 1)[0], "…"
    return (
        f"<bdi>{left}{escape(before)}<mark>{escape(text[piece.start : piece.end])}</mark>"
        f"{escape(after)}{right}</bdi>"
    )


def _matchers(explanation: Explanation, place: int) -> str:
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
    ):
        count = sum(row.piece.kind == kind for row in rows)
        if count:
            shown.append(one if count == 1 else f"{count} {several}")
    return ", ".join(shown)


def _most(values: Iterator[float]) -> float:
    return max(max(values, default=0.0), 1e-9)


def _clip(weight: float) -> float:
    return min(max(weight, 0.0), 1.0)
