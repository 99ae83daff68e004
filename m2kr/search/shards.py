"""A pool in ranges: cut it, search each range alone (`devices`), merge to the very same result.

A passage's canonical score depends on its tokens and the query alone, so the best k of the pool
are among the best k of its ranges, to the bits. Ties go by id across ranges as they do within one,
and an id that several ranges hold is kept once: with its best score and, of equal ones, the first
passage. Both are what `ranking.TopK` does with whatever it is given, in any order.

Ranges are consecutive passages of about equal tokens, which is what search costs. They begin where
a shard of the store does if one begins near enough (`cut`): then whoever searches a range reads
vectors from its own files alone. Of the other shards' files only lengths, checksums and ids are
read, some 20 bytes a passage.
"""

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import CheckError, UsageError
from m2kr.ranking import TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.search.store.reader import TokenSource, TokenStore

# How far, in shares, a cut may move to begin with a shard: the longest range is then at most a
# quarter longer than the mean.
_NEAR = 8


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Consecutive passages.

    Attributes:
        first: Number of the first one.
        last: One past the last.
    """

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def __str__(self) -> str:
        return f"passages {self.first:,} to {self.last - 1:,}" if len(self) else "no passages"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What the search of one range found.

    Attributes:
        span: The range.
        numbers: Passage numbers of the whole pool, (queries x up to k), best first; -1 where there
            are fewer.
        scores: float64, likewise; -inf where there are fewer.
    """

    span: Span
    numbers: "NDArray[np.int64]"
    scores: "NDArray[np.float64]"


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A range of a source as a source of its own, its passages numbered from 0.

    Attributes:
        source: The whole.
        span: Which passages.
        offsets: Where each begins among the range's tokens, and where the last one ends.
    """

    source: "TokenSource"
    span: Span
    offsets: "NDArray[np.int64]"

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.source.dim

    def read(
        self, first: int, last: int, out: "NDArray[np.float16] | None" = None
    ) -> "NDArray[np.float16]":
        """The tokens of passages ``first`` to ``last - 1`` of the range, in ``out`` if given."""
        return self.source.read(self.span.first + first, self.span.first + last, out)


def cut(
    offsets: "NDArray[np.int64]", count: int, edges: "Sequence[int] | NDArray[np.int64]" = ()
) -> list[Span]:
    """Cuts a pool into ranges of about equal tokens.

    Args:
        offsets: Where each passage begins among all tokens, and where the last one ends.
        count: Ranges; some are empty if there are fewer passages.
        edges: First passages of the store's shards. A cut moves to one that is at most an eighth
            of a range away.

    Raises:
        UsageError: ``count`` is less than 1.
    """
    if count < 1:
        raise UsageError(f"a pool can't be cut into {count} ranges", expected="at least 1")
    tokens = int(offsets[-1])
    wanted = np.array([tokens * number // count for number in range(1, count)], np.int64)
    places = _nearest(offsets, wanted)
    if len(edges):
        near = np.sort(np.asarray(edges, np.int64))
        near = near[_nearest(offsets[near], wanted)]
        close = np.abs(offsets[near] - wanted) * _NEAR * count <= tokens
        places = np.where(close, near, places)
    places = np.maximum.accumulate(places)
    bounds = [0, *places.tolist(), len(offsets) - 1]
    return [Span(first, last) for first, last in pairwise(bounds)]


def _nearest(values: "NDArray[np.int64]", wanted: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Places of the values nearest to the wanted ones; the values increase."""
    right = np.clip(np.searchsorted(values, wanted), 1, max(1, len(values) - 1))
    right = np.minimum(right, len(values) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - values[left] <= values[right] - wanted, left, right)


def spans(store: "TokenStore", count: int) -> list[Span]:
    """`cut` of a token store, beginning with its shards where they are fine enough."""
    sizes = [shard.passages for shard in store.shards]
    return cut(store.offsets, count, np.cumsum([0, *sizes]))


def slice_of(source: "TokenSource", span: Span) -> Slice:
    """A range of a source.

    Raises:
        UsageError: the source has no such range.
    """
    if not 0 <= span.first <= span.last < len(source.offsets):
        raise UsageError(f"{span} of {len(source.offsets) - 1:,} were asked for")
    offsets = source.offsets[span.first : span.last + 1]
    return Slice(source, span, offsets - offsets[0])


def merge(
    parts: "Sequence[Part]", k: int, ranks: "NDArray[np.int64]"
) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
    """What search of the whole pool returns, from the parts of all its ranges.

    Args:
        parts: In any order; each of the best ``k`` of its range, or of more.
        k: Passages per query.
        ranks: Per passage of the pool the rank of its id.

    Returns:
        Numbers and scores as `exact.search`.

    Raises:
        CheckError: a passage of the pool is in no range, or in two.
        UsageError: parts are of different numbers of queries.
    """
    check_cover([part.span for part in parts], len(ranks))
    counts = {len(part.numbers) for part in parts}
    if len(counts) > 1:
        raise UsageError(f"the parts are of {sorted(counts)} queries", expected="as many in each")
    best = TopK(max(counts, default=0), ranks, k)
    for part in parts:
        queries, places = np.nonzero(part.numbers >= 0)
        best.push(queries, part.numbers[queries, places], part.scores[queries, places])
    return best.result()


def check_cover(found: "Sequence[Span]", passages: int) -> None:
    """Refuses ranges that leave a passage out, or hold one twice.

    Raises:
        CheckError: names the first such passages.
    """
    at = 0
    for span in sorted(span for span in found if len(span)):
        if span.first != at:
            what = f"no part holds {Span(at, span.first)}" if span.first > at else f"{span} overlap"
            raise CheckError(
                what, expected="every passage in one part", fix="search what is missing"
            )
        at = span.last
    if at != passages:
        raise CheckError(
            f"no part holds {Span(at, passages)}",
            expected=f"parts of all {passages:,} passages",
            fix="search what is missing",
        )


def fingerprint(store: "TokenStore") -> str:
    """SHA-256 of what a store's records say: its settings, and the checksums of its files.

    Copies have the same; a store that has grown has another.
    """
    told = {
        "settings": {"dim": store.dim, "meta": dict(store.meta)},
        "shards": [dict(shard.sha256) for shard in store.shards],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
