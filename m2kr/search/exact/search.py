"""Exact MaxSim search: the canonical top-k, found with cheap passes that only discard.

The tokens are read block by block, once, whatever the number of queries. In each block

1. a cheap pass bounds the score of every passage from above (`exact.bounds`): on a CPU the compiled
   kernel (`exact.cpu_fused`), if there is one, else one of `exact.passes`;
2. the canonical scorer takes the passages with the highest bounds: the k-th best score so far is
   now near the final one;
3. passages whose bound is below it are discarded; what is left meets narrower passes: the kernel with
   16 bits for a query's numbers, or torch's passes, the last in float32;
4. the canonical scorer decides among the few that remain.

So ids, order and scores are those of `reference.search_by_reference`, on every device and with every pass.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from m2kr.concurrency import Workers, workers
from m2kr.errors import UsageError, missing_dependency
from m2kr.progress import SILENT, Progress
from m2kr.ranking import TopK, id_ranks
from m2kr.search.exact import canonical, cpu_fused, gpu_rounds
from m2kr.search.exact.blocks import CodedBlock, by_passage, code, code_block, narrow, scan, uncoded
from m2kr.search.exact.fused_block import FUSED, fused_blocks
from m2kr.search.exact.passes import FLAT, GROUP_ROWS, PASSES, ROUND_TOKENS, TILE_TOKENS, Pass
from m2kr.search.store.reader import TokenSource, block_spans, ids_of, read_ahead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.search.exact.canonical import RoundedQuery
    from m2kr.search.store.reader import Block

MEMORY = 512 << 20
_A_THREAD = 24 << 20  # a tile's products, or a few thousand tokens in float64
_TASK = "exact search"
_SHARED = 64  # passages of one query that several threads are worth


@dataclass(slots=True)
class SearchStats:
    """What a search did.

    Attributes:
        device: Where the cheap passes ran.
        passes: Their names, first to last.
        threads: Threads that worked.
        pairs: Queries times passages.
        left: How many pairs each pass left over, by its name.
        scored: Pairs that the canonical scorer saw.
        seconds: Elapsed.
        cpu_seconds: Used by this process meanwhile, all threads together.
        bytes_read: Of token vectors and of codes that were kept.
    """

    device: str
    passes: tuple[str, ...]
    threads: int
    pairs: int = 0
    left: dict[str, int] = field(default_factory=dict)
    scored: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes_read: int = 0


def search_exactly(
    queries: "Sequence[NDArray[np.floating]]",
    source: TokenSource,
    k: int,
    ranks: "NDArray[np.int64] | None" = None,
    *,
    memory: int = MEMORY,
    threads: int | None = None,
    device: str = "auto",
    passes: Sequence[str] | None = None,
    progress: Progress = SILENT,
    check_seconds: "Callable[[float], None] | None" = None,
) -> "tuple[NDArray[np.int64], NDArray[np.float64], SearchStats]":
    """The exact best ``k`` passages of every query, with canonical scores.

    Args:
        queries: One (rows x dim) matrix a query; lengths may differ. Rounded to float16, and
            all-zero rows are left out, as `reference` says.
        source: A `TokenStore`, or an `ArraySource`.
        k: Passages per query.
        ranks: Per passage the rank of its id (`ranking.id_ranks`), which breaks ties; by default that
            of the store's ids.
        memory: Bytes for the blocks and what is computed on them, on the host and again on the
            device. The queries and results come on top, and so do some 30 MB a thread.
        threads: By default as many as torch uses.
        device: ``cpu``, ``cuda``, ``cuda:1`` ...; ``auto`` takes CUDA if there is one.
            `devices.search_devices` searches on several.
        passes: Names from `passes.PASSES` or `fused_block.FUSED`, first to last, instead of the kernel,
            or where there is none the best by `exact.choose`.
        progress: Told of the pairs that are done.
        check_seconds: Called once, after the first block of several, with the seconds that all blocks will
            take at its speed; may raise to stop the search.

    Returns:
        Passage numbers (int64) and scores (float64), both (queries x min(k, distinct ids)), best
        first; and what it took.

    Raises:
        InputError: a value is NaN, infinite or too big, or the dims differ.
        CheckError: a passage of the store differs from its checksum.
        UsageError: ``k``, ``passes`` or ``device`` make no sense, or ranks are needed.
        MissingError: torch isn't installed.
    """
    device = device_name(device)
    import torch

    started, cpu = time.perf_counter(), time.process_time()
    if ranks is None:
        ranks = id_ranks(ids_of(source))
    rounded = canonical.rounded_queries(queries, source.dim)
    live = [number for number, query in enumerate(rounded) if len(query.rows)]
    threads = threads or torch.get_num_threads()
    with workers(threads) as pool:
        names = _names(passes, device, pool, source.dim)
        stats = SearchStats(device, names, threads, left=dict.fromkeys(names, 0))
        room = memory - threads * _A_THREAD
        plan = _plan(source, names, len(live), room)
        batches = [
            _Batch([rounded[i] for i in live[first : first + plan.queries]], k, ranks)
            for first in range(0, len(live), plan.queries)
        ]
        _read(source, plan, batches, room, pool, stats, progress, check_seconds)
    # A query without rows scores 0 with everything: the tie rule alone ranks the pool.
    distinct = int(ranks.max(initial=-1)) + 1
    numbers = np.zeros((len(queries), min(k, distinct)), np.int64)
    if len(live) < len(queries):
        numbers[:] = np.unique(ranks, return_index=True)[1][:k]
    scores = np.zeros(numbers.shape)
    for batch, first in zip(batches, range(0, len(live), plan.queries), strict=True):
        places = live[first : first + plan.queries]
        numbers[places], scores[places] = batch.best.result()
    stats.seconds = time.perf_counter() - started
    stats.cpu_seconds = time.process_time() - cpu
    return numbers, scores, stats


@dataclass(frozen=True, slots=True)
class _Plan:
    """What fits the memory.

    Attributes:
        coded: The passes whose codes are made for whole blocks; none where the kernel does it.
        tokens: Tokens a block.
        room: Tokens of the biggest block, and what a product may go on behind them.
        queries: Queries whose bounds for a block are held at once.
    """

    coded: tuple[Pass, ...]
    tokens: int
    room: int
    queries: int


def _plan(source: TokenSource, names: tuple[str, ...], queries: int, memory: int) -> _Plan:
    """Blocks take up to three quarters of the memory, bounds an eighth."""
    coded: tuple[Pass, ...] = ()
    if names[0] not in FUSED:
        coded = tuple(PASSES[name] for name in names[: max(1, len(names) - 1)])
    codes = sum(one.dtype.itemsize for one in coded) * source.dim or cpu_fused.code_width(
        source.dim
    )
    # Two blocks are in memory, as one is read ahead; and 40 bytes a token are more than enough for
    # what is kept per passage.
    width = source.dim * 2 * 2 + codes + 40
    tokens = max(TILE_TOKENS, memory * 3 // 4 // width)
    cuts = block_spans(source.offsets, tokens)
    room = max((int(source.offsets[b] - source.offsets[a]) for a, b in cuts), default=0)
    passages = max((b - a for a, b in cuts), default=1)
    # Besides its bounds, a query has codes: of 400 rows, to be safe.
    most = max(1, memory // 8 // (5 * passages + 4 * GROUP_ROWS * source.dim))
    return _Plan(coded, tokens, room + ROUND_TOKENS, min(most, max(1, queries)))


def _read(
    source: TokenSource,
    plan: _Plan,
    batches: "list[_Batch]",
    memory: int,
    pool: Workers,
    stats: SearchStats,
    progress: Progress,
    check_seconds: "Callable[[float], None] | None",
) -> None:
    """Reads the source once and searches each block for all queries."""
    started = time.perf_counter()
    queries = sum(len(batch.queries) for batch in batches)
    stats.pairs = queries * (len(source.offsets) - 1)
    progress.start(_TASK, stats.pairs, "pairs")
    for block in _blocks(source, plan, memory, pool, stats) if queries else ():
        for batch in batches:
            batch.search(block, pool, stats)
            progress.advance(_TASK, len(batch.queries) * len(block))
        tokens = int(source.offsets[-1])
        if check_seconds is not None and block.first == 0 and 0 < block.count < tokens:
            share = tokens / block.count
            check_seconds((time.perf_counter() - started) * share)
    progress.done(_TASK)


def _blocks(
    source: TokenSource, plan: _Plan, memory: int, pool: Workers, stats: SearchStats
) -> "Iterator[_SearchedBlock]":
    """Blocks in the codes of the passes, or in those of the kernel."""
    import torch

    if not plan.coded:
        for fused, nbytes in fused_blocks(source, stats.passes, plan.tokens, pool, memory):
            stats.bytes_read += nbytes
            yield fused
        return
    stores = [
        torch.zeros((plan.room, source.dim), dtype=one.dtype, device=stats.device)
        for one in plan.coded
    ]
    for block in read_ahead(source, plan.tokens):
        coded = [
            code_block(one, block, pool, store)
            for one, store in zip(plan.coded, stores, strict=True)
        ]
        stats.bytes_read += block.tokens.nbytes
        yield _PassBlock(block, coded)


def device_name(device: str) -> str:
    """A device's name; of ``auto`` CUDA if there is one.

    Raises:
        UsageError: it isn't here.
        MissingError: torch isn't installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_dependency("torch", "models", "exact late-interaction search") from error

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if there else "cpu"
    try:
        named = torch.device(device)
        right = named.type == "cpu" or (named.type == "cuda" and (named.index or 0) < there)
    except RuntimeError:
        right = False
    if not right:
        raise UsageError(
            f"there is no device '{device}' here",
            expected="auto, cpu, a CUDA device such as cuda:0, or several with commas between",
        )
    return device


def _names(asked: Sequence[str] | None, device: str, pool: Workers, dim: int) -> tuple[str, ...]:
    """The passes to use. The last of torch's is float32, which alone has a margin that hardly matters."""
    kernel = cpu_fused.kernel_passes(dim) if device.startswith("cpu") else ()
    if asked is None:
        from m2kr.search.exact.choose import pipeline

        names = kernel or pool.map(pipeline, [device])[0]
    else:
        names = tuple(asked)
    if kernel and names and set(names) <= set(FUSED):
        return names
    if not names or not set(names) <= set(PASSES):
        there = [*PASSES, *(FUSED if kernel else ())]
        raise UsageError(f"there are no passes {list(names)}", expected=f"some of {there}")
    return names if names[-1] == "float32" else (*names, "float32")


class _Batch:
    """Queries that go through the blocks together.

    Args:
        queries: Each with one row at least.
        k: Passages per query.
        ranks: Per passage of the pool the rank of its id.

    Attributes:
        queries: As given.
        best: Their best passages so far, as `TopK.result` gives them.
    """

    def __init__(
        self, queries: "Sequence[RoundedQuery]", k: int, ranks: "NDArray[np.int64]"
    ) -> None:
        self.queries = queries
        self.best: TopK | gpu_rounds.BestOfGroups = TopK(len(queries), ranks, k)
        self._k, self._ranks = k, ranks
        self._copies = len(ranks) > 0 and int(ranks.max()) + 1 < len(ranks)
        self._groups: list[gpu_rounds.QueryGroup] = []

    def search(self, block: "_SearchedBlock", workers: Workers, stats: SearchStats) -> None:
        """Takes a block's passages into `best`.

        Args:
            block: The passages; the pool's blocks may come in any order, each once.
            workers: Who does it.
            stats: Takes the counts of what is left and what is scored.
        """
        if isinstance(block, _PassBlock) and block.coded[0].one.name in FLAT:
            self._search_flat(block.block, block.coded[0], workers, stats)
            return
        assert isinstance(self.best, TopK)
        upper = block.scan(self.queries, workers)
        ranks = self._ranks[block.first : block.first + len(block)]
        # Copies of an id can't fill places twice, so they are taken on top.
        enough = self.best.k + (len(ranks) - len(np.unique(ranks)) if self._copies else 0)
        floor = self.best.floor.tolist()
        found = [_promising(each, floor[query], enough) for query, each in enumerate(upper)]
        self._take(block, found, [sum(map(len, found))] * len(stats.passes), workers, stats)
        self.best.result()  # brings the floor up to date
        floor = self.best.floor.tolist()
        # Bounds are float32 and floors float64. Comparing may round the floor to float32, which keeps the
        # order of two numbers of which one is float32 already: nothing is discarded for it.
        found = [np.flatnonzero(each >= floor[query]) for query, each in enumerate(upper)]
        left = [sum(map(len, found))]
        for stage in range(1, len(stats.passes)):

            def possible(
                query: int, numbers: "NDArray[np.int64]", stage: int = stage
            ) -> "NDArray[np.int64]":
                if not len(numbers) or not np.isfinite(floor[query]):
                    return numbers
                upper = block.narrow(self.queries[query], stage, numbers)
                kept: NDArray[np.int64] = numbers[upper >= floor[query]]
                return kept

            found = _each(workers, possible, found)
            left.append(sum(map(len, found)))
        self._take(block, found, left, workers, stats)

    def _search_flat(
        self, block: "Block", coded: "CodedBlock", workers: "Workers", stats: SearchStats
    ) -> None:
        """The same in few big steps, `gpu_rounds`. No pass need follow: this one's margin is small."""
        if not self._groups:
            self._groups = gpu_rounds.group_queries(
                self.queries, self._k, self._ranks, coded.codes.device
            )
            self.best = gpu_rounds.BestOfGroups(self._groups)
        ranks = self._ranks[block.first : block.first + len(block)]
        columns = gpu_rounds.BatchedBlock(block, coded, ranks)
        gpu_rounds.finish_orders(columns.device)
        scored = sum(
            workers.map(lambda group: gpu_rounds.search_block(group, columns), self._groups)
        )
        stats.scored += scored
        for name in stats.passes:
            stats.left[name] += scored

    def _take(
        self,
        block: "_SearchedBlock",
        found: "Sequence[NDArray[np.int64]]",
        left: Sequence[int],
        workers: Workers,
        stats: SearchStats,
    ) -> None:
        """Scores passages of each query, by their numbers in the block, and takes them into `best`."""
        assert isinstance(self.best, TopK)
        stats.bytes_read += block.read(found)

        def scores(query: int, numbers: "NDArray[np.int64]") -> "NDArray[np.float64]":
            return block.scores(self.queries[query], numbers) if len(numbers) else np.zeros(0)

        for query, values in enumerate(_each(workers, scores, found)):
            numbers = found[query]
            self.best.push(np.full(len(numbers), query), numbers + block.first, values)
        stats.scored += sum(map(len, found))
        for name, count in zip(stats.passes, left, strict=True):
            stats.left[name] += count


def _promising(upper: "NDArray[np.float32]", floor: float, enough: int) -> "NDArray[np.int64]":
    """The passages with the highest bounds, if more are possible than will be needed.

    Their bounds become NaN, as they are scored then.
    """
    numbers = np.flatnonzero(upper >= floor)
    if np.isfinite(floor) and len(numbers) <= 2 * enough:
        numbers = numbers[:0]
    elif len(numbers) > enough:
        bounds = upper[numbers]
        numbers = numbers[np.argpartition(bounds, -enough)[-enough:]]
    upper[numbers] = np.nan
    return numbers


def _each(
    workers: Workers,
    function: "Callable[[int, NDArray[np.int64]], NDArray[Any]]",
    numbers: "Sequence[NDArray[np.int64]]",
) -> "list[NDArray[Any]]":
    """Calls a function for each query's passages, in parts where there are fewer queries than threads."""
    parts = -(-workers.threads // max(1, len(numbers)))
    pieces = [
        (query, piece)
        for query, chosen in enumerate(numbers)
        for piece in (np.array_split(chosen, parts) if len(chosen) >= _SHARED else [chosen])
    ]
    found: list[list[NDArray[Any]]] = [[] for _ in numbers]
    results = workers.map(lambda piece: function(*piece), pieces)
    for (query, _), result in zip(pieces, results, strict=True):
        found[query].append(result)
    return [each[0] if len(each) == 1 else np.concatenate(each) for each in found]


class _SearchedBlock(Protocol):
    """Passages in the codes of some passes. Passages are named by their numbers in the block."""

    @property
    def first(self) -> int:
        """Number of the first one in the source."""
        ...

    @property
    def count(self) -> int:
        """Tokens of all."""
        ...

    def __len__(self) -> int: ...

    def scan(self, queries: "Sequence[RoundedQuery]", workers: Workers) -> "NDArray[np.float32]":
        """Upper bounds of all canonical scores by the first pass, (queries x passages)."""
        ...

    def narrow(
        self, query: "RoundedQuery", stage: int, numbers: "NDArray[np.int64]"
    ) -> "NDArray[np.float32]":
        """Bounds of some passages by a later pass; infinity for those without tokens."""
        ...

    def read(self, numbers: "Sequence[NDArray[np.int64]]") -> int:
        """Makes the tokens of some passages be there; gives the bytes that were read for it."""
        ...

    def scores(self, query: "RoundedQuery", numbers: "NDArray[np.int64]") -> "NDArray[np.float64]":
        """Canonical scores of passages whose tokens are there."""
        ...


class _PassBlock:
    """A block whose tokens were read, for `passes`.

    Args:
        block: The passages.
        coded: The block in the codes of the passes, the first one being that which meets all of it. A
            last pass, float32, is added if it isn't the first.
    """

    def __init__(self, block: "Block", coded: "Sequence[CodedBlock]") -> None:
        self.block, self.coded = block, coded
        self.first, self.count = block.first, len(block.tokens)
        self._longest = by_passage(coded[0], coded[0].tokens.length)
        self._shortest = by_passage(coded[0], coded[0].tokens.shortest)
        self._stages = [*coded, uncoded(block, self._longest)]

    def __len__(self) -> int:
        return len(self.block)

    def scan(self, queries: "Sequence[RoundedQuery]", workers: Workers) -> "NDArray[np.float32]":
        """See `_SearchedBlock`."""
        return scan(self.coded[0], queries, workers)

    def narrow(
        self, query: "RoundedQuery", stage: int, numbers: "NDArray[np.int64]"
    ) -> "NDArray[np.float32]":
        """See `_SearchedBlock`."""
        coded = self._stages[stage]
        full = coded.lengths[numbers] > 0
        found = np.full(len(numbers), np.inf, np.float32)
        found[full] = narrow(coded, code(coded.one, [query], coded.codes), numbers[full])
        return found

    def read(self, numbers: "Sequence[NDArray[np.int64]]") -> int:  # noqa: ARG002
        """See `_SearchedBlock`: all were read."""
        return 0

    def scores(self, query: "RoundedQuery", numbers: "NDArray[np.int64]") -> "NDArray[np.float64]":
        """See `_SearchedBlock`."""
        return canonical.canonical_scores(query, self.block, numbers, self._longest, self._shortest)
