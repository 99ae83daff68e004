"""Search of a compressed index: `index.candidates` narrows the pool, one scorer decides.

The final score is canonical MaxSim (`reference`) of what remains: of the tokens as rebuilt from
their codes, or, where the token store is at hand, of the stored tokens. So it depends on neither
batch, shards nor threads; and with the store, scores equal those of exact search. Which passages
get that far depends on the settings, and is what `dispatch.audit` measures.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from m2kr.concurrency import workers
from m2kr.errors import UsageError, missing_dependency
from m2kr.ranking import TopK, id_ranks
from m2kr.search.exact import canonical
from m2kr.search.index import candidates
from m2kr.search.index.codec import ScaledCodec
from m2kr.search.index.files import IndexFiles, require_same_passages
from m2kr.search.index.ivf import positions_of, span_offsets
from m2kr.search.store.reader import Block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.search.store.reader import TokenStore


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How wide each step of the search is.

    Attributes:
        probes: Centroids that a query row looks up, on average over its rows.
        candidates: Passages that looking up keeps; a pool of no more skips that step.
        scored: Passages that rebuilt tokens keep, and that get a final score.
    """

    probes: int = 64
    candidates: int = 700
    scored: int = 116

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise UsageError(f"{name} is {value}", expected="at least 1")

    @classmethod
    def suited(cls, k: int, passages: int, nbits: int = 4) -> Self:
        """Widths that lose less than 0.01 of what the codes could find, in `tests/benchmarks`.

        More passages are more rivals: probes grow by the square root of the pool, candidates by its
        power of 0.35. Codes of 8 bits tell more passages apart, so they choose from more of them.

        Args:
            k: Passages a query.
            passages: Of the pool.
            nbits: Of the codes.
        """
        if k < 1:
            raise UsageError(f"k is {k}", expected="at least 1")
        larger = max(1.0, passages / 10_000)
        wanted = (1.2 if nbits == 8 else 1.0) * (700 + 3 * max(0, k - 100))
        return cls(int(64 * larger**0.5), int(wanted * larger**0.35), k + max(16, k // 8))


@dataclass(slots=True)
class CompressedStats:
    """What a search did.

    Attributes:
        settings: Of the search.
        final: What the final scores were made of: ``compressed`` or ``exact``.
        threads: Threads that worked.
        queries: How many, with a row at least.
        left: Passages that each step left, all queries together.
        seconds: Elapsed.
        cpu_seconds: Used by this process meanwhile, all threads together.
    """

    settings: SearchSettings
    final: str
    threads: int
    queries: int = 0
    left: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class CompressedIndex:
    """An opened index with what searches share: centroids in the type that products are fast in.

    Args:
        files: An index of the kind ``compressed``.

    Raises:
        UsageError: it is of the other kind.
        MissingError: torch isn't installed.
    """

    def __init__(self, files: IndexFiles) -> None:
        try:
            import torch
        except ImportError as error:
            raise missing_dependency("torch", "models", "searching a compressed index") from error
        from m2kr.search.index.kmeans import product_dtype

        if not isinstance(files.codec, ScaledCodec):
            raise UsageError(
                f"this index is of the kind '{files.header.kind}'",
                where=str(files.folder),
                expected="one of the kind 'compressed'",
                fix="search it with the official preset, or build another",
            )
        self.files, self.codec = files, files.codec
        self.centroids: torch.Tensor = torch.from_numpy(files.codec.centroids).to(product_dtype())
        self.longest = float(np.sqrt((files.codec.centroids**2).sum(1).max(initial=0.0)))
        self._shards = [(shard.lists, shard.record.passages) for shard in files.shards]

    def __len__(self) -> int:
        return len(self.files)

    def narrow(
        self, query: canonical.RoundedQuery, settings: SearchSettings, ranks: "NDArray[np.int64]"
    ) -> "tuple[NDArray[np.int64], candidates.PackedTokens, dict[str, int]]":
        """The passages to be scored for a query with a row at least; ranks of ids break ties.

        Returns:
            Their numbers, their tokens, and how many passages each step left.
        """
        passages = np.arange(len(self))
        if len(self) > settings.scored:
            look = candidates.centroid_scores(self.centroids, self.longest, query.rows)
        if len(passages) > settings.candidates:
            chosen = candidates.probed_centroids(look, settings.probes)
            passages = candidates.probe_all(chosen, self._shards, ranks, settings.candidates)
        left = {"candidates": len(passages)}
        coded = self.coded(passages)
        if len(passages) > settings.scored:
            found = candidates.refine(look, coded, self.codec)
            kept = candidates.best_places(found, ranks[passages], settings.scored)
            passages, coded = passages[kept], coded.take(kept)
        left["scored"] = len(passages)
        return passages, coded, left

    def coded(self, passages: "NDArray[np.int64]") -> candidates.PackedTokens:
        """The passages' tokens as the index holds them.

        Raises:
            CheckError: a passage's residuals differ from their checksum.
        """
        places = positions_of(self.files.offsets, passages)
        return candidates.PackedTokens(
            self.files.codes[places].astype(np.int64),
            self.files.residuals(passages),
            self.files.sizes[places],
            span_offsets(self.files.offsets[passages + 1] - self.files.offsets[passages]),
        )

    def tokens(self, passages: "NDArray[np.int64]") -> Block:
        """The passages' tokens as rebuilt from their codes, one passage's after another's.

        Raises:
            CheckError: a passage's residuals differ from their checksum.
        """
        return self.decode(self.coded(passages))

    def decode(self, coded: candidates.PackedTokens) -> Block:
        """Tokens rebuilt from their codes."""
        return Block(0, self.codec.decode(coded.codes, coded.packed, coded.sizes), coded.offsets)


def search_compressed(
    queries: "Sequence[NDArray[np.floating]]",
    index: CompressedIndex,
    k: int,
    ranks: "NDArray[np.int64] | None" = None,
    *,
    settings: SearchSettings | None = None,
    store: "TokenStore | None" = None,
    threads: int | None = None,
) -> "tuple[NDArray[np.int64], NDArray[np.float64], CompressedStats]":
    """The best ``k`` passages of every query that the index finds.

    Args:
        queries: One (rows x dim) matrix a query, rounded to float16; all-zero rows are left out.
        index: What to search.
        k: Passages a query.
        ranks: Per passage the rank of its id (`ranking.id_ranks`), which breaks ties; by default that
            of the index's ids.
        settings: `SearchSettings.suited` by default; steps are never narrower than ``k``.
        store: The token store that the index was built from, for exact final scores.
        threads: Queries searched at once; by default as many threads as torch uses.

    Returns:
        Passage numbers and float64 scores, both (queries x min(k, distinct ids)), best first; and
        what it took. Where duplicates of an id crowd the final step, -1 and -inf fill the end.

    Raises:
        InputError: a value is NaN, infinite or too big, or the dims differ.
        CheckError: residuals or stored tokens differ from their checksum.
        UsageError: ``k`` or the settings make no sense, or the store is another pool's.
    """
    import torch

    started, cpu = time.perf_counter(), time.process_time()
    settings = _widened(settings or SearchSettings.suited(k, len(index), index.codec.nbits), k)
    files = index.files
    files.require_whole()
    if store is not None:
        require_same_passages(files, store)
    if ranks is None:
        ranks = id_ranks(files.ids())
    rounded = canonical.rounded_queries(queries, files.header.dim)
    live = [number for number, query in enumerate(rounded) if len(query.rows)]
    threads = threads or torch.get_num_threads()
    best = TopK(len(live), ranks, k)
    stats = CompressedStats(settings, "exact" if store else "compressed", threads, len(live))

    def one(number: int) -> "tuple[NDArray[np.int64], NDArray[np.float64], dict[str, int]]":
        passages, coded, left = index.narrow(rounded[number], settings, ranks)
        block = index.decode(coded) if store is None else stored(store, passages)
        return passages, _rescore(rounded[number], block), left

    with workers(threads) as pool:
        for place, (passages, scores, left) in enumerate(pool.map(one, live)):
            best.push(np.full(len(passages), place), passages, scores)
            for step, count in left.items():
                stats.left[step] = stats.left.get(step, 0) + count
    # A query without rows scores 0 with everything: the tie rule alone ranks the pool.
    _, firsts = np.unique(ranks, return_index=True)
    numbers = np.tile(firsts[:k], (len(queries), 1)).astype(np.int64)
    scores = np.zeros(numbers.shape)
    numbers[live], scores[live] = best.result()
    stats.seconds = time.perf_counter() - started
    stats.cpu_seconds = time.process_time() - cpu
    return numbers, scores, stats


def _rescore(query: canonical.RoundedQuery, block: Block) -> "NDArray[np.float64]":
    """Canonical scores of all passages of a block, given a query with a row at least."""
    import torch

    lengths = torch.from_numpy(block.tokens).float().norm(dim=1).numpy()
    everywhere = np.ones(len(block), np.float32)
    return canonical.canonical_scores(
        query,
        block,
        np.arange(len(block)),
        everywhere * lengths.max(initial=0.0) * np.float32(1.0001),
        everywhere * lengths.min(initial=np.inf),
    )


def _widened(settings: SearchSettings, k: int) -> SearchSettings:
    """The settings with every step at least as wide as ``k``."""
    if k < 1:
        raise UsageError(f"k is {k}", expected="at least 1")
    scored = max(settings.scored, k)
    return replace(settings, scored=scored, candidates=max(settings.candidates, scored))


def stored(store: "TokenStore", passages: "NDArray[np.int64]") -> Block:
    """The passages' tokens as the store holds them."""
    parts = store.take(passages)
    offsets = span_offsets(np.array([len(part) for part in parts], np.int64))
    return Block(0, np.concatenate(parts), offsets)
