"""What the result of one shard must tell, so that results of separate jobs can be merged.

A job of an array searches its shard (``--shard 2/3``) and writes a run file; nobody holds the whole.
Facts in its metadata tell which passages of which store it searched, for which queries and k.
`check` refuses parts that don't make a whole before `merge_named` makes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.ranking import TopK, id_ranks
from m2kr.search.shards import Span, check_cover

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY = "part"
_MAKE = "m2kr index search STORE QUERIES --shard I/N --out PART.parquet"


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
class Facts:
    """What a part was made of.

    Attributes:
        number: Of the shard, from 1.
        of: Shards of the search.
        first: First passage of its range.
        last: One past its last.
        passages: Of the whole store.
        k: Passages a query.
        store: `shards.fingerprint` of the store.
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
        return {KEY: asdict(self)}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any], where: str) -> Self:
        """The facts in a run's metadata.

        Args:
            metadata: Of the run.
            where: Its file, for errors.

        Raises:
            InputError: it is of no part, or its facts make no sense.
        """
        told = metadata.get(KEY)
        kinds = {field.name: field.type for field in fields(cls)}
        if isinstance(told, dict) and {n: type(v) for n, v in told.items()} == kinds:
            found = cls(**told)
            shares = 1 <= found.number <= found.of
            if shares and 0 <= found.first <= found.last <= found.passages and found.k >= 1:
                return found
        raise InputError("this run is no part of a search", where=where, expected=f"from {_MAKE}")


def check(parts: Mapping[str, Facts]) -> None:
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
    check_cover([Span(facts.first, facts.last) for facts in parts.values()], one.passages)


_MUST_AGREE = {
    "store": "of a store with fingerprint",
    "queries": "for queries with fingerprint",
    "k": "for k =",
    "of": "in a number of shards that is",
    "passages": "of a number of passages that is",
}


def _short(value: int | str) -> str:
    return value[:16] if isinstance(value, str) else str(value)


def merge_named(
    parts: "Sequence[tuple[NDArray[np.int64], Any, NDArray[np.float64]]]", queries: int, k: int
) -> "tuple[Any, NDArray[np.int64], NDArray[np.float64]]":
    """`merge` of results that have ids in place of passage numbers.

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
