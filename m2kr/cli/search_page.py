"""The passages found for a question, as a page that needs nothing from elsewhere."""

import base64
import io
from typing import TYPE_CHECKING

from m2kr.report.explain.text import escape
from m2kr.report.style import STYLE

if TYPE_CHECKING:
    from m2kr.retrieval.adhoc import AdHocHit, AdHocResult

_LONGEST_SIDE = 720
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
_OWN = """
.mx-asked{display:grid;gap:28px;grid-template-columns:minmax(0,1fr)}
@media (min-width:700px){.mx-asked.mx-seen{grid-template-columns:minmax(200px,2fr) minmax(0,5fr)}}
.mx-asked img{display:block;max-width:100%;height:auto;border-radius:6px}
.mx-asked p{margin:0 0 12px}.mx-asked .mx-q{font-size:20px;line-height:1.35;white-space:pre-wrap}
.mx-bar i{background:var(--mx-text)}.mx .mx-bar{height:6px;margin:14px 0 12px;border-radius:3px;
background:var(--mx-line)}
.mx-rank{color:var(--mx-soft);font-weight:400;margin-right:10px;font-variant-numeric:tabular-nums}
.mx-text{white-space:pre-wrap;margin:0;unicode-bidi:isolate}
@media print{.mx+.mx{break-before:auto}.mx{break-inside:avoid}}
"""


def page(found: "AdHocResult", where: str, checkpoint: str | None = None) -> str:
    """The page; whatever passages and questions hold is shown as text, and no script runs.

    Args:
        found: What was asked and found.
        where: The pool, for the heading.
        checkpoint: The model, if it was chosen.
    """
    model = f", model {checkpoint}" if checkpoint else ""
    facts = (
        where,
        f"by {found.retriever}{model}",
        f"indexed in {found.seconds['index']:.1f} s, searched in {found.seconds['search']:.2f} s",
    )
    spans = "".join(f"<span>{escape(each)}</span>" for each in facts)
    notes = "".join(f'<p class="mx-note">{escape(note)}.</p>' for note in found.notes)
    title = found.question.text.strip() or "What is in this image?"
    nothing = f'<p class="mx-none">{escape(found.retriever)} found nothing.</p>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{_OWN}</style></head>"
        f'<body class="mx-page"><h1>Passages found</h1><p class="mx-facts">{spans}</p>'
        f"{_asked(found)}{notes}"
        f"{''.join(_passage(hit, found.hits) for hit in found.hits) or nothing}"
        "</body></html>\n"
    )


def _asked(found: "AdHocResult") -> str:
    question, image = found.question, found.question.picture()
    picture = ""
    if image is not None:
        small = image.copy()
        small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        data = io.BytesIO()
        small.save(data, "JPEG", quality=85)
        encoded = base64.b64encode(data.getvalue()).decode()
        picture = (
            f'<div><img src="data:image/jpeg;base64,{encoded}" width="{small.width}" '
            f'height="{small.height}" alt="The image that was asked about"></div>'
        )
    text = escape(question.text) if question.text.strip() else '<span class="mx-none">none</span>'
    return (
        f'<section class="mx"><div class="mx-asked{" mx-seen" if picture else ""}">{picture}<div>'
        f'<h3>Question</h3><p class="mx-q">{text}</p>'
        f"<h3>Instruction</h3><p>{escape(found.instruction)}</p></div></div></section>"
    )


def _passage(hit: "AdHocHit", hits: "tuple[AdHocHit, ...]") -> str:
    """A passage, with a bar as long as its score is a share of the best one's."""
    best = hits[0].score
    share = max(0.0, min(1.0, hit.score / best)) if best > 0 else 0.0
    bar = ""
    if best > 0:
        bar = f'<div class="mx-bar" aria-hidden="true"><i style="width:{share:.1%}"></i></div>'
    return (
        '<section class="mx"><header class="mx-head"><div>'
        f'<h2><span class="mx-rank">{hit.rank}</span>{escape(hit.title or hit.passage_id)}</h2>'
        f'<p class="mx-facts"><span>{escape(hit.passage_id)}</span></p></div>'
        f'<p class="mx-score"><b>{hit.score:.4g}</b>score</p></header>{bar}'
        f'<p class="mx-text">{escape(hit.text)}</p></section>'
    )
