"""The query's image with what each of its patches gave laid over it, as inline SVG."""

from typing import TYPE_CHECKING

from m2kr.report.explain.explanation import Explanation
from m2kr.report.explain.text import escape, number, row_title

if TYPE_CHECKING:
    from m2kr.report.explain.page import Picture

#: Left, top, right and bottom as fractions of an image's width and height.
Box = tuple[float, float, float, float]

_PLATE = 448  # side of the plate that stands for a black image


def figure(explanation: Explanation, picture: "Picture | None") -> str:
    """A figure with image, heat map and scale; empty where the query has no image rows at all.

    The scale runs from the least to the most that a patch gave, as patches of one image differ
    little; the numbers stand beside it.
    """
    if not any(row.piece.kind in ("prefix", "patch") for row in explanation.rows):
        return ""
    drawn, view = _canvas(picture)
    grid = explanation.grid
    caption = "" if picture else "<div>No image: the model was shown a black one.</div>"
    if grid is None:
        caption += "<div>This model has rows for the whole image only, none for patches.</div>"
        return _svg(view, drawn, "The query’s image", caption)
    low, high = float(grid.min()), float(grid.max())
    box = picture.box if picture else (0.0, 0.0, 1.0, 1.0)
    width, height = (picture.width, picture.height) if picture else (_PLATE, _PLATE)
    left, top = box[0] * width, box[1] * height
    wide, high_ = (box[2] - box[0]) * width, (box[3] - box[1]) * height
    side = len(grid)
    patches = [row for row in explanation.rows if row.piece.kind == "patch"]
    rects = []
    for n, row in enumerate(patches):
        weight = (row.similarity - low) / (high - low) if high > low else 0.5
        target = "" if row.best is None else f' data-t="{row.best}"'
        rects.append(
            f'<rect x="{left + n % side * wide / side:.2f}" '
            f'y="{top + n // side * high_ / side:.2f}" '
            f'width="{wide / side:.2f}" height="{high_ / side:.2f}" '
            f'style="--w:{weight:.3f}"{target}>'
            f"<title>{escape(row_title(explanation, row))}</title></rect>"
        )
    caption = (
        f'<div class="mx-scale">{number(low)}<i></i>{number(high)}'
        f'<label><input type="checkbox"> image only</label></div>{caption}'
        f"<div>What each of {side} × {side} patches gave. "
        f"{'What lies outside the patches is cut off.' if _cut(box) else ''}</div>"
    )
    label = f"Heat map of {side} × {side} patches, from {number(low)} to {number(high)}"
    return _svg(view, f'{drawn}<g class="mx-heat">{"".join(rects)}</g>', label, caption)


def _canvas(picture: "Picture | None") -> tuple[str, str]:
    """The image, what the model doesn't see of it veiled, and the view that holds image and box."""
    if picture is None:
        return "", f"0 0 {_PLATE} {_PLATE}"
    width, height, box = picture.width, picture.height, picture.box
    left, top = min(0.0, box[0]) * width, min(0.0, box[1]) * height
    right, bottom = max(1.0, box[2]) * width, max(1.0, box[3]) * height
    drawn = (
        f'<image class="mx-photo" href="{escape(picture.uri)}" width="{width}" height="{height}"/>'
    )
    if _cut(box):
        x1, y1, x2, y2 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
        drawn += (
            f'<path class="mx-out" fill-rule="evenodd" d="M0 0H{width}V{height}H0Z'
            f'M{x1:.2f} {y1:.2f}H{x2:.2f}V{y2:.2f}H{x1:.2f}Z"/>'
        )
    return drawn, f"{left:.2f} {top:.2f} {right - left:.2f} {bottom - top:.2f}"


def _cut(box: Box) -> bool:
    return box[0] > 0 or box[1] > 0 or box[2] < 1 or box[3] < 1


def _svg(view: str, inside: str, label: str, caption: str) -> str:
    return (
        '<figure class="mx-figure"><h3>Image</h3>'
        f'<svg viewBox="{view}" role="img" aria-label="{escape(label)}">{inside}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
