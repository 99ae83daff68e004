"""What one row of a query or a passage stands for."""

from dataclasses import dataclass
from typing import Literal

#: ``special``: [CLS], the marker and [SEP]; ``filler``: a query's [MASK] tokens; ``prefix``: rows of
#: an image as a whole; ``patch``: rows of an image's patches; ``row``: rows of which the encoder
#: doesn't say more.
Kind = Literal["text", "special", "filler", "prefix", "patch", "row"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one row stands for.

    Attributes:
        label: The token, ``[Q]``, ``image 3``, ``patch 2,5`` (row, column, from 1), ``row 7``.
        kind: See `Kind`.
        start: Where it begins in the text, in characters; None unless ``kind`` is ``text``.
        end: Where it ends.
    """

    label: str
    kind: Kind
    start: int | None = None
    end: int | None = None
