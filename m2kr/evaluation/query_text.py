"""A query and its passages as text for terminals, and as HTML for notebooks."""

import shutil
import textwrap
from typing import TYPE_CHECKING

from m2kr.display import escaped, html_table, jpeg_uri, on_one_line
from m2kr.evaluation.answers import Span, stretches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from m2kr.evaluation.query_view import QueryView, ViewedPassage

_EXCERPT = 360  # characters of a passage
_WIDEST = 100  # columns
_SIDE = 360  # pixels of an image in a notebook
_MOST_RIGHT = 5  # right passages that the ranking doesn't show
_MOST_ANSWERS = 12
_MARK = '<mark style="background:#fd6;color:#000">{}</mark>'


def query_text(view: "QueryView") -> str:
    """The view in plain text, answers between ``**``, as wide as the terminal."""
    width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)

    def block(head: str, text: str) -> str:
        return textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * len(head))

    facts = [block(f"  {name:<12}", value) for name, value in _facts(view)]
    lines = [f"{on_one_line(view.label)}  {on_one_line(view.query_id)}", *facts]
    graded = _graded(view)
    for title, passages in _parts(view):
        lines += ["", title]
        for passage in passages:
            lines.append(block("  ", "  ".join(_heading(passage, graded))))
            text, spans, cut = _excerpt(passage)
            shown = (f"**{part}**" if marked else part for part, marked in stretches(text, spans))
            lines.append(block("      ", on_one_line("".join(shown)) + (" …" if cut else "")))
    return "\n".join(lines)


def query_html(view: "QueryView") -> str:
    """The view as an HTML fragment: the image inline, answers marked, all texts escaped."""
    image = view.image
    picture = ""
    if image is not None:
        uri, (width, height) = jpeg_uri(image, _SIDE)
        picture = f'<img src="{uri}" width="{width}" height="{height}" alt="the query’s image">'
    html = [html_table(f"{view.label}  {view.query_id}", _facts(view)), picture]
    graded = _graded(view)
    for title, passages in _parts(view):
        html.append(f'<p style="margin:12px 0 4px"><b>{escaped(title)}</b></p>')
        for passage in passages:
            text, spans, cut = _excerpt(passage)
            shown = _marked(text, spans) + (" …" if cut else "")
            if cut:
                whole = _marked(passage.text or "", passage.answers)
                shown = f"<details><summary>{shown}</summary>{whole}</details>"
            head = " · ".join(map(escaped, _heading(passage, graded)))
            html.append(f'<div style="margin:0 0 8px"><div><i>{head}</i></div>{shown}</div>')
    return f'<div style="overflow-wrap:anywhere">{"".join(html)}</div>'


def _facts(view: "QueryView") -> list[tuple[str, str]]:
    row = view.row
    image = str(row["img_path"] or "none")
    if view.image is not None:
        image += f", {view.image.width} × {view.image.height}"
    elif view.image_fault:
        image += f" ({view.image_fault})"
    answers = row["answers"] or []
    unsaid = len(answers) - _MOST_ANSWERS
    more = f" | and {unsaid:,} more" if unsaid > 0 else ""
    facts = {
        "instruction": str(row["instruction"] or "–"),
        "question": str(row["question"] or "–"),
        "image": image,
        "answers": " | ".join(answers[:_MOST_ANSWERS]) + more or "none",
        "right": _passages(len(view.positives)) if view.positives else "none",
    }
    return [(name, on_one_line(value)) for name, value in facts.items()]


def _parts(view: "QueryView") -> "Iterator[tuple[str, Sequence[ViewedPassage]]]":
    """Titles and passages: the ranking, then the right ones that it doesn't show."""
    if view.run is not None:
        yield on_one_line(f"Run {view.run}: {_how_found(view)}"), view.ranked
    shown = {passage.rank for passage in view.ranked}
    others = sorted(
        (p for p in view.positives if p.rank is None or p.rank not in shown),
        key=lambda passage: passage.rank or float("inf"),
    )
    if others:
        more = len(others) - _MOST_RIGHT
        title = "Right passages" + (" that are not among these" if view.ranked else "")
        yield title + (f" (and {more:,} more)" if more > 0 else ""), others[:_MOST_RIGHT]


def _how_found(view: "QueryView") -> str:
    if view.depth is None:
        return "it has no such query"
    passages = _passages(view.depth)
    if view.first_right is not None:
        return f"{passages}; the first right one is at rank {view.first_right:,}"
    return f"{passages}" + ("; none of them is right" if view.positives else "")


def _passages(n: int) -> str:
    return f"{n:,} passage{'s' * (n != 1)}"


def _graded(view: "QueryView") -> bool:
    """Whether grades are shown: where any of the query's isn't 1."""
    return any(passage.grade not in (0, 1) for passage in (*view.ranked, *view.positives))


def _heading(passage: "ViewedPassage", graded: bool) -> "Iterator[str]":
    if passage.rank is not None:
        yield f"rank {passage.rank:,}"
    if passage.score is not None:
        yield f"score {passage.score:.6g}"
    if passage.right:
        yield "✓ right"
    if graded and passage.grade:
        yield f"grade {passage.grade:g}"
    yield on_one_line(passage.passage_id)
    if passage.title:
        yield on_one_line(passage.title)


def _excerpt(passage: "ViewedPassage") -> tuple[str, list[Span], bool]:
    """What is shown of a text, with the places of answers in it; and whether it goes on.

    From the beginning, or from a little before the first answer, if that stands further below.
    """
    if passage.text is None:
        return "(the pool has no such passage)", [], False
    text, spans = passage.text, passage.answers
    start = 0
    if spans and spans[0][1] > _EXCERPT:
        start = max(0, spans[0][0] - _EXCERPT // 3)
        start = text.find(" ", start, spans[0][0]) + 1 or start
    stop = min(len(text), start + _EXCERPT)
    if stop < len(text):  # at a word's end, where there are words
        end = text.rfind(" ", start + _EXCERPT // 2, stop)
        stop = end if end > 0 else stop
    inside = [(max(a, start), min(b, stop)) for a, b in spans if a < stop and b > start]
    lead = "… " if start else ""
    moved = len(lead) - start
    shown = lead + text[start:stop]
    return shown, [(a + moved, b + moved) for a, b in inside], stop < len(text)


def _marked(text: str, spans: "tuple[Span, ...] | list[Span]") -> str:
    parts = ((escaped(part), marked) for part, marked in stretches(text, spans))
    return "".join(_MARK.format(part) if marked else part for part, marked in parts)
