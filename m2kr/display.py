"""Texts of strangers that are shown: on a terminal, which obeys some characters, and as HTML."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

# What a terminal obeys instead of showing it: control characters (but for tab and line feed), and
# those that change the direction of a text.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# What HTML can't hold, UTF-8 can't encode, or turns round all that stands after it.
_UNFIT = re.compile(
    "[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
)
_QUALITY = 85
_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"


def printable(text: str) -> str:
    r"""A text in which whatever a terminal would obey is escaped: ESC becomes ``\x1b``."""
    return _COMMANDS.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def on_one_line(text: str) -> str:
    """A `printable` text whose line ends and runs of blanks are one blank each."""
    return printable(" ".join(text.split()))


def fit_for_html(text: str) -> str:
    """A text with a replacement character for each that a page must not hold; not escaped."""
    return _UNFIT.sub("\ufffd", text)


def escaped(text: object) -> str:
    """A text as HTML shows it."""
    return html.escape(fit_for_html(str(text)))


def html_table(caption: str, rows: Iterable[Sequence[object]], heads: Sequence[object] = ()) -> str:
    """A small table of texts for a notebook; all of it is escaped.

    Args:
        caption: What stands above it.
        rows: Its cells.
        heads: Of its columns.
    """

    def line(cells: Sequence[object], tag: str) -> str:
        shown = (f'<{tag} style="{_CELL}">{escaped(cell)}</{tag}>' for cell in cells)
        return f"<tr>{''.join(shown)}</tr>"

    head = f"<thead>{line(heads, 'th')}</thead>" if heads else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<div><b>{escaped(caption)}</b><table>{head}<tbody>{body}</tbody></table></div>"


def jpeg_uri(image: "Image", longest: int) -> tuple[str, tuple[int, int]]:
    """An image as the ``data:`` URI of a JPEG of at most ``longest`` pixels a side, and its size."""
    small = image.convert("RGB")
    small.thumbnail((longest, longest))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}", small.size
