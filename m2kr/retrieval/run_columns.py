"""What the columns of a run file are called and hold, and the rows they make."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from m2kr.errors import InputError
from m2kr.retrieval.run_rows import RunRows, encode_ids, row_offsets

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("m2kr.retrieval")

ESCAPED = "+pct"  # behind the names of columns whose ids are percent-encoded
Role = Literal["query", "passage", "rank", "score"]
# Names that columns have in headers, frames and Parquet files; the first is what we write.
NAMES: Mapping[Role, tuple[str, ...]] = {
    "query": ("q_id", "qid", "query_id", "query", "question_id", "topic_id", "topic"),
    "passage": ("doc_id", "docno", "docid", "pid", "passage_id", "corpus_id", "document_id", "doc"),
    "rank": ("rank", "position"),
    "score": ("score", "sim", "similarity", "relevance_score"),
}


def roles_of(names: Iterable[str]) -> dict[Role, int]:
    """Which column is what, by the names that are in use; an unknown name is nothing.

    Case and punctuation don't matter.
    """
    plain = [_simple(name.removesuffix(ESCAPED)) for name in names]
    roles: dict[Role, int] = {}
    for role, known in NAMES.items():
        place = next((plain.index(name) for name in map(_simple, known) if name in plain), None)
        if place is not None:
            roles[role] = place
    return roles


def _simple(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def kind_of_numbers(
    values: "NDArray[np.float64]", owners: "NDArray[np.int64]"
) -> Literal["ranks", "scores", "rising", "unclear"]:
    """What a column of numbers is, by how they run down the lines of each query.

    ``ranks``: they count up from 0, or from 1, in all queries. ``rising``: scores that rise in all.
    ``unclear``: whole numbers that are neither that nor scores for sure: they rise in all queries, or
    no query has one twice and they begin at 0 or 1, as ranks out of order would.
    """
    order = np.argsort(owners, kind="stable")
    owners, values = owners[order], values[order]
    inner = np.diff(owners) == 0
    rises = (values[1:] > values[:-1])[inner]
    if not rises.any():  # one passage a query, or best first
        return "scores"
    rising = bool(rises.all())
    if (values != np.floor(values)).any():
        return "rising" if rising else "scores"
    first = np.flatnonzero(np.concatenate([[True], ~inner]))
    position = np.arange(len(values)) - np.repeat(first, np.diff([*first, len(values)]))
    if any(np.array_equal(values, position + start) for start in (0, 1)):
        return "ranks"
    ranked = np.lexsort((values, owners))
    repeats = (values[ranked][1:] == values[ranked][:-1]) & inner
    if rising or (values.min() in (0, 1) and not repeats.any()):
        return "unclear"
    return "scores"


def unnamed_scores(
    values: "NDArray[np.float64]", owners: "NDArray[np.int64]", pointed: bool, path: Path
) -> "NDArray[np.float64]":
    """Scores from a column without a name that holds scores or ranks.

    Args:
        values: The column.
        owners: Per value the number of its query.
        pointed: It is written with decimal points, as ranks rarely are.
        path: For messages.

    Raises:
        InputError: it can be either.
    """
    kind = kind_of_numbers(values, owners)
    if kind == ("ranks" if pointed else "unclear"):
        raise InputError(
            "a column of whole numbers can be read in two ways: as ranks (the lowest is best) and as "
            "scores (the highest is best)",
            expected="ranks that count up from 0 or from 1 in every query's lines, or scores that "
            "don't rise; or a first line that names the columns",
            fix="put the line 'qid pid rank', or 'qid pid score', on top of the file",
        )
    if kind == "ranks":
        logger.info("%s: the third column is read as ranks", path)
        return -values
    if kind == "rising":
        logger.warning(
            "%s: scores rise down every query's lines, and the highest counts as best; distances "
            "have to be negated first",
            path,
        )
    return values


def ranks_agree(
    ranks: "NDArray[np.float64]", scores: "NDArray[np.float64]", owners: "NDArray[np.int64]"
) -> bool:
    """Whether numbers are ranks from 0 or 1, each once a query, that order as the scores do."""
    order = np.lexsort((ranks, owners))
    owners, ranks, scores = owners[order], ranks[order], scores[order]
    inner = np.diff(owners) == 0
    first = np.flatnonzero(np.concatenate([[True], ~inner]))
    return (
        bool(np.isin(ranks[first], (0, 1)).all())
        and bool((np.diff(ranks)[inner] == 1).all())
        and bool((scores[1:] <= scores[:-1])[inner].all())
    )


def rows_of_columns(
    queries: pa.Array,
    passages: pa.Array,
    scores: "NDArray[np.float64] | None" = None,
    ranks: "NDArray[np.int64] | None" = None,
    *,
    name: str = "",
    metadata: Mapping[str, Any] | None = None,
    empty: Sequence[tuple[int, str]] = (),
    where: str = "",
) -> RunRows:
    """A run's rows from columns in any order; queries come in the order in which they first appear.

    Args:
        queries: Per row a query id, plain or dictionary-encoded; a dictionary may have queries more.
        passages: Per row a passage id.
        scores: Per row a score; where there is none, the lowest rank is best.
        ranks: Per row a rank, only compared with the scores where there are both.
        name: What made them.
        metadata: JSON values kept with them.
        empty: Queries without rows, each behind its place among all queries, ascending.
        where: The file, for warnings.
    """
    if scores is None:
        assert ranks is not None
        scores, ranks = -ranks.astype(np.float64), None
    coded = queries.dictionary_encode()
    codes, vocabulary = encode_ids(passages)
    owners = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    if (np.diff(owners) < 0).any():
        order = np.argsort(owners, kind="stable")
        owners, codes, scores = owners[order], codes[order], scores[order]
        ranks = None if ranks is None else ranks[order]
    if ranks is not None:
        _compare_ranks(owners, scores, ranks, where)
    query_ids = coded.dictionary.to_pylist()
    counts = np.bincount(owners, minlength=len(query_ids)).tolist()
    query_ids, counts = _with_empty(query_ids, counts, empty)
    offsets = row_offsets(np.array(counts, np.int64))
    return RunRows(tuple(query_ids), offsets, codes, vocabulary, scores, name, metadata or {})


def _with_empty(
    query_ids: list[str], counts: list[int], empty: Iterable[tuple[int, str]]
) -> tuple[list[str], list[int]]:
    """All queries and their numbers of rows, in one pass: a stranger's file may name millions."""
    merged: list[tuple[str, int]] = []
    rest = zip(query_ids, counts, strict=True)
    for place, query_id in empty:
        merged += islice(rest, min(len(counts), max(0, place - len(merged))))
        merged.append((query_id, 0))
    merged += rest
    return [query_id for query_id, _ in merged], [count for _, count in merged]


def _compare_ranks(
    owners: "NDArray[np.int64]",
    scores: "NDArray[np.float64]",
    ranks: "NDArray[np.int64]",
    where: str,
) -> None:
    """Warns of ranks that put a passage before one with a higher score: scores count, as everywhere."""
    inner = np.diff(owners) == 0
    falls = (scores[1:] <= scores[:-1])[inner].all()
    if not (falls and (ranks[1:] >= ranks[:-1])[inner].all()):
        order = np.lexsort((ranks, -scores, owners))  # passages that score alike by rank
        wrong = (ranks[order][1:] < ranks[order][:-1]) & inner
        if wrong.any():
            logger.warning(
                "%s: the rank column disagrees with the scores in %d of %d queries; the scores count",
                where,
                len(np.unique(owners[:-1][wrong])),
                owners[-1] + 1,
            )
    tied, apart = scores[1:] == scores[:-1], ranks[1:] != ranks[:-1]
    if inner.any() and (tied & apart)[inner].all():
        logger.warning(
            "%s: in every query all scores are equal, so passage ids decide, not the rank column; for "
            "ranks give the columns qid pid rank",
            where,
        )
