"""The rounds of exact search on a GPU: as in `search`, for many queries at once.

Bounds, the choice among them and the canonical scores of what is left stay on the device; pairs and
their scores alone come back, to be ranked. Queries are cut into groups of similar numbers of rows, each
with its own `TopK`; threads take groups, so that the device works on one while another is ranked.

Everything here runs on the CPU too, where it is slower than that but as right.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.ranking import TopK
from m2kr.search.exact import bounds, canonical, gpu_fused, passes
from m2kr.search.exact.blocks import by_passage
from m2kr.search.exact.canonical import by_length
from m2kr.search.exact.reference import EMPTY, EXACT_BELOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from m2kr.search.exact.blocks import CodedBlock
    from m2kr.search.exact.canonical import RoundedQuery
    from m2kr.search.exact.passes import CodedQueries
    from m2kr.search.store.reader import Block

logger = logging.getLogger("m2kr.search")

_GROUP_ROWS = 1 << 15
# Plain products: how many rows and how many values at a time. The CPU wants them in its cache; a GPU
# wants few and big ones, as each costs some 10 us to start.
_PRODUCT_ROWS = {"cpu": 512, "cuda": 4096}
_PRODUCTS = {"cpu": 1 << 19, "cuda": 1 << 25}
_PAIR_BYTES = {"cpu": 8 << 20, "cuda": 64 << 20}  # for vectors and products in float64
_AT_ONCE = 3  # threads that use a device


@dataclass(slots=True)
class QueryGroup:
    """Queries of similar numbers of rows.

    Attributes:
        numbers: Which queries of the batch, int64.
        queries: Themselves.
        rows: (queries x rows x dim) float16, on the device, filled up with zero rows.
        big_a: (queries) float32, the A of `bounds`.
        best: Their best passages so far; query ``i`` is the group's.
        runs: Runs of the group's queries (first, last) coded for plain products; made when needed.
    """

    numbers: "NDArray[np.int64]"
    queries: "list[RoundedQuery]"
    rows: "torch.Tensor"
    big_a: "torch.Tensor"
    best: TopK
    runs: "list[tuple[int, int, CodedQueries]]" = field(default_factory=list)


def group_queries(
    queries: "Sequence[RoundedQuery]", k: int, ranks: "NDArray[np.int64]", device: "torch.device"
) -> list[QueryGroup]:
    """Cuts a batch.

    Args:
        queries: Each with one row at least.
        k: Passages per query.
        ranks: Per passage of the pool the rank of its id.
        device: Where the rows go.
    """
    import torch

    sizes = np.array([len(query.rows) for query in queries], np.int64)
    order = np.argsort(sizes, kind="stable")
    found = []
    for start, end in _runs(sizes[order]):
        numbers = order[start:end]
        chosen = [queries[number] for number in numbers]
        width = passes.round_up(int(sizes[numbers].max()), gpu_fused.PART)
        rows = np.zeros((len(chosen), width, chosen[0].rows.shape[1]), np.float16)
        for place, query in zip(rows, chosen, strict=True):
            place[: len(query.rows)] = query.rows
        on_device = torch.from_numpy(rows).to(device)
        big_a = bounds.widened(on_device).sum(1)
        found.append(QueryGroup(numbers, chosen, on_device, big_a, TopK(len(chosen), ranks, k)))
    return found


def _runs(sizes: "NDArray[np.int64]") -> "Iterator[tuple[int, int]]":
    """Spans of ascending sizes: of together `_GROUP_ROWS` rows at most, or of one query.

    None needs more than a quarter more rows than another, or one more `gpu_fused.PART`.
    """
    start = 0
    for number in range(1, len(sizes) + 1):
        if number < len(sizes):
            width = passes.round_up(int(sizes[number]), gpu_fused.PART)
            least = passes.round_up(int(sizes[start]), gpu_fused.PART)
            if 4 * width <= 5 * least and width * (number + 1 - start) <= _GROUP_ROWS:
                continue
        yield start, number
        start = number


class BatchedBlock:
    """A block's passages as columns: those with tokens by length, then those without.

    Args:
        block: The tokens on the host.
        coded: The same in codes of a pass of `passes.FLAT`.
        ranks: The ranks of the passages' ids.

    Attributes:
        device: Where the codes are.
        copies: Passages beyond the first of their id.
        numbers: Per column the passage's number in the block.
        starts: Per column with tokens the row of its first one, int64 on the device.
        lengths: And how many it has, int32 on the device.
        sizes: The same on the host.
        longest: By number the length of the passage's longest token, or slightly more.
        shortest: And of its shortest one; 0 if one is all zeros, or if there is none.
    """

    def __init__(self, block: "Block", coded: "CodedBlock", ranks: "NDArray[np.int64]") -> None:
        import torch

        self.block, self.coded = block, coded
        self.device = str(coded.codes.device)
        self.copies = len(ranks) - len(np.unique(ranks))
        empty = np.flatnonzero(coded.lengths == 0)
        self.numbers = np.concatenate([coded.order, empty])
        self.sizes = coded.lengths[coded.order]
        device = coded.codes.device
        self.starts = torch.from_numpy(coded.starts[coded.order]).to(device)
        self.lengths = torch.from_numpy(self.sizes.astype(np.int32)).to(device)
        self.longest = by_passage(coded, coded.tokens.length)
        self.shortest = by_passage(coded, coded.tokens.shortest)

    def upper(self, group: QueryGroup) -> "torch.Tensor":
        """Upper bounds of all canonical scores, (queries x columns) float32."""
        import torch

        queries, rows, dim = group.rows.shape
        shape = None
        if self.coded.one.name == "fused":
            shape = gpu_fused.fastest_shape(self.device, dim)
        if shape is not None:
            sums = gpu_fused.fused_maxsim(
                group.rows.view(-1, dim),
                queries,
                self.coded.codes,
                self.starts,
                self.lengths,
                shape,
            )
            spare = self.coded.tokens.length * bounds.slack(dim, rows)
            found = sums.addr_(group.big_a, spare)
        else:
            found = self._plain(group)
        if len(self.numbers) == len(self.sizes):
            return found
        lowest = np.array([EMPTY * len(query.rows) for query in group.queries], np.float32)
        above = torch.from_numpy(np.nextafter(lowest, np.float32(np.inf))).to(found.device)
        empty = len(self.numbers) - len(self.sizes)
        return torch.cat([found, above[:, None].expand(-1, empty)], 1)

    def _plain(self, group: QueryGroup) -> "torch.Tensor":
        kind = self.coded.codes.device.type
        queries, rows, dim = group.rows.shape
        if not group.runs:
            step = max(1, _PRODUCT_ROWS[kind] // rows)
            for first in range(0, queries, step):
                some = group.rows[first : first + step]
                coded = passes.code_queries(
                    self.coded.one, some.reshape(-1, dim).float(), [rows] * len(some)
                )
                group.runs.append((first, first + len(some), coded))
        found = group.rows.new_empty((queries, len(self.sizes)), dtype=group.big_a.dtype)
        most = max(len(coded.fold) for _, _, coded in group.runs)
        for columns, longest in by_length(self.sizes, max(1, _PRODUCTS[kind] // most)):
            span = slice(int(columns[0]), int(columns[-1]) + 1)  # as they come by length
            rows_of = _token_rows(self.starts[span], self.lengths[span], longest)
            codes = self.coded.codes.index_select(0, rows_of.flatten())
            tokens = self.coded.tokens.of(span)
            for first, last, coded in group.runs:
                maxima = passes.maxima(self.coded.one, codes, (len(columns), longest), coded)
                found[first:last, span] = passes.upper(self.coded.one, maxima, tokens, coded).T
        return found


def search_block(group: QueryGroup, columns: BatchedBlock) -> int:
    """Takes a block's passages into `QueryGroup.best`.

    Args:
        group: The queries.
        columns: The block.

    Returns:
        Pairs that the bounds left over, all of which the canonical scorer saw.
    """
    import torch

    with _slot(columns.device) as mine:
        with mine.bounds():
            upper = columns.upper(group)
        with mine.steps():
            # Copies of an id can't fill places twice, so they are taken on top.
            seen = _promising(group, columns, upper, group.best.k + columns.copies)
            group.best.result()  # brings the floor up to date
            floor = _floor(group, upper.device)
            places = torch.nonzero(upper >= floor[:, None]).cpu().numpy()
            _take(group, columns, places[:, 0], places[:, 1])
    return seen + len(places)


def _promising(group: QueryGroup, columns: BatchedBlock, upper: "torch.Tensor", enough: int) -> int:
    """Scores the passages with the highest bounds where more are possible than will be needed.

    Returns:
        How many pairs; their bounds are NaN afterwards.
    """
    import torch

    lacking = ~np.isfinite(group.best.floor)
    if not lacking.all():
        floor = _floor(group, upper.device)
        lacking |= ((upper >= floor[:, None]).sum(1) > 2 * enough).cpu().numpy()
    queries = np.flatnonzero(lacking)
    if not len(queries):
        return 0
    chosen = torch.from_numpy(queries).to(upper.device)
    best = torch.topk(upper[chosen], min(enough, upper.shape[1]), sorted=False).indices
    upper[chosen[:, None], best] = torch.nan
    flat = best.cpu().numpy()
    _take(group, columns, np.repeat(queries, flat.shape[1]), flat.reshape(-1))
    return flat.size


def _floor(group: QueryGroup, device: "torch.device") -> "torch.Tensor":
    """The floors in float32, which keeps the order of a bound and a floor: see `exact.search`."""
    import torch

    return torch.from_numpy(group.best.floor.astype(np.float32)).to(device)


def _take(
    group: QueryGroup,
    columns: BatchedBlock,
    queries: "NDArray[np.int64]",
    places: "NDArray[np.int64]",
) -> None:
    """Scores pairs canonically; those that the device can't are done here."""
    numbers = columns.numbers[places]
    scores = np.empty(len(places))
    lengths = np.array([query.longest for query in group.queries])
    fast = columns.shortest[numbers] > 0
    fast &= _fit(columns.longest[numbers], lengths[queries])
    fast &= exact_products(columns.device)
    scores[fast] = canonical_pair_scores(
        group.rows,
        columns.coded.codes,
        columns.starts,
        columns.lengths,
        columns.sizes,
        queries[fast],
        places[fast],
    )
    slow = np.flatnonzero(~fast)
    for query in np.unique(queries[slow]):
        mine = slow[queries[slow] == query]
        scores[mine] = canonical.canonical_scores(
            group.queries[query], columns.block, numbers[mine], columns.longest, columns.shortest
        )
    group.best.push(queries, numbers + columns.block.first, scores)


class BestOfGroups:
    """The best passages of a batch whose groups each keep their own.

    Args:
        groups: All of them.
    """

    def __init__(self, groups: "Sequence[QueryGroup]") -> None:
        self._groups = groups

    def result(self) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
        """As `TopK.result`, of all queries of the batch."""
        found = [group.best.result() for group in self._groups]
        order = np.argsort(np.concatenate([group.numbers for group in self._groups]))
        numbers, scores = (np.concatenate(side)[order] for side in zip(*found, strict=True))
        return numbers, scores


@cache
def exact_products(device: str) -> bool:
    """Whether float64 products of float16 vectors there are exact; tried once a process.

    `reference` says why they round nothing while |q| |d| < 32, whatever adds them up and in whatever
    order. Libraries may have something else for them one day.
    """
    import torch

    random = np.random.default_rng(5)
    # The products of a pair reach from 2**-48 to 16, and cancel.
    left, right = (
        (random.normal(size=shape) * 0.35 * 2.0 ** -random.integers(0, 20, shape)).astype(
            np.float16
        )
        for shape in ((2, 40, 128), (2, 128, 24))
    )
    left[0, :, ::2], left[0, :, 1::2] = 0.35, -0.35
    right[0, :, 3] = right[1, :, 3] = 0.3501
    left[:, 0, 0] = right[:, 0, 0] = 4.0
    whole = [
        (one.astype(np.float64) * 2**24).astype(np.int64).astype(object) for one in (left, right)
    ]
    exact = np.matmul(*whole).astype(np.float64) * 2.0**-48
    on_device = [torch.from_numpy(one).to(device).double() for one in (left, right)]
    found = np.array_equal(torch.bmm(*on_device).cpu().numpy(), exact)
    if not found:
        logger.warning(
            "float64 products on %s aren't exact; canonical scores come from the CPU", device
        )
    return found


def _fit(longest: "NDArray[np.float32]", of_query: "NDArray[np.float64]") -> "NDArray[np.bool_]":
    """Whether the products of pairs round nothing, by the lengths of their longest vectors."""
    return longest.astype(np.float64) * of_query < EXACT_BELOW


def canonical_pair_scores(
    rows: "torch.Tensor",
    tokens: "torch.Tensor",
    starts: "torch.Tensor",
    lengths: "torch.Tensor",
    sizes: "NDArray[np.int64]",
    queries: "NDArray[np.int64]",
    passages: "NDArray[np.int64]",
) -> "NDArray[np.float64]":
    """Canonical scores on the device that holds the vectors, in the order of the pairs.

    Neither products nor maxima round. The sum over a query's rows does, and is taken first row to last;
    rows of zeros behind them add 0, which changes no bit.

    Args:
        rows: (queries x rows x dim) float16, a shorter query filled up with zero rows.
        tokens: (tokens x dim) float16.
        starts: (passages) int64, where each one's tokens begin.
        lengths: (passages) int32, how many there are, 1 or more.
        sizes: The same on the host.
        queries: Of each pair the query; its products with the passage round nothing (`_fit`), and no token is
            all zeros.
        passages: And the passage.
    """
    import torch

    device, (_, width, dim) = tokens.device, rows.shape
    scores = np.empty(len(queries))
    # Maxima wait to be added together, for all pairs that a quarter of the memory holds.
    most = max(1, _PAIR_BYTES[device.type] // (4 * 8 * width))
    for start in range(0, len(queries), most):
        which = slice(start, start + most)
        order = np.argsort(sizes[passages[which]], kind="stable") + start
        query = torch.from_numpy(queries[order]).to(device)
        passage = torch.from_numpy(passages[order]).to(device)
        best = torch.empty((width, len(order)), dtype=torch.float64, device=device)
        for first, last, longest in _chunks(sizes[passages[order]], width, dim, device.type):
            some = passage[first:last]
            left = tokens[_token_rows(starts[some], lengths[some], longest)].double()
            right = rows[query[first:last]].double()
            best[:, first:last] = torch.bmm(left, right.transpose(1, 2)).amax(1).T
        scores[order] = _in_order(best).cpu().numpy()
    return scores + 0.0


def _token_rows(starts: "torch.Tensor", lengths: "torch.Tensor", longest: int) -> "torch.Tensor":
    """Where passages' tokens lie, (passages x longest) int64; a shorter one's last token repeats."""
    import torch

    steps = torch.arange(longest, device=starts.device)
    return starts[:, None] + torch.minimum(steps, lengths[:, None].long() - 1)


def _in_order(values: "torch.Tensor") -> "torch.Tensor":
    """Sums of a float64 matrix over its rows, first to last."""
    if values.is_cuda and gpu_fused.kernels_work(str(values.device)):
        return gpu_fused.add_in_order(values)
    total = values.new_zeros(values.shape[1])
    for row in values:
        total += row
    return total


def _chunks(
    sizes: "NDArray[np.int64]", rows: int, dim: int, kind: str
) -> "Iterator[tuple[int, int, int]]":
    """Spans of ascending sizes, and the last size of each, that fit the memory in float64."""
    # A pair's own vectors, and what they are multiplied to.
    costs = 8 * (sizes * (dim + rows) + rows * dim)
    first = 0
    while first < len(sizes):
        fitting = costs[first:] * np.arange(1, len(sizes) - first + 1) <= _PAIR_BYTES[kind]
        count = max(1, int(np.searchsorted(~fitting, True)))
        yield first, first + count, int(sizes[first + count - 1])
        first += count


@dataclass(frozen=True, slots=True)
class _Slot:
    """A thread's right to use a device; on the CPU it has no streams, and everything comes in order.

    Attributes:
        low: The stream for bounds.
        high: The stream for all else.
    """

    low: "torch.cuda.Stream | None"
    high: "torch.cuda.Stream | None"

    @contextlib.contextmanager
    def bounds(self) -> Iterator[None]:
        """Orders what is in the ``with`` block on the low stream; the high one waits for it."""
        with _on(self.low):
            yield
        if self.high is not None and self.low is not None:
            self.high.wait_stream(self.low)

    def steps(self) -> Any:
        """Orders what is in the ``with`` block on the high stream."""
        return _on(self.high)


@contextlib.contextmanager
def _slot(device: str) -> Iterator[_Slot]:
    """Waits for one: a few threads at a time, bounds behind what is wanted sooner.

    A thread that has its bounds needs small steps done, with the host in between; they would wait for
    the bounds that other threads have ordered meanwhile. So those are computed on a stream of low
    priority, and the steps on one of high priority. Three threads: one whose bounds are computed, one
    whose bounds wait, one that ranks. The memory that they use besides the blocks is three times one's.

    Tensors made in it must not be used after it, and are read before it ends.

    Args:
        device: As tensors on it name it.
    """
    free = _free(device)
    mine = free.get()
    try:
        yield mine
    finally:
        free.put(mine)


@cache
def _free(device: str) -> "SimpleQueue[_Slot]":
    import torch

    stream: Any = torch.cuda.Stream
    slots: SimpleQueue[_Slot] = SimpleQueue()
    for _ in range(_AT_ONCE):
        low = high = None
        if torch.device(device).type == "cuda":
            low = stream(device, priority=0)
            high = stream(device, priority=-1)
        slots.put(_Slot(low, high))
    return slots


def finish_orders(device: str) -> None:
    """Returns when what this thread has ordered is there for every stream."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _on(stream: "torch.cuda.Stream | None") -> Any:
    import torch

    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)
