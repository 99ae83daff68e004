"""What each row of a query and a passage stands for, with its place in the text as it was written."""

import math
from typing import TYPE_CHECKING, NamedTuple

from m2kr.errors import InputError
from m2kr.preflmr.inputs import wordpiece
from m2kr.report.explain.pieces import Piece

if TYPE_CHECKING:
    from tokenizers import Encoding

    from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer

_RESERVED = ". "  # what the tokenizers put before a text; see `m2kr.preflmr.inputs.tokenization`
_ADDED = 3  # [CLS], the marker, [SEP]


class Pieces(NamedTuple):
    """The rows of one text.

    Attributes:
        pieces: What they stand for, in the order of the tokenizer's ids for this text alone.
        cut: Where in the text its reading stops; None if all of it is read.
    """

    pieces: tuple[Piece, ...]
    cut: int | None


def query_pieces(tokenizer: "QueryTokenizer", text: str) -> Pieces:
    """The rows of a query's text: [CLS] [Q] tokens [SEP], then fillers up to its length."""
    found = _pieces(tokenizer, text, "[Q]")
    fillers = [Piece("[MASK]", "filler")] * (tokenizer.maxlen - len(found.pieces))
    return Pieces((*found.pieces, *fillers), found.cut)


def passage_pieces(tokenizer: "ContextTokenizer", text: str) -> Pieces:
    """The rows of a passage: [CLS] [D] tokens [SEP], without filling."""
    return _pieces(tokenizer, text, "[D]")


def prefix_pieces(rows: int) -> tuple[Piece, ...]:
    """The rows that images give as a whole, through the MLP."""
    return tuple(Piece(f"image {n}", "prefix") for n in range(1, rows + 1))


def patch_pieces(rows: int) -> tuple[Piece, ...]:
    """The rows of an image's patches, from the top left, line by line.

    Raises:
        InputError: The patches don't make a square, as a vision transformer's do.
    """
    side = math.isqrt(rows)
    if side * side != rows:
        raise InputError(f"{rows} patches don't make a square", expected="49, 256 …")
    return tuple(Piece(f"patch {n // side + 1},{n % side + 1}", "patch") for n in range(rows))


def _pieces(tokenizer: "QueryTokenizer | ContextTokenizer", text: str, marker: str) -> Pieces:
    # Cleaning replaces characters one by one, some by several: where does each come from?
    cleaned = [wordpiece.cleaned(char, tokenizer.settings) for char in text]
    origin = [n for n, chars in enumerate(cleaned) for _ in chars]
    encoding: Encoding = tokenizer.pieces.encode(
        _RESERVED + "".join(cleaned), add_special_tokens=False
    )
    # The first token is the full stop; offsets are characters of the prefixed text.
    last, before = tokenizer.maxlen - _ADDED + 1, len(_RESERVED)
    inner = tuple(
        Piece(token, "text", origin[start - before], origin[end - before - 1] + 1)
        for token, (start, end) in zip(
            encoding.tokens[1:last], encoding.offsets[1:last], strict=True
        )
    )
    cut = None
    if len(encoding.tokens) > last:
        cut = max((each.end or 0 for each in inner), default=0)
    opening, closing = Piece("[CLS]", "special"), Piece("[SEP]", "special")
    return Pieces((opening, Piece(marker, "special"), *inner, closing), cut)
