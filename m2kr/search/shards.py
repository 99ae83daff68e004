"""A pool in ranges: cut it, search each range alone (`devices`), merge to the very same result.

A passage's canonical score depends on its tokens and the query alone, so the best k of the pool
are among the best k of its ranges, to the bits. Ties go by id across ranges as they do within one,
and an id that several ranges hold is kept once: with its best score and, of equal ones, the first
passage. Both are what `ranking.TopK` does with whatever it is given, in any order.

Jobs that each search a share write run files (``--shard 2/3``), and nobody holds the whole: facts in a
run's metadata tell which passages of which store it searched, for which queries and k. `check_parts`
refuses files that don't make a whole before `merge_parts` makes it.

Ranges are consecutive passages of about equal tokens, which is what search costs. They begin where
a shard of the store does if one begins near enough (`cut_ranges`): then whoever searches a range reads
vectors from its own files alone. Of the other shards' files only lengths, checksums and ids are
read, some 20 bytes a passage.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.ranking import TopK, id_ranks
from m2kr.search.store.reader import Slice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.search.store.reader import TokenSource, TokenStore

# How far, in shares, a cut may move to begin with a shard: the longest range is then at most a
# quarter longer than the mean.
_NEAR = 8
_KEY = "part"  # in the metadata of a run
_MAKE = "m2kr index search STORE QUERIES --shard I/N --out PART.parquet"


@dataclass(frozen=True, slots=True, order=True)
class PassageRange:
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
class RangeResult:
    """What the search of one range found.

    Attributes:
        span: The range.
        numbers: Passage numbers of the whole pool, (queries x up to k), best first; -1 where there
            are fewer.
        scores: float64, likewise; -inf where there are fewer.
    """

    span: PassageRange
    numbers: "NDArray[np.int64]"
    scores: "NDArray[np.float64]"


def cut_ranges(
    offsets: "NDArray[np.int64]", count: int, edges: "Sequence[int] | NDArray[np.int64]" = ()
) -> list[PassageRange]:
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
    return [PassageRange(first, last) for first, last in pairwise(bounds)]


def _nearest(values: "NDArray[np.int64]", wanted: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Places of the values nearest to the wanted ones; the values increase."""
    right = np.clip(np.searchsorted(values, wanted), 1, max(1, len(values) - 1))
    right = np.minimum(right, len(values) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - values[left] <= values[right] - wanted, left, right)


def ranges_of(store: "TokenStore", count: int) -> list[PassageRange]:
    """`cut_ranges` of a token store, beginning with its shards where they are fine enough."""
    sizes = [shard.passages for shard in store.shards]
    return cut_ranges(store.offsets, count, np.cumsum([0, *sizes]))


def slice_of(source: "TokenSource", span: PassageRange) -> Slice:
    """A range of a source.

    Raises:
        UsageError: the source has no such range.
    """
    if not 0 <= span.first <= span.last < len(source.offsets):
        raise UsageError(f"{span} of {len(source.offsets) - 1:,} were asked for")
    offsets = source.offsets[span.first : span.last + 1]
    return Slice(source, span.first, offsets - offsets[0])


def merge_results(
    parts: "Sequence[RangeResult]", k: int, ranks: "NDArray[np.int64]"
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


def check_cover(ranges: "Sequence[PassageRange]", passages: int) -> None:
    """Refuses ranges that leave a passage out, or hold one twice.

    Raises:
        CheckError: names the first such passages.
    """
    end = 0
    for span in sorted(span for span in ranges if len(span)):
        if span.first != end:
            missing = span.first > end
            what = (
                f"no part holds {PassageRange(end, span.first)}" if missing else f"{span} overlap"
            )
            raise CheckError(
                what, expected="every passage in one part", fix="search what is missing"
            )
        end = span.last
    if end != passages:
        raise CheckError(
            f"no part holds {PassageRange(end, passages)}",
            expected=f"parts of all {passages:,} passages",
            fix="search what is missing",
        )


def fingerprint_of(store: "TokenStore") -> str:
    """SHA-256 of what a store's records say: its settings, and the checksums of its files.

    Copies have the same; a store that has grown has another.
    """
    known = {
        "settings": {"dim": store.dim, "meta": dict(store.meta)},
        "shards": [dict(shard.sha256) for shard in store.shards],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def parse_share(text: str) -> tuple[int, int]:
    """``2/3`` as (2, 3).

    Raises:
        UsageError: it isn't a number and a count that is not less.
    """
    number, slash, of = text.partition("/")
    fits = slash and all(n.isascii() and n.isdecimal() and len(n) < 6 for n in (number, of))
    if not fits or not 1 <= int(number) <= int(of):
        raise UsageError(
            f"--shard {text!r} is no share of a search",
            expected="NUMBER/COUNT with 1 ≤ NUMBER ≤ COUNT, such as 2/3",
        )
    return int(number), int(of)


@dataclass(frozen=True, slots=True)
class PartFacts:
    """What a part was made of.

    Attributes:
        number: Of the shard, from 1.
        of: Shards of the search.
        first: First passage of its range.
        last: One past its last.
        passages: Of the whole store.
        k: Passages a query.
        store: `fingerprint_of` of the store.
        queries: And of the queries.
    """

    number: int
    of: int
    first: int
    last: int
    passages: int
    k: int
    store: str
    queries: str

    def as_metadata(self) -> dict[str, Any]:
        """For the metadata of a run."""
        return {_KEY: asdict(self)}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any], where: str) -> Self:
        """The facts in a run's metadata.

        Args:
            metadata: Of the run.
            where: Its file, for errors.

        Raises:
            InputError: it is of no part, or its facts make no sense.
        """
        recorded = metadata.get(_KEY)
        types = {field.name: field.type for field in fields(cls)}
        if isinstance(recorded, dict) and {n: type(v) for n, v in recorded.items()} == types:
            facts = cls(**recorded)
            shares = 1 <= facts.number <= facts.of
            if shares and 0 <= facts.first <= facts.last <= facts.passages and facts.k >= 1:
                return facts
        raise InputError("this run is no part of a search", where=where, expected=f"from {_MAKE}")


def check_parts(parts: Mapping[str, PartFacts]) -> None:
    """Refuses parts that don't make one whole.

    Args:
        parts: Facts by the files' names, one at least.

    Raises:
        CheckError: parts are of different stores, queries, k or shares, or overlap.
        MissingError: some are missing; names their shares.
        UsageError: there is none.
    """
    if not parts:
        raise UsageError("there is nothing to merge", fix=_MAKE)
    file, one = next(iter(parts.items()))
    for other, facts in parts.items():
        for name, what in _MUST_AGREE.items():
            ours, theirs = getattr(one, name), getattr(facts, name)
            if ours != theirs:
                raise CheckError(
                    f"it is a part of a search {what} {_short(theirs)}",
                    where=other,
                    expected=f"{_short(ours)}, as {file}",
                    fix="merge the parts of one search alone",
                )
    seen: dict[int, str] = {}
    for other, facts in parts.items():
        if facts.number in seen:
            raise CheckError(
                f"it is part {facts.number}/{facts.of}, and so is {seen[facts.number]}",
                where=other,
                expected="each part once",
            )
        seen[facts.number] = other
    missing = [number for number in range(1, one.of + 1) if number not in seen]
    if missing:
        listed = ", ".join(f"{number}/{one.of}" for number in missing[:8])
        raise MissingError(
            f"{len(missing)} of {one.of} parts are missing: {listed}"
            f"{' …' if len(missing) > 8 else ''}",
            fix=_MAKE.replace("I/N", f"{missing[0]}/{one.of}"),
        )
    check_cover([PassageRange(facts.first, facts.last) for facts in parts.values()], one.passages)


_MUST_AGREE = {
    "store": "of a store with fingerprint",
    "queries": "for queries with fingerprint",
    "k": "for k =",
    "of": "in a number of shards that is",
    "passages": "of a number of passages that is",
}


def _short(value: int | str) -> str:
    return value[:16] if isinstance(value, str) else str(value)


def merge_parts(
    parts: "Sequence[tuple[NDArray[np.int64], Any, NDArray[np.float64]]]", queries: int, k: int
) -> "tuple[Any, NDArray[np.int64], NDArray[np.float64]]":
    """`merge_results` of results that have ids in place of passage numbers.

    Args:
        parts: Per part each result's query number, id (an Arrow string array) and score.
        queries: How many.
        k: Passages per query.

    Returns:
        An Arrow column of ids; rows of it (queries x up to k), -1 where there are fewer; scores.
    """
    import pyarrow as pa

    ids = pa.chunked_array([column.cast(pa.large_string()) for _, column, _ in parts])
    best = TopK(queries, id_ranks(ids), k)
    first = 0
    for numbers, column, scores in parts:
        best.push(numbers, first + np.arange(len(column)), scores)
        first += len(column)
    return ids, *best.result()
