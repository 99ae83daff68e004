"""Why a passage got its score: which of its tokens each query row matched, and what that gave.

The score is s(q, d) = sum over query rows of the largest product with a passage row (MaxSim), so it
falls apart exactly into one term a query row, each owed to one passage token. Those terms are what is
shown here; they say what the score is made of, not why the encoder made the rows as they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import InputError
from m2kr.report.explain.pieces import Kind, Piece

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

KINDS: tuple[Kind, ...] = ("text", "special", "filler", "prefix", "patch", "row")
_IMAGE_KINDS = ("prefix", "patch")


@dataclass(frozen=True, slots=True)
class QueryRow:
    """One row of the query.

    Attributes:
        piece: What it stands for.
        counts: False for rows that the model zeroes, such as the instruction's.
        best: Place of the passage token that it matched, the first of equals; None if it doesn't
            count.
        similarity: Its product with that token: its term of the score, 0 if it doesn't count.
    """

    piece: Piece
    counts: bool
    best: int | None
    similarity: float


@dataclass(frozen=True, slots=True)
class PassageToken:
    """One row of the passage.

    Attributes:
        piece: What it stands for.
        counts: False for punctuation, which the model leaves out.
        rows: How many query rows matched it.
        from_text: Sum of the terms of text rows that matched it.
        from_image: Sum of the terms of image rows that matched it.
    """

    piece: Piece
    counts: bool
    rows: int
    from_text: float
    from_image: float

    @property
    def received(self) -> float:
        """All that the score owes to this token."""
        return self.from_text + self.from_image


@dataclass(frozen=True, slots=True)
class Explanation:
    """A score in its terms. ``sum(row.similarity)`` and ``sum(token.received)`` both equal it.

    Attributes:
        query: The query's text: instruction and question.
        passage: The passage's text.
        score: MaxSim, summed in float64.
        rows: The query's rows in the model's order.
        tokens: The passage's rows in the model's order.
        query_cut: Where the reading of the query stops, in characters; None if nothing is cut.
        passage_cut: Likewise for the passage.
    """

    query: str
    passage: str
    score: float
    rows: tuple[QueryRow, ...]
    tokens: tuple[PassageToken, ...]
    query_cut: int | None = None
    passage_cut: int | None = None

    def share(self, part: float) -> float:
        """A part of the score as a fraction of it; 0 where the score is 0."""
        return part / self.score if self.score else 0.0

    @property
    def parts(self) -> dict[Kind, float]:
        """What each kind of query row gave, kinds without a row left out; sums to the score."""
        return {
            kind: math.fsum(row.similarity for row in self.rows if row.piece.kind == kind)
            for kind in KINDS
            if any(row.piece.kind == kind for row in self.rows)
        }

    @property
    def grid(self) -> "NDArray[np.float64] | None":
        """What each patch gave, (side x side) from the top left; None without patches."""
        values = [row.similarity for row in self.rows if row.piece.kind == "patch"]
        if not values:
            return None
        side = math.isqrt(len(values))
        return np.array(values).reshape(side, side)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "score": self.score,
            "parts": dict(self.parts),
            "query": self.query,
            "query_cut": self.query_cut,
            "passage": self.passage,
            "passage_cut": self.passage_cut,
            "rows": [
                _piece(row.piece)
                | {
                    "counts": row.counts,
                    "best": row.best,
                    "similarity": row.similarity,
                    "share": self.share(row.similarity),
                }
                for row in self.rows
            ],
            "tokens": [
                _piece(token.piece)
                | {
                    "counts": token.counts,
                    "rows": token.rows,
                    "from_text": token.from_text,
                    "from_image": token.from_image,
                    "share": self.share(token.received),
                }
                for token in self.tokens
            ],
        }


def explain(
    query_rows: "ArrayLike",
    query_pieces: Sequence[Piece],
    passage_rows: "ArrayLike",
    passage_pieces: Sequence[Piece],
    passage_counts: "ArrayLike",
    *,
    query: str = "",
    passage: str = "",
    query_cut: int | None = None,
    passage_cut: int | None = None,
) -> Explanation:
    """A score taken apart.

    Args:
        query_rows: (Q x dim), as `PreFLMR.query` gives them; zero rows don't count.
        query_pieces: What the Q rows stand for.
        passage_rows: (D x dim), as `PreFLMR.doc` gives them.
        passage_pieces: What the D rows stand for.
        passage_counts: D booleans, false for rows that take no part in the maximum.
        query: The text that the query's pieces have their places in.
        passage: Likewise for the passage.
        query_cut: Where the reading of ``query`` stops.
        passage_cut: Where the reading of ``passage`` stops.

    Raises:
        InputError: Rows and pieces differ in number, a value isn't finite, or no passage row counts.
    """
    left, right, taken = _checked(
        query_rows, query_pieces, passage_rows, passage_pieces, passage_counts
    )
    places = np.flatnonzero(taken)
    products = left @ right[places].T
    best = places[products.argmax(axis=1)]
    counts: NDArray[np.bool_] = (left != 0).any(axis=1)
    similarity = np.where(counts, products.max(axis=1), 0.0)
    of_image = np.array([each.kind in _IMAGE_KINDS for each in query_pieces], bool)
    received = [
        np.bincount(best[chosen], similarity[chosen], minlength=len(right))
        for chosen in (counts & ~of_image, counts & of_image)
    ]
    matched = np.bincount(best[counts], minlength=len(right))
    return Explanation(
        query=query,
        passage=passage,
        score=math.fsum(similarity),
        rows=tuple(
            QueryRow(piece, bool(c), int(b) if c else None, float(s))
            for piece, c, b, s in zip(query_pieces, counts, best, similarity, strict=True)
        ),
        tokens=tuple(
            PassageToken(piece, bool(c), int(n), float(text), float(image))
            for piece, c, n, text, image in zip(
                passage_pieces, taken, matched, *received, strict=True
            )
        ),
        query_cut=query_cut,
        passage_cut=passage_cut,
    )


def _checked(
    query_rows: "ArrayLike",
    query_pieces: Sequence[Piece],
    passage_rows: "ArrayLike",
    passage_pieces: Sequence[Piece],
    passage_counts: "ArrayLike",
) -> "tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]":
    left, right = np.asarray(query_rows, np.float64), np.asarray(passage_rows, np.float64)
    taken = np.asarray(passage_counts, bool)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise InputError(
            f"the rows have the shapes {left.shape} and {right.shape}",
            expected="(query rows x dim) and (passage rows x dim)",
        )
    if len(left) != len(query_pieces) or not len(right) == len(passage_pieces) == len(taken):
        raise InputError(
            f"{len(left)} query rows have {len(query_pieces)} pieces, {len(right)} passage rows "
            f"{len(passage_pieces)} pieces and a mask of {len(taken)}"
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise InputError("a row holds NaN or infinity", fix="encode in float32")
    if not taken.any():
        raise InputError("no row of the passage counts")
    return left, right, taken


def _piece(piece: Piece) -> dict[str, Any]:
    return {"label": piece.label, "kind": piece.kind, "start": piece.start, "end": piece.end}
