"""The rounds of exact search on a GPU: as `rounds`, for many queries at once and on the device.

Bounds, the choice among them and the canonical scores of what is left stay on the device; pairs and
their scores alone come back, to be ranked. Queries are cut into parts of similar numbers of rows, each
with its own `TopK`; threads take parts, so that the device works on one while another is ranked
(`gpu_slots`).

Everything here runs on the CPU too, where it is slower than `rounds` but as right.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from m2kr.ranking import TopK
from m2kr.search.exact import bounds, canonical, gpu_fused, gpu_pairs, passes
from m2kr.search.exact.blocks import by_passage
from m2kr.search.exact.canonical import by_length
from m2kr.search.exact.gpu_slots import turn
from m2kr.search.exact.reference import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from m2kr.search.exact.blocks import CodedBlock
    from m2kr.search.exact.canonical import Query
    from m2kr.search.exact.passes import CodedQueries
    from m2kr.search.store.reader import Block

_PART_ROWS = 1 << 15
# Plain products: how many rows and how many values at a time. The CPU wants them in its cache; a GPU
# wants few and big ones, as each costs some 10 us to start.
_PRODUCT_ROWS = {"cpu": 512, "cuda": 4096}
_PRODUCTS = {"cpu": 1 << 19, "cuda": 1 << 25}


@dataclass(slots=True)
class Part:
    """Queries of similar numbers of rows.

    Attributes:
        numbers: Which queries of the batch, int64.
        queries: Themselves.
        rows: (queries x rows x dim) float16, on the device, filled up with zero rows.
        big_a: (queries) float32, the A of `bounds`.
        best: Their best passages so far; query ``i`` is the part's.
        groups: Runs of the part's queries (first, last) coded for plain products; made when needed.
    """

    numbers: "NDArray[np.int64]"
    queries: "list[Query]"
    rows: "torch.Tensor"
    big_a: "torch.Tensor"
    best: TopK
    groups: "list[tuple[int, int, CodedQueries]]" = field(default_factory=list)


def parts(
    queries: "Sequence[Query]", k: int, ranks: "NDArray[np.int64]", device: "torch.device"
) -> list[Part]:
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
        width = passes.rounded(int(sizes[numbers].max()), gpu_fused.PART)
        rows = np.zeros((len(chosen), width, chosen[0].rows.shape[1]), np.float16)
        for place, query in zip(rows, chosen, strict=True):
            place[: len(query.rows)] = query.rows
        on_device = torch.from_numpy(rows).to(device)
        big_a = bounds.widened(on_device).sum(1)
        found.append(Part(numbers, chosen, on_device, big_a, TopK(len(chosen), ranks, k)))
    return found


def _runs(sizes: "NDArray[np.int64]") -> "Iterator[tuple[int, int]]":
    """Spans of ascending sizes: of together `_PART_ROWS` rows at most, or of one query.

    None needs more than a quarter more rows than another, or one more `gpu_fused.PART`.
    """
    start = 0
    for number in range(1, len(sizes) + 1):
        if number < len(sizes):
            width = passes.rounded(int(sizes[number]), gpu_fused.PART)
            least = passes.rounded(int(sizes[start]), gpu_fused.PART)
            if 4 * width <= 5 * least and width * (number + 1 - start) <= _PART_ROWS:
                continue
        yield start, number
        start = number


class BatchedBlock:
    """A block's passages as columns: those with tokens by length, then those without.

    Args:
        block: The tokens on the host.
        coded: The same in codes of a pass of `quantise.FLAT`.
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

    def upper(self, part: Part) -> "torch.Tensor":
        """Upper bounds of all canonical scores, (queries x columns) float32."""
        import torch

        queries, rows, dim = part.rows.shape
        shape = None
        if self.coded.one.name == "fused":
            shape = gpu_fused.shape(self.device, dim)
        if shape is not None:
            sums = gpu_fused.maxsim(
                part.rows.view(-1, dim),
                queries,
                self.coded.codes,
                self.starts,
                self.lengths,
                shape,
            )
            spare = self.coded.tokens.length * bounds.slack(dim, rows)
            found = sums.addr_(part.big_a, spare)
        else:
            found = self._plain(part)
        if len(self.numbers) == len(self.sizes):
            return found
        lowest = np.array([EMPTY * len(query.rows) for query in part.queries], np.float32)
        above = torch.from_numpy(np.nextafter(lowest, np.float32(np.inf))).to(found.device)
        empty = len(self.numbers) - len(self.sizes)
        return torch.cat([found, above[:, None].expand(-1, empty)], 1)

    def _plain(self, part: Part) -> "torch.Tensor":
        kind = self.coded.codes.device.type
        queries, rows, dim = part.rows.shape
        if not part.groups:
            step = max(1, _PRODUCT_ROWS[kind] // rows)
            for first in range(0, queries, step):
                some = part.rows[first : first + step]
                coded = passes.code_queries(
                    self.coded.one, some.reshape(-1, dim).float(), [rows] * len(some)
                )
                part.groups.append((first, first + len(some), coded))
        found = part.rows.new_empty((queries, len(self.sizes)), dtype=part.big_a.dtype)
        most = max(len(group.fold) for _, _, group in part.groups)
        for columns, longest in by_length(self.sizes, max(1, _PRODUCTS[kind] // most)):
            span = slice(int(columns[0]), int(columns[-1]) + 1)  # as they come by length
            rows_of = gpu_pairs.token_rows(self.starts[span], self.lengths[span], longest)
            codes = self.coded.codes.index_select(0, rows_of.flatten())
            tokens = self.coded.tokens.of(span)
            for first, last, group in part.groups:
                maxima = passes.maxima(self.coded.one, codes, (len(columns), longest), group)
                found[first:last, span] = passes.upper(self.coded.one, maxima, tokens, group).T
        return found


def search(part: Part, columns: BatchedBlock) -> int:
    """Takes a block's passages into `Part.best`.

    Args:
        part: The queries.
        columns: The block.

    Returns:
        Pairs that the bounds left over, all of which the canonical scorer saw.
    """
    import torch

    with turn(columns.device) as mine:
        with mine.bounds():
            upper = columns.upper(part)
        with mine.steps():
            # Copies of an id can't fill places twice, so they are taken on top.
            seen = _promising(part, columns, upper, part.best.k + columns.copies)
            part.best.result()  # brings the floor up to date
            floor = _floor(part, upper.device)
            places = torch.nonzero(upper >= floor[:, None]).cpu().numpy()
            _take(part, columns, places[:, 0], places[:, 1])
    return seen + len(places)


def _promising(part: Part, columns: BatchedBlock, upper: "torch.Tensor", enough: int) -> int:
    """Scores the passages with the highest bounds where more are possible than will be needed.

    Returns:
        How many pairs; their bounds are NaN afterwards.
    """
    import torch

    lacking = ~np.isfinite(part.best.floor)
    if not lacking.all():
        floor = _floor(part, upper.device)
        lacking |= ((upper >= floor[:, None]).sum(1) > 2 * enough).cpu().numpy()
    queries = np.flatnonzero(lacking)
    if not len(queries):
        return 0
    chosen = torch.from_numpy(queries).to(upper.device)
    best = torch.topk(upper[chosen], min(enough, upper.shape[1]), sorted=False).indices
    upper[chosen[:, None], best] = torch.nan
    flat = best.cpu().numpy()
    _take(part, columns, np.repeat(queries, flat.shape[1]), flat.reshape(-1))
    return flat.size


def _floor(part: Part, device: "torch.device") -> "torch.Tensor":
    """The floors in float32, which keeps the order of a bound and a floor: see `rounds`."""
    import torch

    return torch.from_numpy(part.best.floor.astype(np.float32)).to(device)


def _take(
    part: Part,
    columns: BatchedBlock,
    queries: "NDArray[np.int64]",
    places: "NDArray[np.int64]",
) -> None:
    """Scores pairs canonically; those that the device can't are done here."""
    numbers = columns.numbers[places]
    scores = np.empty(len(places))
    lengths = np.array([query.longest for query in part.queries])
    fast = columns.shortest[numbers] > 0
    fast &= gpu_pairs.fit(columns.longest[numbers], lengths[queries])
    fast &= gpu_pairs.works(columns.device)
    scores[fast] = gpu_pairs.scores(
        part.rows,
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
        scores[mine] = canonical.scores(
            part.queries[query], columns.block, numbers[mine], columns.longest, columns.shortest
        )
    part.best.push(queries, numbers + columns.block.first, scores)


class Best:
    """The best passages of a batch whose parts each keep their own.

    Args:
        parts: All of them.
    """

    def __init__(self, parts: "Sequence[Part]") -> None:
        self._parts = parts

    def result(self) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
        """As `TopK.result`, of all queries of the batch."""
        found = [part.best.result() for part in self._parts]
        order = np.argsort(np.concatenate([part.numbers for part in self._parts]))
        numbers, scores = (np.concatenate(side)[order] for side in zip(*found, strict=True))
        return numbers, scores
