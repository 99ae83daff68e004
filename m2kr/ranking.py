"""Exact top-k under the tie rule, from scores that arrive block by block."""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_SPARE_PAIRS = 1 << 16  # pairs that wait before the first sort, however small k is


def id_ranks(ids: "pa.Array | pa.ChunkedArray") -> "NDArray[np.int64]":
    """Each row's place among the distinct ids in ascending (UTF-8 byte) order; equal ids share one."""
    import pyarrow.compute as pc

    ranks = pc.rank(ids, sort_keys="ascending", tiebreaker="dense")
    return np.asarray(ranks, np.int64) - 1


class TopK:
    """Keeps every query's best ``k`` passages while scores stream by.

    Best is: score descending, then passage id ascending, at the boundary too. What comes out does
    not depend on the blocks or their order. A passage id that several rows share (the official
    E-VQA pool has some) is kept once, with its best score and, among equal ones, its first row.

    Args:
        queries: Number of queries.
        ranks: Per pool row the rank of its id, from `id_ranks`.
        k: Passages to keep per query.

    Memory: 16 bytes per kept pair, and up to as many pairs again waiting to be sorted in.
    """

    def __init__(self, queries: int, ranks: "NDArray[np.int64]", k: int) -> None:
        if k < 1:
            raise UsageError(f"k is {k}", expected="at least 1")
        self.k = k
        self._ranks = ranks
        self._distinct = int(ranks.max()) + 1 if len(ranks) else 0
        self._width = min(k, self._distinct)
        # Kept pairs, query after query, best first; then pairs that wait to be sorted in.
        self._kept = _pairs(0)
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        self._waiting_pairs = 0
        self._room = max(_SPARE_PAIRS, queries * self._width)
        self._floor = np.full(queries, -np.inf)

    @property
    def floor(self) -> "NDArray[np.float64]":
        """Per query a score that the ``k``-th best reaches already; -inf before there are ``k``.

        A passage that scores less can't come in; one that scores the same can, by its id.
        """
        return self._floor

    def block_floor(self, scores: "NDArray[np.floating]", first_row: int) -> "NDArray[np.floating]":
        """Per query the ``k``-th best distinct score in a block (queries x rows), or -inf."""
        width = scores.shape[1]
        ranks = self._ranks[first_row : first_row + width]
        # Counting an id's copies as extra places keeps the floor low enough.
        k = self.k + width - len(np.unique(ranks)) if self._distinct < len(self._ranks) else self.k
        if width < k:
            return np.full(len(scores), -np.inf, scores.dtype)
        kth: NDArray[np.floating] = np.partition(scores, width - k, axis=1)[:, width - k]
        return kth

    def push_block(
        self, scores: "NDArray[np.floating]", first_row: int, first_query: int = 0
    ) -> None:
        """Takes in the final scores of consecutive queries (rows) for consecutive passages (columns)."""
        floor = self._floor[first_query : first_query + len(scores)]
        floor = np.maximum(floor, self.block_floor(scores, first_row))
        queries, columns = np.nonzero(scores >= floor[:, None])
        self.push(queries + first_query, columns + first_row, scores[queries, columns])

    def push(
        self,
        queries: "NDArray[np.int64]",
        rows: "NDArray[np.int64]",
        scores: "NDArray[np.floating]",
    ) -> None:
        """Takes in single (query, pool row, score) triples; no pair may come twice."""
        self._waiting.append((queries, rows, np.asarray(scores, np.float64)))
        self._waiting_pairs += len(queries)
        if self._waiting_pairs >= self._room:
            self._settle()

    def _settle(self) -> None:
        parts = [self._kept, *self._waiting]
        queries, rows, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        self._waiting, self._waiting_pairs = [], 0
        enough = scores >= self._floor[queries]
        queries, rows, scores = queries[enough], rows[enough], scores[enough]
        order = np.lexsort((rows, self._ranks[rows], -scores, queries))
        queries, rows, scores = queries[order], rows[order], scores[order]
        if self._distinct < len(self._ranks):
            keys = queries * self._distinct + self._ranks[rows]
            first = np.zeros(len(keys), bool)
            first[np.unique(keys, return_index=True)[1]] = True
            queries, rows, scores = queries[first], rows[first], scores[first]
        counts = np.bincount(queries, minlength=len(self._floor))
        starts = np.cumsum(counts) - counts
        best = np.arange(len(queries)) - np.repeat(starts, counts) < self.k
        self._kept = queries[best], rows[best], scores[best]
        full = counts >= self.k
        self._floor[full] = scores[starts[full] + self.k - 1]

    def result(self) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
        """Rows of the pool and their scores, both (queries x min(k, distinct ids)), best first.

        Where a query was given fewer passages, -1 and -inf fill its end.
        """
        self._settle()
        queries, rows, scores = self._kept
        counts = np.bincount(queries, minlength=len(self._floor))
        place = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
        all_rows = np.full((len(self._floor), self._width), -1, np.int64)
        all_scores = np.full(all_rows.shape, -np.inf)
        all_rows[queries, place], all_scores[queries, place] = rows, scores
        return all_rows, all_scores


def _pairs(n: int) -> "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]":
    return np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n)
