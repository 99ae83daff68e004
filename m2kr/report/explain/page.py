"""Explanations as HTML: panels that any page can take in, and a page of its own around them."""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m2kr.report.explain.explanation import Explanation
from m2kr.report.explain.figure import Box, figure
from m2kr.report.explain.text import (
    PARTS,
    escape,
    number,
    percent,
    read_passage,
    read_query,
    row_table,
    strips,
    token_table,
)
from m2kr.report.style import SCRIPT, STYLE

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST_SIDE = 720
_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Picture:
    """A query's image, ready for a page.

    Attributes:
        uri: It as a ``data:`` URI.
        width: Pixels.
        height: Pixels.
        box: What the patches cover; see `m2kr.report.explain.run.seen`.
    """

    uri: str
    width: int
    height: int
    box: Box

    @classmethod
    def of(cls, image: "Image", box: Box) -> "Picture":
        """An image, re-encoded as a JPEG of at most 720 pixels a side."""
        small = image.convert("RGB")
        small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        data = io.BytesIO()
        small.save(data, "JPEG", quality=_QUALITY)
        encoded = base64.b64encode(data.getvalue()).decode()
        return cls(f"data:image/jpeg;base64,{encoded}", *small.size, box)


@dataclass(frozen=True, slots=True)
class Heading:
    """What a panel is about; all of it is shown as text.

    Attributes:
        passage_id: The passage.
        title: Its title.
        facts: Short facts, such as its rank.
        relevant: Whether it is a positive of the query; None if not known.
        anchor: The panel's id in the page, for links.
    """

    passage_id: str
    title: str = ""
    facts: tuple[str, ...] = ()
    relevant: bool | None = None
    anchor: str = ""


def panel(explanation: Explanation, heading: Heading, picture: Picture | None = None) -> str:
    """One explanation as an HTML fragment.

    It needs `STYLE` once in its page; `SCRIPT` adds the linking of rows and tokens. Everything it
    shows is escaped.

    Args:
        explanation: What to show.
        heading: What it is about.
        picture: The query's image; None where the model was shown black.
    """
    badge = ""
    if heading.relevant is not None:
        badge = "relevant" if heading.relevant else "not marked as relevant"
        badge = f' <span class="mx-badge">{badge}</span>'
    shown = figure(explanation, picture)
    return (
        f'<section class="mx" id="{escape(heading.anchor)}">'
        f'<header class="mx-head"><div><h2>{escape(heading.title or heading.passage_id)}</h2>'
        f"{_facts((heading.passage_id, *heading.facts), badge)}</div>"
        f'<p class="mx-score"><b>{number(explanation.score)}</b>MaxSim score</p></header>'
        f"{_parts(explanation)}"
        f'<div class="mx-two{" mx-seen" if shown else ""}">{shown}<div>'
        f"<h3>Query</h3>{read_query(explanation)}{strips(explanation)}"
        '<p class="mx-hint">Stronger colour: the row gave more. Grey words are not counted.'
        f"{_cut(explanation.query_cut)}</p>"
        f"<h3>Passage</h3>{read_passage(explanation)}"
        '<p class="mx-hint">Blue: what the query’s text rows gave to a token; '
        "<u>orange line</u>: what the image’s rows gave. Square-root scale."
        f"{_cut(explanation.passage_cut)}</p>"
        f"</div></div>{token_table(explanation)}"
        f"<details><summary>All {len(explanation.rows)} query rows</summary>"
        f"{row_table(explanation)}</details></section>"
    )


def page(
    title: str,
    facts: Sequence[str],
    panels: Sequence[tuple[Explanation, Heading]],
    picture: Picture | None = None,
    *,
    note: str = "",
) -> str:
    """A whole page that needs nothing from elsewhere: no other file, no network.

    Its policy lets no script run but its own, whatever a passage holds.

    Args:
        title: The heading.
        facts: Short facts below it, such as model, source and query id.
        panels: Explanations of one query and their headings, in order.
        picture: The query's image.
        note: A sentence that a reader must not miss.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    warning = f'<p class="mx-note">{escape(note)}</p>' if note else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f'<body class="mx-page"><h1>{escape(title)}</h1>{_facts(facts)}{warning}'
        f"{_overview(panels) if len(panels) > 1 else ''}"
        f"{''.join(panel(each, heading, picture) for each, heading in panels)}"
        '<p class="mx-foot">The score is the sum, over all rows of the query, of the largest '
        "similarity with a token of the passage; its terms add up exactly. They say what a score is "
        "made of, not why the encoder sees two rows as similar.</p>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _cut(at: int | None) -> str:
    return "" if at is None else " Struck through: beyond the model’s length, not read."


def _facts(facts: Sequence[str], more: str = "") -> str:
    spans = "".join(f"<span>{escape(each)}</span>" for each in facts if each)
    return f'<p class="mx-facts">{spans}{more}</p>'


def _parts(explanation: Explanation) -> str:
    """The score's parts as one bar, with a key of numbers."""
    parts = explanation.parts
    bar = "".join(
        f'<i class="mx-c-{kind}" style="flex:{max(value, 0):.4f} 0 0" '
        f'title="{PARTS[kind]}: {number(value)}"></i>'
        for kind, value in parts.items()
        if value > 0
    )
    key = "".join(
        f'<li><i class="mx-c-{kind}"></i>{PARTS[kind]}<b>{number(value)}</b>'
        f"<span>{percent(explanation.share(value))}</span></li>"
        for kind, value in parts.items()
    )
    return f'<div class="mx-bar" aria-hidden="true">{bar}</div><ul class="mx-key">{key}</ul>'


def _overview(panels: Sequence[tuple[Explanation, Heading]]) -> str:
    """Scores and their parts side by side."""
    kinds = list(panels[0][0].parts)
    head = "".join(f'<th class="mx-n" scope="col">{PARTS[kind]}</th>' for kind in kinds)
    body = []
    for each, heading in panels:
        cells = "".join(f'<td class="mx-n">{number(each.parts[kind])}</td>' for kind in kinds)
        mark = "yes" if heading.relevant else "" if heading.relevant is None else "no"
        shown = f"<small>{escape(heading.passage_id)}</small>" if heading.title else ""
        body.append(
            f'<tr><th scope="row"><a href="#{escape(heading.anchor)}">'
            f"{escape(heading.title or heading.passage_id)}</a>{shown}</th><td>{mark}</td>"
            f'<td class="mx-n"><b>{number(each.score)}</b></td>{cells}</tr>'
        )
    return (
        '<table><thead><tr><th scope="col">Passage</th><th scope="col">Relevant</th>'
        f'<th class="mx-n" scope="col">Score</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )
