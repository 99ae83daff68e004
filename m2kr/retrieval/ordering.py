"""The rules behind a `Run`: coded ids, THE tie rule, what is refused, and the digest of a ranking."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


def tie_rule(
    owner: "NDArray[np.int64]",
    codes: "NDArray[np.int32]",
    scores: "NDArray[np.float64]",
    ties: Ties = "m2kr",
) -> "NDArray[np.int64] | None":
    """The order of rows under the tie rule, or None where they already are in it."""
    if ties == "trec9":
        with np.errstate(over="ignore", under="ignore"):
            scores = scores.astype(np.float32).astype(np.float64)
    if ties != "m2kr":
        codes = -codes
    down = (scores[:-1] > scores[1:]) | ((scores[:-1] == scores[1:]) & (codes[:-1] < codes[1:]))
    if bool((down | (owner[:-1] < owner[1:])).all()):
        return None
    return np.lexsort((codes, -scores, owner))


def check_scores(
    scores: "NDArray[np.float64]",
    owner: "NDArray[np.int64]",
    queries: Sequence[str],
    codes: "NDArray[np.int32]",
    vocabulary: pa.Array,
) -> None:
    """Refuses scores that are NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        row = bad[0]
        raise InputError(
            f"query '{queries[owner[row]]}', passage '{vocabulary[int(codes[row])]}' scores "
            f"{scores[row]}, and {len(bad) - 1} other rows are not finite either",
            expected="finite scores; leave out what should not be ranked",
        )


def check_repeats(
    owner: "NDArray[np.int64]",
    codes: "NDArray[np.int32]",
    queries: Sequence[str],
    vocabulary: pa.Array,
) -> None:
    """Refuses a passage that a query ranks twice."""
    keys = np.sort(owner * max(1, len(vocabulary)) + codes)
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if len(same):
        query, code = divmod(int(keys[same[0]]), len(vocabulary))
        raise InputError(
            f"query '{queries[query]}' ranks passage '{vocabulary[code]}' twice",
            expected="each passage once per query",
        )


def digest(
    query_ids: Sequence[str],
    offsets: "NDArray[np.int64]",
    codes: "NDArray[np.int32]",
    vocabulary: pa.Array,
    scores: "NDArray[np.float64]",
) -> str:
    """The sha256 of a ranking: of the sha256 of each query's part, sorted by the query ids' bytes.

    A part is, with numbers as little-endian uint64: the id's length and UTF-8, the number of rows,
    each passage id's length, their UTF-8 joined, and the scores as little-endian float64.
    """
    digests: list[tuple[bytes, bytes]] = []
    for place, query_id in enumerate(query_ids):
        rows = slice(int(offsets[place]), int(offsets[place + 1]))
        ids = vocabulary.take(pa.array(codes[rows])).cast(pa.large_binary())
        lengths = pc.binary_length(ids).to_numpy(zero_copy_only=False).astype("<u8")
        raw = query_id.encode()
        row = hashlib.sha256(np.array([len(raw)], "<u8").tobytes() + raw)
        row.update(np.array([len(ids)], "<u8").tobytes() + lengths.tobytes())
        row.update(b"".join(ids.to_pylist()))
        row.update(scores[rows].astype("<f8").tobytes())
        digests.append((raw, row.digest()))
    total = hashlib.sha256(b"m2kr-run1\0")
    for _, part in sorted(digests):
        total.update(part)
    return total.hexdigest()
