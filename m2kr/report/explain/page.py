"""Explanations as HTML: panels that any page can take in, and a page of its own around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m2kr.report import html
from m2kr.report.explain import text
from m2kr.report.explain.explanation import Explanation, QueryRow

if TYPE_CHECKING:
    from PIL.Image import Image

#: Left, top, right and bottom as fractions of an image's width and height.
Box = tuple[float, float, float, float]

_WHOLE = (0.0, 0.0, 1.0, 1.0)
_PLATE = 448  # side of the plate that stands for a black image


@dataclass(frozen=True, slots=True)
class Picture(html.InlineImage):
    """A query's image, ready for a page.

    Attributes:
        box: What the patches cover; see `m2kr.report.explain.run.seen`.
    """

    box: Box = _WHOLE

    @classmethod
    def seen(cls, image: "Image", box: Box = _WHOLE) -> "Picture":
        """An image and what of it the model sees."""
        shown = html.InlineImage.of(image)
        return cls(shown.uri, shown.width, shown.height, box)


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

    It needs ``templates/style.css`` once in its page; ``templates/explain.js`` adds the linking of rows
    and tokens. Everything it shows is escaped.

    Args:
        explanation: What to show.
        heading: What it is about.
        picture: The query's image; None where the model was shown black.
    """
    module: Any = html.templates().get_template("panel.html").make_module(_helpers())
    return str(module.panel(explanation, heading, picture))


def page(
    title: str,
    facts: Sequence[str],
    panels: Sequence[tuple[Explanation, Heading]],
    picture: Picture | None = None,
    *,
    note: str = "",
) -> str:
    """A whole page.

    Args:
        title: The heading.
        facts: Short facts below it, such as model, source and query id.
        panels: Explanations of one query and their headings, in order.
        picture: The query's image.
        note: A sentence that a reader must not miss.
    """
    return html.render(
        "explain.html",
        "explain.js",
        title=title,
        items=facts,
        panels=panels,
        judged=any(heading.relevant is not None for _, heading in panels),
        beside=_beside(panels),
        picture=picture,
        photo=picture is not None and not any(_has_image_rows(one) for one, _ in panels),
        note=note,
        **_helpers(),
    )


def _beside(
    panels: Sequence[tuple[Explanation, Heading]],
) -> list[tuple[Explanation, Heading]]:
    """The first right passage and the first that isn't, to stand beside each other; or none."""
    first = {heading.relevant: (one, heading) for one, heading in reversed(panels)}
    return [first[True], first[False]] if {True, False} <= first.keys() else []


def _has_image_rows(explanation: Explanation) -> bool:
    return any(row.piece.kind in ("prefix", "patch") for row in explanation.rows)


def _helpers() -> dict[str, Any]:
    """What the panel's template calls."""
    return {
        "PARTS": text.PARTS,
        "LONG": text.LONG,
        "figure_of": _figure,
        "in_context": text.in_context,
        "markers": text.markers,
        "matchers": text.matchers,
        "name": text.name,
        "passage_stretches": text.passage_stretches,
        "query_stretches": text.query_stretches,
        "row_title": text.row_title,
        "strips_of": text.strips,
        "top_tokens": text.top_tokens,
    }


def _figure(explanation: Explanation, picture: Picture | None) -> dict[str, Any] | None:
    """The query's image with what each of its patches gave; None where it has no image rows at all.

    The scale runs from the least to the most that a patch gave, as patches of one image differ
    little; the numbers stand beside it.
    """
    if not _has_image_rows(explanation):
        return None
    width, height = (picture.width, picture.height) if picture else (_PLATE, _PLATE)
    box = picture.box if picture else _WHOLE
    x1, y1, x2, y2 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    left, top, right, bottom = min(0.0, x1), min(0.0, y1), max(width, x2), max(height, y2)
    cropped = box[0] > 0 or box[1] > 0 or box[2] < 1 or box[3] < 1
    figure: dict[str, Any] = {
        "view": f"{left:.2f} {top:.2f} {right - left:.2f} {bottom - top:.2f}",
        "cropped": cropped,
        "veil": f"M0 0H{width}V{height}H0ZM{x1:.2f} {y1:.2f}H{x2:.2f}V{y2:.2f}H{x1:.2f}Z"
        if cropped
        else "",
        "label": "The query’s image",
        "patches": [],
    }
    grid = explanation.grid
    if grid is None:
        return figure
    low, high, side = float(grid.min()), float(grid.max()), len(grid)
    rows = [row for row in explanation.rows if row.piece.kind == "patch"]
    steps = ((x2 - x1) / side, (y2 - y1) / side)

    def patch(place: int, row: QueryRow) -> dict[str, Any]:
        weight = (row.similarity - low) / (high - low) if high > low else 0.5
        return {
            "x": f"{x1 + place % side * steps[0]:.2f}",
            "y": f"{y1 + place // side * steps[1]:.2f}",
            "width": f"{steps[0]:.2f}",
            "height": f"{steps[1]:.2f}",
            "weight": f"{weight:.3f}",
            "best": row.best,
            "title": text.row_title(explanation, row),
        }

    scale = f"from {html.number(low)} to {html.number(high)}"
    return figure | {
        "label": f"Heat map of {side} × {side} patches, {scale}",
        "patches": [patch(place, row) for place, row in enumerate(rows)],
        "side": side,
        "low": low,
        "high": high,
    }
