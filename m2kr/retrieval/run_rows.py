"""The rows behind a `Run` and their rules: coded ids, THE tie rule, what is refused, and the digest."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TooManyRows(InputError):
    """A run file has more rows than it may have."""


@dataclass(frozen=True, eq=False, repr=False)
class RunRows:
    """The rows of a run, flat, query after query; what run files are read to and written from.

    Attributes:
        query_ids: Queries in order; a query may have no rows.
        offsets: Where each query's rows begin (int64), and one end more.
        codes: Per row its passage (int32) as a place in ``vocabulary``.
        vocabulary: Every passage id once, ascending; an Arrow large_string array.
        flat_scores: Per row its score (float64).
        name: What made them.
        metadata: JSON values kept with them.
    """

    query_ids: tuple[str, ...]
    offsets: "NDArray[np.int64]"
    codes: "NDArray[np.int32]"
    vocabulary: pa.Array
    flat_scores: "NDArray[np.float64]"
    name: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def counts(self) -> "NDArray[np.int64]":
        """Rows of each query."""
        return np.diff(self.offsets)

    def owners(self) -> "NDArray[np.int64]":
        """Per row the number of its query."""
        return np.repeat(np.arange(len(self.query_ids)), self.counts())

    def ids_of(self, codes: "NDArray[np.int32]") -> pa.Array:
        """The passage ids that some codes stand for."""
        return self.vocabulary.take(pa.array(codes))

    def by_query(self) -> Iterator[tuple[str, "NDArray[np.int32]", "NDArray[np.float64]"]]:
        """Query id, codes and scores, query after query."""
        for query_id, start, end in zip(
            self.query_ids, self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True
        ):
            yield query_id, self.codes[start:end], self.flat_scores[start:end]


def row_offsets(counts: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Where each query's rows begin, and one end more."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def encode_ids(ids: "Sequence[str] | pa.Array") -> tuple["NDArray[np.int32]", pa.Array]:
    """Codes and the sorted distinct ids they stand for, so that comparing codes compares ids."""
    if not isinstance(ids, pa.Array):
        try:
            ids = pa.array(ids, pa.large_string())
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError) as err:
            raise InputError(f"a passage id is not a string of text: {err}") from err
    if not pa.types.is_dictionary(ids.type):
        ids = ids.cast(pa.large_string()).dictionary_encode()
    if ids.null_count:
        raise InputError("a passage id is null", expected="a string")
    names = ids.dictionary.cast(pa.large_string())
    codes = ids.indices.to_numpy(zero_copy_only=False)
    present = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    names = names.take(pa.array(present))
    # Dense ranks: names that are equal (a pool that repeats an id) fall together.
    rank = np.asarray(pc.rank(names, sort_keys="ascending", tiebreaker="dense"), np.int64) - 1
    _, first = np.unique(rank, return_index=True)
    of_code = np.zeros(int(present[-1]) + 1 if len(present) else 0, np.int32)
    of_code[present] = rank
    return of_code[codes], names.take(pa.array(first))


# How passages that score alike are ordered: ``m2kr``: ids ascending; ``trec``: descending, as trec_eval
# 10 does; ``trec9``: that, where scores alike are those equal in single precision, as for trec_eval
# before 10 and pytrec_eval. Ids compare as UTF-8 bytes.
Ties = Literal["m2kr", "trec", "trec9"]


def tie_order(rows: RunRows, ties: Ties = "m2kr") -> "NDArray[np.int64] | None":
    """The order of rows under a tie rule, or None where they already are in it."""
    owners, codes, scores = rows.owners(), rows.codes, rows.flat_scores
    if ties == "trec9":
        with np.errstate(over="ignore", under="ignore"):
            scores = scores.astype(np.float32).astype(np.float64)
    if ties != "m2kr":
        codes = -codes
    down = (scores[:-1] > scores[1:]) | ((scores[:-1] == scores[1:]) & (codes[:-1] < codes[1:]))
    if bool((down | (owners[:-1] < owners[1:])).all()):
        return None
    return np.lexsort((codes, -scores, owners))


def checked_rows(rows: RunRows) -> RunRows:
    """Rows whose queries' passages come in any order, under THE tie rule.

    Raises:
        InputError: a NaN or infinite score, or a passage twice under one query.
    """
    owners, scores = rows.owners(), rows.flat_scores + 0.0  # -0.0 becomes 0.0
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        query, passage = rows.query_ids[owners[bad[0]]], rows.vocabulary[int(rows.codes[bad[0]])]
        raise InputError(
            f"query '{query}', passage '{passage}' scores {scores[bad[0]]}, and {len(bad) - 1} other "
            "rows are not finite either",
            expected="finite scores; leave out what should not be ranked",
        )
    keys = np.sort(owners * max(1, len(rows.vocabulary)) + rows.codes)
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if len(same):
        owner, code = divmod(int(keys[same[0]]), len(rows.vocabulary))
        raise InputError(
            f"query '{rows.query_ids[owner]}' ranks passage '{rows.vocabulary[code]}' twice",
            expected="each passage once per query",
        )
    rows = replace(rows, flat_scores=scores)
    order = tie_order(rows)
    return (
        rows if order is None else replace(rows, codes=rows.codes[order], flat_scores=scores[order])
    )


def rows_sha256(rows: RunRows) -> str:
    """The sha256 of a ranking: of the sha256 of each query's part, sorted by the query ids' bytes.

    A part is, with numbers as little-endian uint64: the id's length and UTF-8, the number of rows,
    each passage id's length, their UTF-8 joined, and the scores as little-endian float64.
    """
    digests: list[tuple[bytes, bytes]] = []
    for query_id, codes, scores in rows.by_query():
        ids = rows.ids_of(codes).cast(pa.large_binary())
        lengths = pc.binary_length(ids).to_numpy(zero_copy_only=False).astype("<u8")
        raw = query_id.encode()
        row = hashlib.sha256(np.array([len(raw)], "<u8").tobytes() + raw)
        row.update(np.array([len(ids)], "<u8").tobytes() + lengths.tobytes())
        row.update(b"".join(ids.to_pylist()))
        row.update(scores.astype("<f8").tobytes())
        digests.append((raw, row.digest()))
    total = hashlib.sha256(b"m2kr-run1\0")
    for _, part in sorted(digests):
        total.update(part)
    return total.hexdigest()
