"""The rounds of exact search in one block: bound, score the most promising, discard, decide."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from m2kr.ranking import TopK
from m2kr.search.exact import canonical, gpu_rounds
from m2kr.search.exact.blocks import CodedBlock, by_passage, code, narrow, scan, uncoded
from m2kr.search.exact.gpu_slots import settled
from m2kr.search.exact.quantise import FLAT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.concurrency import Workers
    from m2kr.search.exact.canonical import Query
    from m2kr.search.store.reader import Block

    Scored = tuple[NDArray[np.int64], NDArray[np.float64], list[int]]


@dataclass(slots=True)
class Counts:
    """What happened in a block.

    Attributes:
        left: Pairs that each pass left over, the first pass first.
        scored: Pairs that the canonical scorer saw.
    """

    left: list[int]
    scored: int = 0


class Batch:
    """Queries that go through the blocks together.

    Args:
        queries: Each with one row at least.
        k: Passages per query.
        ranks: Per passage of the pool the rank of its id.

    Attributes:
        queries: As given.
        best: Their best passages so far, as `TopK.result` gives them.
    """

    def __init__(self, queries: "Sequence[Query]", k: int, ranks: "NDArray[np.int64]") -> None:
        self.queries = queries
        self.best: TopK | gpu_rounds.Best = TopK(len(queries), ranks, k)
        self._k, self._ranks = k, ranks
        self._parts: list[gpu_rounds.Part] = []

    def search(self, block: "Block", coded: "Sequence[CodedBlock]", workers: "Workers") -> Counts:
        """Takes a block's passages into `best`.

        Args:
            block: The passages; the pool's blocks may come in any order, each once.
            coded: The block in the codes of the passes, the first one being that which meets all
                of it. A last pass, float32, is added if it isn't the first.
            workers: Who does it.
        """
        if coded[0].one.name in FLAT:
            return self._search_flat(block, coded[0], workers)
        assert isinstance(self.best, TopK)
        upper = scan(coded[0], self.queries, workers)
        task = _Task(
            block,
            by_passage(coded[0], coded[0].tokens.length),
            by_passage(coded[0], coded[0].tokens.shortest),
            self._narrower(block, coded),
            self.queries,
            upper,
        )
        ranks = self._ranks[block.first : block.first + len(block)]
        # Copies of an id can't fill places twice, so they are taken on top.
        enough = self.best.k + len(ranks) - len(np.unique(ranks))
        counts = Counts([0] * (1 + len(task.narrower)))
        floor = self.best.floor
        every = range(len(self.queries))
        found = workers.map(lambda q: task.promising(q, float(floor[q]), enough), every)
        self._take(block, found, counts)
        self.best.result()  # brings the floor up to date
        floor = self.best.floor
        found = workers.map(lambda q: task.possible(q, float(floor[q])), every)
        self._take(block, found, counts)
        return counts

    def _search_flat(self, block: "Block", coded: "CodedBlock", workers: "Workers") -> Counts:
        """The same in few big steps, `gpu_rounds`. No pass need follow: this one's margin is small."""
        if not self._parts:
            self._parts = gpu_rounds.parts(self.queries, self._k, self._ranks, coded.codes.device)
            self.best = gpu_rounds.Best(self._parts)
        ranks = self._ranks[block.first : block.first + len(block)]
        columns = gpu_rounds.BatchedBlock(block, coded, ranks)
        settled(columns.device)
        scored = sum(workers.map(lambda part: gpu_rounds.search(part, columns), self._parts))
        return Counts([scored] * 2, scored)

    def _narrower(self, block: "Block", coded: "Sequence[CodedBlock]") -> "list[CodedBlock]":
        if coded[0].one.name == "float32":
            return []
        longest = by_passage(coded[0], coded[0].tokens.length)
        return [*coded[1:], uncoded(block, longest)]

    def _take(self, block: "Block", found: "Sequence[Scored]", counts: Counts) -> None:
        assert isinstance(self.best, TopK)
        for query, (numbers, scores, left) in enumerate(found):
            self.best.push(np.full(len(numbers), query), numbers + block.first, scores)
            counts.scored += len(numbers)
            for stage, count in enumerate(left):
                counts.left[stage] += count


@dataclass(frozen=True, slots=True)
class _Task:
    """One block and a batch of queries. Queries are worked on by several threads, one each.

    Bounds are float32 and floors float64. Comparing may round the floor to float32, which keeps the
    order of two numbers of which one is float32 already: nothing is discarded for it.

    Attributes:
        block: The passages.
        longest: Per passage the length of its longest token, or slightly more.
        shortest: And of its shortest one.
        narrower: The passes after the first.
        queries: The batch.
        upper: Upper bounds, (queries x passages); NaN once a pair is scored.
    """

    block: "Block"
    longest: "NDArray[np.float32]"
    shortest: "NDArray[np.float32]"
    narrower: "Sequence[CodedBlock]"
    queries: "Sequence[Query]"
    upper: "NDArray[np.float32]"

    def promising(self, query: int, floor: float, enough: int) -> "Scored":
        """Scores the passages with the highest bounds, if more are possible than will be needed."""
        upper = self.upper[query]
        numbers = np.flatnonzero(upper >= floor)
        if np.isfinite(floor) and len(numbers) <= 2 * enough:
            numbers = numbers[:0]
        elif len(numbers) > enough:
            bounds = upper[numbers]
            numbers = numbers[np.argpartition(bounds, -enough)[-enough:]]
        scores = self._scores(query, numbers)
        upper[numbers] = np.nan
        return numbers, scores, [len(numbers)] * (1 + len(self.narrower))

    def possible(self, query: int, floor: float) -> "Scored":
        """Scores whatever the passes can't discard."""
        numbers = np.flatnonzero(self.upper[query] >= floor)
        left = [len(numbers)]
        for block in self.narrower:
            if len(numbers) and np.isfinite(floor):
                full = numbers[block.lengths[numbers] > 0]
                rows = code(block.one, [self.queries[query]], block.codes)
                kept = full[narrow(block, rows, full) >= floor]
                numbers = np.concatenate([kept, numbers[block.lengths[numbers] == 0]])
            left.append(len(numbers))
        return numbers, self._scores(query, numbers), left

    def _scores(self, query: int, numbers: "NDArray[np.int64]") -> "NDArray[np.float64]":
        if not len(numbers):
            return np.zeros(0)
        return canonical.scores(
            self.queries[query], self.block, numbers, self.longest, self.shortest
        )
