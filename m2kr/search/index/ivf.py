"""Inverted lists, and walking over documents that lie one after another in a flat array."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class InvertedLists:
    """Centroid c's documents are ``documents[offsets[c]:offsets[c + 1]]``, distinct and increasing.

    Attributes:
        documents: Document numbers, list after list.
        offsets: (centroids + 1) int64.
    """

    documents: "NDArray[np.integer]"
    offsets: "NDArray[np.int64]"

    @classmethod
    def of(
        cls, codes: "NDArray[np.integer]", lengths: "NDArray[np.integer]", centroids: int
    ) -> Self:
        """Lists from the tokens' centroids and the documents' lengths in tokens.

        Args:
            codes: One centroid's number a token, document after document.
            lengths: Tokens a document.
            centroids: How many there are.
        """
        documents = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
        # Pairs as one number sort by centroid, then document.
        pairs = np.unique(codes.astype(np.int64) * max(1, len(lengths)) + documents)
        lists, members = np.divmod(pairs, max(1, len(lengths)))
        counts = np.bincount(lists, minlength=centroids)
        return cls(members.astype(np.int32), span_offsets(counts))

    @property
    def counts(self) -> "NDArray[np.int64]":
        """Documents a list."""
        return np.diff(self.offsets)

    def members(self, cells: "NDArray[np.integer]") -> "NDArray[np.int64]":
        """All documents of the given lists, one list after another, with repeats between lists."""
        return np.asarray(self.documents[positions_of(self.offsets, cells)], np.int64)


def span_offsets(lengths: "NDArray[np.integer]") -> "NDArray[np.int64]":
    """Where each of consecutive spans begins, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def positions_of(
    offsets: "NDArray[np.int64]", chosen: "NDArray[np.integer]"
) -> "NDArray[np.int64]":
    """The positions ``offsets[i]:offsets[i + 1]`` of every chosen i, one span after another."""
    starts = offsets[chosen]
    lengths = offsets[np.asarray(chosen) + 1] - starts
    before = np.cumsum(lengths) - lengths
    found: NDArray[np.int64] = np.arange(int(lengths.sum()), dtype=np.int64)
    found += np.repeat(starts - before, lengths)
    return found


def tiles(
    passages: "NDArray[np.int64]", offsets: "NDArray[np.int64]", tokens: int
) -> "Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]":
    """Passages of similar length together, as if they were all as long as the longest of them.

    Args:
        passages: Which ones.
        offsets: Passage i owns the tokens ``offsets[i]:offsets[i + 1]``.
        tokens: In a tile, at most, unless a single passage has more.

    Yields:
        Places in ``passages``; and their tokens' positions, (places * length), where shorter
        passages repeat their last token, which changes no maximum. Empty passages are left out.
    """
    starts = offsets[passages]
    lengths = offsets[passages + 1] - starts
    order = np.argsort(lengths, kind="stable")
    order = order[int(np.searchsorted(lengths[order], 1)) :]
    first = 0
    while first < len(order):
        count = max(1, tokens // int(lengths[order[first]]))
        # The last is the longest, and decides how many fit.
        longest = int(lengths[order[min(first + count, len(order)) - 1]])
        places = order[first : first + max(1, tokens // longest)]
        width = int(lengths[places[-1]])
        steps = np.minimum(np.arange(width), lengths[places, None] - 1)
        yield places, (starts[places, None] + steps).reshape(-1)
        first += len(places)
